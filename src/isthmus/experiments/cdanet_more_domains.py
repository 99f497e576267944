"""CDAnet on more than two domains: users new to Movies or Books of Epinions, of whom other categories know too.

The problems are those of Table 2, with the same test rows; the 25 other categories are one more domain, and each item's
means are adjusted by how generous its users are in all of them. What two domains give stands beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from isthmus.data.dataset import Dataset
from isthmus.data.vocabularies import Vocabulary
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult
from isthmus.evaluation.ranking_references import RankingReference
from isthmus.experiments.cdanet_pair_rows import with_fields
from isthmus.experiments.cdanet_rows import FINE_TUNE, IDS, MAIN, SIMPLE, STATISTICS, all_rows, with_statistics
from isthmus.experiments.cdanet_table_2 import (
    NUM_SPLITS,
    PAIR,
    STATISTICS_OF_NEW_USERS,
    cold_problem,
    default_trials,
    in_words,
    new_table,
)
from isthmus.experiments.ranking_grid import Problem, ReferenceRow, Results, Row, run_grid, tuned

REST = "Other categories"
ON_TWO = " (on two domains)"
CDANET_ADI = "CDAnet+ADI"
HARDEST: RankingReference = "LightGBM, all domains"
ELSEWHERE: RankingReference = "item bias and the user's bias elsewhere"
ON_IDS = ("MMoE", FINE_TUNE, MAIN, CDANET_ADI)
ON_STATISTICS = ("MLP", FINE_TUNE, MAIN, CDANET_ADI)
QUICK_METHODS = (FINE_TUNE, MAIN)
ADJUSTED = ("item_adjusted_mean_own", "item_adjusted_rating_own")
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
    """Search, train and judge every row on three domains, and some on two beside them; gives the path of the table.

    Args:
        data: the folder of the Epinions files.
        quick: one seed and one draw of users, the main rows, with two trials each.
        trials: of each row's search; None: eight, or two where quick; 0: the settings as declared.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    splits, seeds = range(1 if quick else NUM_SPLITS), range(1 if quick else num_seeds)
    draws = [(target, number) for number in splits for target in PAIR]
    wide = [cold_problem(data, out, target, number, say, rest=REST) for target, number in draws]
    pair = [cold_problem(data, out, target, number, say) for target, number in draws]
    trials = default_trials(quick) if trials is None else trials
    kept = out / "cdanet-more-domains"  # its rows and searches have names that Table 2 gives others
    wanted = [row for row in all_rows() if not quick or row.method in QUICK_METHODS]
    on_ids = tuned(
        [row for row in wanted if row.method in ON_IDS], wide[0], kept, trials=trials, say=say, share=SEARCH_SHARE
    )
    fields = (*IDS, *STATISTICS_OF_NEW_USERS)
    informed = tuned(
        informed_rows([row for row in wanted if row.method in ON_STATISTICS], (*fields, *ADJUSTED)),
        *(wide[0], kept),
        trials=trials,
        say=say,
    )
    plain = [with_fields(row, fields, row.method) for row in informed if row.method.startswith((FINE_TUNE, CDANET_ADI))]
    unadjusted = [replace(row, method=row.method + NOT_ADJUSTED) for row in plain]
    wide_rows = [*on_ids, *informed, *unadjusted]
    references = [ReferenceRow(ELSEWHERE, SIMPLE, ELSEWHERE), ReferenceRow(HARDEST, SIMPLE, HARDEST)]
    of_two = run_grid(plain, references, pair, seeds, kept, say)
    results = run_grid(wide_rows, references, wide, seeds, kept, say)
    results |= on_the_same_rows(of_two, pair, wide, results)
    lines = [*wide_rows, *(replace(row, method=row.method + ON_TWO) for row in plain)]
    simple = [*references, *(replace(row, method=row.method + ON_TWO) for row in references)]
    controls = {row.method: HARDEST + ON_TWO for row in lines if row.group == STATISTICS}
    table = new_table(
        "CDAnet on all categories of Epinions: users new to the target domain",
        *(lines, simple, wide, results),
        controls=controls | {HARDEST: HARDEST + ON_TWO},
    )
    notes = (*table.notes, *differences([row.method for row in informed], [row.method for row in plain], wide, results))
    return replace(table, notes=notes).write(kept)


def informed_rows(rows: Sequence[Row], fields: tuple[str, ...]) -> list[Row]:
    """The rows with statistics beside the ids, and a search of their own."""
    return [
        replace(one, search={**row.search, **SLOW_TABLES})
        for row, one in zip(rows, with_statistics(list(rows), fields), strict=True)
    ]


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
    """The rows of a result in the order of another's, whose dataset has the same test rows and knows more items.

    Rows of a user whose items a dataset does not know cannot be told apart in it: they have the same score there.
    """

    def renumbered(rows: Tensor, vocabulary: str) -> np.ndarray:
        known = Vocabulary(pa.array(own.vocabulary(vocabulary), pa.string()))
        every = known.rows(pa.array(["", *other.vocabulary(vocabulary)], pa.string()))
        found: np.ndarray = every[rows.numpy()]
        return found

    wanted = [like.label.numpy(), renumbered(like.item_row, "item"), renumbered(like.user_row, "user")]
    held = [result.label.numpy(), result.item_row.numpy(), result.user_row.numpy()]
    order, place = np.lexsort(wanted), np.lexsort(held)
    assert all(np.array_equal(a[order], b[place]) for a, b in zip(wanted, held, strict=True)), "test rows differ"
    taken = np.empty_like(place)
    taken[order] = place
    return result.select(torch.from_numpy(taken))


def differences(full: Sequence[str], plain: Sequence[str], problems: Sequence[Problem], results: Results) -> list[str]:
    """Paired tests beside the table's own, in words.

    Args:
        full: methods with all statistics, on all categories.
        plain: those that were also trained without adjusted means, and without these on two domains.
    """
    asked = [
        *((method, HARDEST, "auc") for method in full),
        *((method, HARDEST + ON_TWO, "grouped_auc") for method in (HARDEST, *full)),
        *((method, method + NOT_ADJUSTED, metric) for method in plain for metric in ("auc", "grouped_auc")),
        *((method + NOT_ADJUSTED, method + ON_TWO, "auc") for method in plain),
    ]
    return [
        f"{method}, less {control}, {metric}: {in_words(method, control, problems, results, metric=metric)}."
        for method, control, metric in asked
    ]
