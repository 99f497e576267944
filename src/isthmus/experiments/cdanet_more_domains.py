"""CDAnet on more than two domains: users and rows of Movies and Books of Epinions, of whom other categories know too.

The problems are those of Table 2, with the same test rows; the 25 other categories are one more domain, an item's means
are adjusted by how generous its users are in all of them, a user's by what his items usually get. What two domains give
stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from isthmus.data.dataset import Dataset
from isthmus.data.vocabularies import Vocabulary
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult
from isthmus.experiments.cdanet_pair_rows import with_fields
from isthmus.experiments.cdanet_rows import (
    BIASES,
    ELSEWHERE,
    FAIR_TREES,
    FINE_TUNE,
    IDS,
    JOINT,
    MAIN,
    SIMPLE,
    STATISTICS,
    TREES,
    all_rows,
    with_statistics,
)
from isthmus.experiments.cdanet_table_2 import (
    NUM_SPLITS,
    PAIR,
    STATISTICS_OF_ALL,
    STATISTICS_OF_NEW_USERS,
    cold_problem,
    default_trials,
    in_words,
    new_table,
    random_problem,
)
from isthmus.experiments.ranking_grid import Problem, ReferenceRow, Results, Row, run_grid, tuned

REST = "Other categories"
ON_TWO = " (on two domains)"
TOGETHER = ", its seeds together"
CDANET_ADI = "CDAnet+ADI"
ALL_JOINT = "baselines on all domains"
ON_IDS = ("MMoE", FINE_TUNE, MAIN, CDANET_ADI)
ON_STATISTICS = ("MLP", FINE_TUNE, MAIN, CDANET_ADI)
ON_RANDOM_ROWS = ("MLP", FINE_TUNE, MAIN)
QUICK_METHODS = (FINE_TUNE, MAIN)
ADJUSTED = {
    f"{of}, {scope}": (f"{of}_adjusted_mean_{scope}", f"{of}_adjusted_rating_{scope}")
    for of, scope in (("user", "own"), ("user", "other"), ("item", "own"))
}
ADJUSTED_OF_NEW_USERS = (*ADJUSTED["user, other"], *ADJUSTED["item, own"])
ADJUSTED_OF_ALL = (*ADJUSTED["user, own"], *ADJUSTED_OF_NEW_USERS)
NOT_ADJUSTED = ", no adjusted means"
SEARCH_SHARE = 0.25  # of the training rows, in the searches on ids: some 230,000, as many as two domains have
# Statistics must not be drowned by what ids learn of users who have rows in the target: tables may learn far slower.
SLOW_TABLES = {"training.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}


def reproduce(
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool = False,
    trials: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Search, train and judge every row on three domains, and some on two beside them, for users new to the target and
    for random rows; gives the path of the first table.

    Args:
        data: the folder of the Epinions files.
        quick: one seed and one split of each, the main rows, with two trials each.
        trials: of each row's search; None: eight, or two where quick; 0: the settings as declared.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    splits, seeds = range(1 if quick else NUM_SPLITS), range(1 if quick else num_seeds)
    trials = default_trials(quick) if trials is None else trials
    wanted = [row for row in all_rows() if not quick or row.method in QUICK_METHODS]
    kept = out / "cdanet-more-domains"  # its rows and searches have names that Table 2 gives others
    draws = [(target, number) for number in splits for target in PAIR]
    plan = Plan(wanted, seeds, kept, trials, say)
    report = new_users(
        plan,
        [cold_problem(data, out, target, number, say) for target, number in draws],
        [cold_problem(data, out, target, number, say, rest=REST) for target, number in draws],
    )
    random_rows(
        replace(plan, out=kept / "random-rows"),
        [random_problem(data, out, number, say) for number in splits],
        [random_problem(data, out, number, say, rest=REST) for number in splits],
        share=SEARCH_SHARE if quick else 1.0,
    )
    return report


@dataclass(frozen=True)
class Plan:
    """What is run on a kind of problem: rows and seeds, where they are kept, and trials of each row's search."""

    rows: Sequence[Row]
    seeds: Sequence[int]
    out: Path
    trials: int
    say: Callable[[str], None]


def new_users(plan: Plan, pair: Sequence[Problem], wide: Sequence[Problem]) -> Path:
    """Users who are new to the target, on two domains (`pair`) and on all categories (`wide`)."""
    wanted, seeds, out, trials, say = plan.rows, plan.seeds, plan.out, plan.trials, plan.say
    on_ids = [replace(row, group=ALL_JOINT) if row.group == JOINT else row for row in wanted if row.method in ON_IDS]
    on_ids = tuned(on_ids, wide[0], out, trials=trials, say=say, share=SEARCH_SHARE)
    fields = (*IDS, *STATISTICS_OF_NEW_USERS)
    informed = informed_rows([row for row in wanted if row.method in ON_STATISTICS], (*fields, *ADJUSTED_OF_NEW_USERS))
    informed = tuned(informed, wide[0], out, trials=trials, say=say)
    plain = [with_fields(row, fields, row.method) for row in informed if row.method.startswith((FINE_TUNE, CDANET_ADI))]
    unadjusted = [replace(row, method=row.method + NOT_ADJUSTED) for row in plain]
    rows = [*on_ids, *informed, *unadjusted]
    references = [ReferenceRow(name, SIMPLE, name) for name in (ELSEWHERE, TREES, FAIR_TREES)]
    of_two = run_grid(plain, references, pair, seeds, out, say)
    results = run_grid(rows, references, wide, seeds, out, say)
    results |= on_the_same_rows(of_two, pair, wide, results) | together(informed, results)
    joined = [replace(row, method=row.method + TOGETHER) for row in informed if len(seeds) > 1]
    lines = [*rows, *(replace(row, method=row.method + ON_TWO) for row in plain), *joined]
    simple = [*references, *(replace(row, method=row.method + ON_TWO) for row in references)]
    controls = {row.method: FAIR_TREES + ON_TWO for row in lines if row.group == STATISTICS}
    table = new_table(
        "CDAnet on all categories of Epinions: users new to the target domain",
        *(lines, simple, wide, results),
        controls=controls | {TREES: TREES + ON_TWO, FAIR_TREES: FAIR_TREES + ON_TWO},
    )
    full, few = [row.method for row in (*informed, *joined)], [row.method for row in plain]
    asked = [
        *((method, control, "auc") for method in full for control in (FAIR_TREES, TREES, TREES + ON_TWO)),
        *((method, FAIR_TREES + ON_TWO, "grouped_auc") for method in (FAIR_TREES, *full)),
        *((method, method + NOT_ADJUSTED, metric) for method in few for metric in ("auc", "grouped_auc")),
        *((method + NOT_ADJUSTED, method + ON_TWO, "auc") for method in few),
        *((method + ON_TWO, FAIR_TREES + ON_TWO, "auc") for method in few),
        (FAIR_TREES, TREES, "auc"),
        (FAIR_TREES + ON_TWO, TREES + ON_TWO, "auc"),
    ]
    return replace(table, notes=(*table.notes, *notes_on(joined), *differences(asked, wide, results))).write(out)


def random_rows(plan: Plan, pair: Sequence[Problem], wide: Sequence[Problem], *, share: float) -> Path:
    """Random rows of users who have others in the target; of two domains only what simple methods make.

    Args:
        share: of the training rows, the share that trials are trained on.
    """
    seeds, out, say = plan.seeds, plan.out, plan.say
    informed = informed_rows(
        [row for row in plan.rows if row.method in ON_RANDOM_ROWS], (*IDS, *STATISTICS_OF_ALL, *ADJUSTED_OF_ALL)
    )
    informed = tuned(informed, wide[0], out, trials=plan.trials, say=say, share=share)
    references = [ReferenceRow(name, SIMPLE, name) for name in (BIASES, TREES)]
    of_two = run_grid([], references, pair, seeds, out, say)
    results = run_grid(informed, references, wide, seeds, out, say)
    results |= on_the_same_rows(of_two, pair, wide, results) | together(informed, results)
    joined = [replace(row, method=row.method + TOGETHER) for row in informed if len(seeds) > 1]
    simple = [*references, replace(references[1], method=TREES + ON_TWO)]
    methods = [TREES, *(row.method for row in (*informed, *joined))]
    table = new_table(
        "CDAnet on all categories of Epinions: random rows",
        *([*informed, *joined], simple, wide, results),
        controls=dict.fromkeys((BIASES, TREES + ON_TWO, *methods), TREES + ON_TWO),
    )
    main = f"{MAIN}, statistics"
    asked = [
        *((method, TREES, metric) for method in methods[1:] for metric in ("auc", "grouped_auc")),
        *((method, TREES + ON_TWO, "grouped_auc") for method in methods),
        (main, f"{FINE_TUNE}, statistics", "auc"),
    ]
    return replace(table, notes=(*table.notes, *notes_on(joined), *differences(asked, wide, results))).write(out)


def informed_rows(rows: Sequence[Row], fields: tuple[str, ...]) -> list[Row]:
    """The rows with statistics beside the ids, and a search of their own."""
    return [
        replace(one, search={**row.search, **SLOW_TABLES})
        for row, one in zip(rows, with_statistics(list(rows), fields), strict=True)
    ]


def together(rows: Sequence[Row], results: Results) -> Results:
    """The seeds of a row as one model: the mean of their log-odds, under a name that says so; none of a single seed."""
    names = {row.method for row in rows}
    return {
        (method + TOGETHER, problem, target): [
            replace(found[0], logit=torch.stack([each.logit for each in found]).mean(dim=0))
        ]
        for (method, problem, target), found in results.items()
        if method in names and len(found) > 1
    }


def notes_on(joined: Sequence[Row]) -> list[str]:
    return [f"'{TOGETHER.removeprefix(', ')}': the mean of their log-odds, as one model."] if joined else []


def on_the_same_rows(of_two: Results, pair: Sequence[Problem], wide: Sequence[Problem], of_three: Results) -> Results:
    """What two domains gave, row by row beside what three did and under a name that says so."""
    renamed: Results = {}
    for few, many in zip(pair, wide, strict=True):
        own, other = Dataset.open(few.dataset), Dataset.open(many.dataset)
        for (method, problem, target), found in of_two.items():
            if problem == few.name:
                like = next(results[0] for key, results in of_three.items() if key[1:] == (many.name, target))
                renamed[method + ON_TWO, many.name, target] = [in_order_of(like, other, one, own) for one in found]
    return renamed


def in_order_of(like: RankingResult, other: Dataset, result: RankingResult, own: Dataset) -> RankingResult:
    """The scores of a result beside the rows of another's, whose dataset has the same test rows and knows more of them.

    Rows of a user whose items a dataset does not know cannot be told apart in it: they have the same score there. Who a
    row's user is, the dataset says that knows more; users whom the other does not know are 0 to it, and to the order.
    """

    def renumbered(rows: Tensor, vocabulary: str) -> np.ndarray:
        known = Vocabulary(pa.array(own.vocabulary(vocabulary), pa.string()))
        every = known.rows(pa.array(["", *other.vocabulary(vocabulary)], pa.string()))
        found: np.ndarray = every[vocabulary_rows(rows, len(every))]
        return found

    wanted = [like.label.numpy(), renumbered(like.item_row, "item"), renumbered(like.user_row, "user")]
    held = [result.label.numpy(), result.item_row.numpy(), vocabulary_rows(result.user_row, own.num_users)]
    order, place = np.lexsort(wanted), np.lexsort(held)
    assert all(np.array_equal(a[order], b[place]) for a, b in zip(wanted, held, strict=True)), "test rows differ"
    taken = np.empty_like(place)
    taken[order] = place
    return replace(like, logit=result.logit[torch.from_numpy(taken)])


def vocabulary_rows(numbers: Tensor, num_rows: int) -> np.ndarray:
    """Rows of a vocabulary; 0 for the numbers of users who are in none."""
    return torch.where(numbers < num_rows, numbers, 0).numpy()


def differences(asked: Sequence[tuple[str, str, str]], problems: Sequence[Problem], results: Results) -> list[str]:
    """Paired tests beside the table's own, in words: of a method less a control, in a metric."""
    return [
        f"{method}, less {control}, {metric}: {in_words(method, control, problems, results, metric=metric)}."
        for method, control, metric in asked
    ]
