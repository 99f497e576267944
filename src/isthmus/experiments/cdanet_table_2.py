"""CDAnet Tables 2 and 7 on Epinions: users new to the target domain, and seeded random rows.

Settings are searched once, on one seed and the validation rows of one problem, with the same number of trials for every
row. Test rows are read by finished models only. Each finished (row, problem, seed) is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isthmus.data.dataset import Dataset
from isthmus.data.public.epinions import ingest_epinions
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult, ranking_metrics
from isthmus.evaluation.ranking_summary import paired, resampled
from isthmus.experiments.cdanet_rows import (
    ALL_ROWS_REFERENCES,
    BIASES,
    ELSEWHERE,
    FAIR_TREES,
    FINE_TUNE,
    IDS,
    MAIN,
    NEW_USERS_REFERENCES,
    TREES,
    ablation_rows,
    all_rows,
    first_order,
    with_first_order,
    with_statistics,
)
from isthmus.experiments.kept_dataset import kept_dataset
from isthmus.experiments.ranking_grid import Problem, ReferenceRow, Results, Row, chosen, run_grid, tuned
from isthmus.experiments.table import Table, TableRow

PAIR = ("Movies", "Books")
NUM_SPLITS = 3
COLD_SHARE = {"valid": 0.1, "test": 0.2}
STATISTICS = {
    f"{of}, {scope}": tuple(f"{of}_{value}_{scope}" for value in ("mean", "rating", "count"))
    for of, scope in (("user", "own"), ("user", "other"), ("item", "own"))
}
# Users who are new to the target have no rows of their own there: rows of others that do would teach a model to lean
# on what it will not have.
STATISTICS_OF_NEW_USERS = (*STATISTICS["user, other"], *STATISTICS["item, own"])
STATISTICS_OF_ALL = (*STATISTICS["user, own"], *STATISTICS_OF_NEW_USERS)
WITH_STATISTICS = ("MLP", "MMoE", FINE_TUNE, MAIN, "CDAnet+ADI")
QUICK_ROWS = ("MLP", "MMoE", FINE_TUNE, MAIN)
TRIALS, QUICK_TRIALS = 8, 2
NUM_RESAMPLES = 400


def reproduce(
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool = False,
    ablations: bool = False,
    trials: int | None = None,
    methods: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Search, train and judge every row, and write a table a protocol; gives the path of the first.

    Args:
        data: the folder of the Epinions files.
        quick: one seed and split of the main rows, with two trials each.
        ablations: CDAnet without each of its parts instead of all methods.
        trials: of each row's search; None: eight, or two where quick; 0: the settings as declared.
        methods: only these, with first-order weights and statistics too, and the control; None: all.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    splits = range(1 if quick else NUM_SPLITS)
    seeds = range(1 if quick else num_seeds)
    wanted = chosen([row for row in all_rows() if not quick or row.method in QUICK_ROWS], methods, FINE_TUNE)
    cold = [cold_problem(data, out, target, number, say) for number in splits for target in PAIR]
    random = [random_problem(data, out, number, say) for number in splits]
    if ablations:
        wanted = [row for row in wanted if row.method in (FINE_TUNE, MAIN)]
    trials = default_trials(quick) if trials is None else trials
    rows = tuned(wanted, cold[0], out, trials=trials, say=say)
    linear: list[Row] = []
    if ablations:
        rows += ablation_rows(next(row for row in rows if row.method == MAIN))
    else:
        found = [row for row in rows if row.method in WITH_STATISTICS]
        linear = with_first_order([row for row in rows if not quick or row.method == FINE_TUNE])
        linear = tuned(linear, cold[0], out, trials=trials, say=say)
    name = "CDAnet Table 7" if ablations else "CDAnet Table 2"
    reports = []
    for protocol, problems, statistics, references, hardest, biases in (
        ("users new to the target domain", cold, STATISTICS_OF_NEW_USERS, NEW_USERS_REFERENCES, FAIR_TREES, ELSEWHERE),
        ("random rows", random, STATISTICS_OF_ALL, ALL_ROWS_REFERENCES, TREES, BIASES),
    ):
        informed = [] if ablations else with_statistics(found, (*IDS, *statistics))
        every = [*rows, *linear, *informed]
        results = run_grid(every, references, problems, seeds, out, say)
        controls = {row.method: hardest for row in informed} | {row.method: biases for row in linear}
        title = f"{name} on Epinions: {protocol}"
        table = new_table(title, every, references, problems, results, controls=controls)
        table = replace(table, notes=(*table.notes, *notes_on_first_order(linear, problems, results)))
        folder = out / name.lower().replace(" ", "-") / protocol.replace(" ", "-")
        reports.append(table.write(folder))
    return reports[0]


def notes_on_first_order(rows: Sequence[Row], problems: Sequence[Problem], results: Results) -> list[str]:
    """What first-order weights bring to a row, and CDAnet's rows with them beside the control that has them too."""
    with_them = [row.method for row in rows]
    asked = [(method, method.removesuffix(first_order(""))) for method in with_them]
    asked += [(one, first_order(FINE_TUNE)) for one in with_them if one.startswith("CDAnet")]
    differences = [f"{one}, less {control}: {in_words(one, control, problems, results)}." for one, control in asked]
    searched = ["Rows with first-order weights had as many trials again, for the rates of these and of the tables."]
    return [*differences, *(searched if rows else [])]


def cold_problem(
    data: Path, out: Path, target: str, number: int, say: Callable[[str], None], *, rest: str | None = None
) -> Problem:
    """Users of the other domain who are new to the target; which users depends on the number.

    Args:
        rest: the name of one more domain, which is all other categories; the test rows stay as they are.
    """
    source = next(name for name in PAIR if name != target)
    split = {"by": "cold_users", "domain": target, "source": source, "seed": number, **COLD_SHARE}
    name = f"cold-{target}-{number}" if rest is None else f"cold-all-categories-{target}-{number}"
    return Problem(name, prepared(data, out, name, split, say, rest=rest), (target,))


def random_problem(
    data: Path, out: Path, number: int, say: Callable[[str], None], *, rest: str | None = None
) -> Problem:
    """Random rows of both domains, 8:1:1.

    Args:
        rest: as of `cold_problem`.
    """
    name = f"random-{number}" if rest is None else f"random-all-categories-{number}"
    return Problem(name, prepared(data, out, name, {"by": "random", "seed": number}, say, rest=rest), PAIR)


def prepared(
    data: Path, out: Path, name: str, split: dict[str, Any], say: Callable[[str], None], *, rest: str | None = None
) -> Path:
    """The dataset of a problem, prepared in the output folder unless it is there."""

    def write_log(log: Path) -> Path:
        adjusted = rest is not None
        return ingest_epinions(data, log, domains=PAIR, rest=rest, split=split, statistics=True, adjusted=adjusted)

    return kept_dataset(out, name, write_log, say)


def new_table(
    title: str,
    rows: Sequence[Row],
    references: Sequence[ReferenceRow],
    problems: Sequence[Problem],
    results: Results,
    *,
    controls: Mapping[str, str] = {},
) -> Table:
    """A line a method; a column a target, its values means over splits and seeds.

    Args:
        controls: by method, the method that its paired test is against; for all others, the control without a
            translator.
    """
    lines = []
    named = [(one.method, one.group) for one in references] + [(one.method, one.group) for one in rows]
    for method, group in named:
        control = controls.get(method, FINE_TUNE)
        against = "" if method == control else in_words(method, control, problems, results)
        against += f" (against {control})" if against and control != FINE_TUNE else ""
        lines.append(TableRow(method, group, by_target(method, problems, results), 0, {}, against))
    num_splits = len({problem.name.rsplit("-", 1)[1] for problem in problems})
    return Table(
        title=title,
        domains=PAIR,
        main_metric="auc",
        macro_metrics=("grouped_auc", "log_loss", "calibration_error"),
        rows=tuple(lines),
        notes=(
            f"{num_splits} split{'' if num_splits == 1 else 's'}; mean ± standard deviation over splits and seeds"
            f"{'.' if num_splits == 1 else ', so the spread is mostly of splits.'}",
            "grouped_auc: of each user's test rows, weighted by their number; users with one label only are left out.",
            f"Paired test: macro AUC less that of '{FINE_TUNE}', where no other is named, mean over splits and seeds; "
            f"95 % interval and two-sided p from {NUM_RESAMPLES} resamplings of the users.",
            "Every network had the same number of trials, on validation rows of the first split of the first target.",
        ),
    )


def by_target(method: str, problems: Sequence[Problem], results: Results) -> list[dict[str, dict[str, float]]]:
    """For each split and seed, each target's metrics."""
    values: dict[str, list[dict[str, float]]] = {target: [] for target in PAIR}
    for problem in problems:
        for target in problem.targets:
            for result in results[method, problem.name, target]:
                values[target].append(metrics_of(result))
    return [dict(zip(PAIR, each, strict=True)) for each in zip(*(values[target] for target in PAIR), strict=True)]


def metrics_of(result: RankingResult) -> dict[str, float]:
    """The metrics of rows of one domain."""
    alone = RankingResult(**(vars(result) | {"domain": torch.zeros_like(result.domain)}))
    return ranking_metrics(alone, ("target",))["target"]


def in_words(method: str, control: str, problems: Sequence[Problem], results: Results, *, metric: str = "auc") -> str:
    """The difference of a macro metric to the control's, its interval, and whether it is told apart from 0.

    A user is drawn with all his rows, in every target and every split that he is in: they vary together.
    """
    parts: list[RankingResult] = []
    logits: list[list[torch.Tensor]] = []
    users: dict[str, int] = {}
    differences: list[float] = []
    for problem in problems:
        for target in problem.targets:
            ours, theirs = results[method, problem.name, target], results[control, problem.name, target]
            number, user = torch.full_like(ours[0].domain, len(parts)), ours[0].user_row
            if len(problems) > 1:
                user = one_number_a_user(user, problem, users)
            parts.append(replace(ours[0], domain=number, user_row=user))
            logits.append([one.logit for one in [*ours, *theirs]])
            value = [sum(metrics_of(one)[metric] for one in part) / len(part) for part in (ours, theirs)]
            differences.append(value[0] - value[1])
    drawn = resampled(
        [torch.cat(of_parts) for of_parts in zip(*logits, strict=True)],
        RankingResult(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])}),
        [str(number) for number in range(len(parts))],
        num_resamples=NUM_RESAMPLES,
        metrics=(metric,),
    )[metric]
    num_ours = len(results[method, problems[0].name, problems[0].targets[0]])
    samples = torch.stack(drawn[:num_ours]).mean(0) - torch.stack(drawn[num_ours:]).mean(0)
    difference = paired(sum(differences) / len(differences), samples)
    interval = difference.difference
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}], p {difference.p_value:.3f}"


def one_number_a_user(user_row: torch.Tensor, problem: Problem, users: dict[str, int]) -> torch.Tensor:
    """Numbers from 1 by which users of several problems are the same where their ids are; `users` is added to.

    Whom a problem's training does not know has a number above its vocabulary and no id, and is a user of his own there.
    """
    known = vocabulary_of(problem.dataset)
    rows, place = torch.unique(user_row, return_inverse=True)
    names = [known[row - 1] if 0 < row <= len(known) else f"{problem.name}\x00{row}" for row in rows.tolist()]
    return torch.tensor([users.setdefault(name, len(users) + 1) for name in names])[place]


@cache
def vocabulary_of(dataset: Path) -> Sequence[str]:
    """The ids of the users of a prepared dataset, read once."""
    return Dataset.open(dataset).vocabulary("user")


def default_trials(quick: bool) -> int:
    """How many settings are tried for each row."""
    return QUICK_TRIALS if quick else TRIALS
