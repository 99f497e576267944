"""CDAnet Table 2 on pairs of Amazon categories, whose logs hold purchases alone: what the drawn negatives decide.

Grocery and Kitchen have a clock. Their headline protocol draws negatives from other purchases of the same days, so that
popularity says nothing and what exceeds .5 is personal; the paper's own way, uniform draws, stands beside it and is
named for what it is. The other two pairs have no common clock. Movie's and Book's negatives are other positives of the
same split, for many of the last purchases are of new items; on random rows of books and movies hardly any is, and
negatives are drawn by training popularity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from isthmus.data.dataset import Dataset
from isthmus.data.public.amazon_pairs import ingest_grocery_kitchen, ingest_kg_books_movies, ingest_movie_book
from isthmus.errors import InputError
from isthmus.experiments.cdanet_pair_rows import (
    ANOTHER_GROUP,
    BOTH,
    BOTH_FIELDS,
    CONTROLLED,
    KNN,
    OWN,
    PERMUTATION_SEED,
    QUICK_CONTROLLED,
    QUICK_METHODS,
    TEXT_KNN,
    Pair,
    another_users,
    literal_rows,
    pair_rows,
    references,
    with_another_users_own_history,
)
from isthmus.experiments.cdanet_rows import FINE_TUNE, SIMPLE
from isthmus.experiments.cdanet_table_2 import NUM_RESAMPLES, in_words, metrics_of
from isthmus.experiments.kept_dataset import kept_dataset
from isthmus.experiments.ranking_grid import Problem, ReferenceRow, Results, Row, chosen, run_grid, tuned
from isthmus.experiments.table import Table, TableRow

LITERAL = "literal"
TRIALS = 8
QUICK_EPOCHS = 12
UNIFORM = {"draw": "uniform", "items": "all", "per_positive": 5}
INGEST = {
    "grocery_kitchen": ingest_grocery_kitchen,
    "movie_book": ingest_movie_book,
    "kg_books_movies": ingest_kg_books_movies,
}
TITLES = {
    "grocery_kitchen": "Amazon Grocery and Kitchen: time-matched negatives",
    "movie_book": "Amazon Movie and Book: users' last purchases, negatives of the same split",
    "kg_books_movies": "Amazon Books and Movies: random rows, negatives by popularity",
}


def pair_in(data: Path) -> Pair | None:
    """Which pair's files a folder holds; None: Epinions'.

    Raises:
        InputError: the folder holds the files of none.
    """
    held = {file.name for file in data.iterdir()} if data.is_dir() else set()
    if "ratings.parquet" in held or "rating.mat" in held:
        return None
    if {"events.parquet", "movie_titles.parquet"} <= held:
        return "movie_book"
    if {"events.parquet", "titles.parquet"} <= held:
        return "grocery_kitchen"
    if held & {"Books.inter", "Books.inter.tsv"}:
        return "kg_books_movies"
    raise InputError(
        f"{data}: holds none of what Table 2 is made on; give the folder of ratings.parquet or rating.mat (Epinions), "
        "of events.parquet with titles.parquet (grocery and kitchen) or with movie_titles.parquet (movies and books), "
        "or of Books.inter and Movies_and_TV.inter"
    )


def reproduce(
    pair: Pair,
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool = False,
    trials: int | None = None,
    methods: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Search, train and judge every row, and write a table a protocol; gives the path of the first.

    Args:
        data: the folder of the pair's files.
        quick: one seed of the main rows with the declared settings, not searched, and few epochs.
        trials: of each row's search; None: eight, or none where quick; 0: the settings as declared.
        methods: only these and the control; None: all.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    seeds = range(1 if quick else num_seeds)
    rows = chosen([row for row in pair_rows(pair) if not quick or row.method in QUICK_METHODS], methods, FINE_TUNE)
    problem = new_problem(pair, data, out, "matched", None, say)
    if quick:
        rows = [shortened(row) for row in rows]
    trials = default_trials(quick) if trials is None else trials
    # On all rows: on a share of them products of fields have fewer steps to grow in, and trials end before they do.
    rows = tuned(rows, problem, out, trials=trials, say=say)
    has_clock = pair == "grocery_kitchen"
    simple = references(has_clock=has_clock)
    unlike = [
        replace(row, method=another_users(OWN), group=ANOTHER_GROUP, judge=with_another_users_own_history)
        for row in rows
        if row.method == OWN
    ]
    results = run_grid([*rows, *unlike], simple, [problem], seeds, out, say)
    others: list[Row] = []
    if has_clock:
        controlled = QUICK_CONTROLLED if quick else CONTROLLED
        # A row whose search chose own histories alone reads nothing that could be another user's.
        others = [row for row in rows if row.method in controlled and row.settings.ranking.fields == BOTH_FIELDS]
        results |= run_others(others, problem, data, out, seeds, say)
    table = new_table(f"CDAnet Table 2 on {TITLES[pair]}", [*rows, *unlike], others, simple, problem, results)
    report = table.write(out / "cdanet-table-2" / pair.replace("_", "-"))
    if has_clock:
        literal = new_problem(pair, data, out, LITERAL, UNIFORM, say)
        simple = [*references(has_clock=True), ReferenceRow("LightGBM, own domain", SIMPLE, "LightGBM, own domain")]
        rows = literal_rows(rows)
        results = run_grid(rows, simple, [literal], seeds, out, say)
        title = "CDAnet Table 2 on Amazon Grocery and Kitchen: paper-literal, uniform negatives, does not measure taste"
        new_table(title, rows, [], simple, literal, results).write(out / "cdanet-table-2" / "paper-literal")
    return report


def shortened(row: Row) -> Row:
    """A row of few epochs."""
    training = row.settings.training.model_copy(update={"epochs": QUICK_EPOCHS})
    return replace(row, settings=row.settings.model_copy(update={"training": training}))


def new_problem(
    pair: Pair, data: Path, out: Path, name: str, negatives: Mapping[str, Any] | None, say: Callable[[str], None]
) -> Problem:
    """Both directions of a pair, prepared in the output folder unless they are there."""
    folder = kept_dataset(out, name, lambda log: INGEST[pair](data, log, negatives=negatives), say)
    return Problem(name, folder, Dataset.open(folder).schema.domain_names)


def run_others(
    rows: Sequence[Row], problem: Problem, data: Path, out: Path, seeds: Sequence[int], say: Callable[[str], None]
) -> Results:
    """The rows where the source's history is that of another user, judged on the same test rows of each target."""
    results: Results = {}
    for target in problem.targets:
        source = next(name for name in problem.targets if name != target)
        other = another_users_problem(problem, data, out, source, target, say)
        for (method, _, _), found in run_grid(rows, [], [other], seeds, out, say).items():
            results[another_users(method), problem.name, target] = found
    return results


def another_users_problem(
    problem: Problem, data: Path, out: Path, source: str, target: str, say: Callable[[str], None]
) -> Problem:
    """The target's rows as they are, beside a source whose users are permuted: no user is the same in both."""
    name = f"another-users-{source}"

    def write_log(folder: Path) -> Path:
        log = ingest_grocery_kitchen(data, folder)
        file = log.parent / "events.parquet"
        known = training_users(Dataset.open(problem.dataset), source)
        pq.write_table(permuted(pq.read_table(file), source, known), file)
        return log

    return Problem(name, kept_dataset(out, name, write_log, say), (target,))


def training_users(dataset: Dataset, domain: str) -> set[str]:
    """Ids of the users with a training positive in a domain."""
    train = dataset.events["train"]
    rows = np.unique(train.user_row[train.domain == dataset.schema.domain_number(domain)])
    names = ["", *dataset.vocabulary("user")]
    return {names[row] for row in rows.tolist()}


def permuted(events: pa.Table, domain: str, in_training: set[str]) -> pa.Table:
    """The events, those of one domain under another user's id, by one seeded permutation of that domain's users.

    Users with training positives there change among themselves, as do the others, so that training knows the same users
    as before. Nobody keeps his own id where a group has two users or more.
    """
    users, domains = events["user_id"].to_pylist(), events["domain"].to_pylist()
    ours = sorted({user for user, own in zip(users, domains, strict=True) if own == domain})
    rng = np.random.default_rng(PERMUTATION_SEED)
    other: dict[str, str] = {}
    for group in ([u for u in ours if u in in_training], [u for u in ours if u not in in_training]):
        order = [group[place] for place in rng.permutation(len(group))]
        other |= dict(zip(order, order[1:] + order[:1], strict=True))
    renamed = [other[user] if own == domain else user for user, own in zip(users, domains, strict=True)]
    return events.set_column(events.column_names.index("user_id"), "user_id", pa.array(renamed, pa.string()))


def new_table(
    title: str,
    rows: Sequence[Row],
    others: Sequence[Row],
    simple: Sequence[ReferenceRow],
    problem: Problem,
    results: Results,
) -> Table:
    """A line a method, tested against the control without a translator; what histories bring stands in the notes."""
    named = [
        *((one.method, one.group) for one in simple),
        *((one.method, one.group) for one in rows),
        *((another_users(one.method), ANOTHER_GROUP) for one in others),
    ]
    lines = [
        TableRow(
            method,
            group,
            by_target(method, problem, results),
            0,
            {},
            "" if method == FINE_TUNE else in_words(method, FINE_TUNE, [problem], results),
        )
        for method, group in named
    ]
    notes = [
        f"Paired test: macro AUC less that of '{FINE_TUNE}'; 95 % interval and two-sided p from {NUM_RESAMPLES} "
        "resamplings of the users. One seed has no spread over seeds.",
        *(
            f"{one.method}, less the same with another user's history of the source: "
            f"{difference(one.method, another_users(one.method), problem, results)}."
            for one in others
        ),
    ]
    methods = {row.method for row in rows}
    if OWN in methods:
        notes += [f"{OWN}, less {knn}: {difference(OWN, knn, problem, results)}." for knn in (KNN, TEXT_KNN)]
        unlike = difference(OWN, another_users(OWN), problem, results)
        notes.append(f"{OWN}, less the same model reading another user's history in the domain: {unlike}.")
    if {OWN, BOTH} <= methods:
        notes.append(f"{BOTH}, less {OWN}: {difference(BOTH, OWN, problem, results)}.")
    if problem.name == LITERAL:
        notes.append("Paper-literal: does not measure taste. New items are many of the positives and few negatives.")
    return Table(
        title, problem.targets, "auc", ("grouped_auc", "log_loss", "calibration_error"), tuple(lines), tuple(notes)
    )


def difference(method: str, control: str, problem: Problem, results: Results) -> str:
    """The difference of two methods' macro AUC, after making sure that they are judged on the same rows."""
    for target in problem.targets:
        ours, theirs = results[method, problem.name, target][0], results[control, problem.name, target][0]
        assert torch.equal(ours.user_row, theirs.user_row), "test rows differ"
        assert torch.equal(ours.item_row, theirs.item_row), "test rows differ"
        assert torch.equal(ours.label, theirs.label), "test rows differ"
    return in_words(method, control, [problem], results)


def by_target(method: str, problem: Problem, results: Results) -> list[dict[str, dict[str, float]]]:
    """For each seed, each target's metrics."""
    values = [[metrics_of(one) for one in results[method, problem.name, target]] for target in problem.targets]
    return [dict(zip(problem.targets, each, strict=True)) for each in zip(*values, strict=True)]


def default_trials(quick: bool) -> int:
    """How many settings are tried for each row."""
    return 0 if quick else TRIALS
