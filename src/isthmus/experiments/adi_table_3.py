"""ADI Table 3 on the WSDM Cup 2022 cross-market data: every method of the paper, what ADI's parts bring, and the simple
methods that they have to beat.

Everything that could be chosen was chosen on validation rows carved out of training; the test lists are read once, by
finished models. Each finished (row, seed) is kept, so that an interrupted reproduction goes on where it stopped.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Literal, assert_never, get_args

import torch

from isthmus.api import train
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.data.public.xmrec import ingest_xmrec
from isthmus.errors import InputError
from isthmus.evaluation.compare import Compared, compare
from isthmus.evaluation.reference_rows import ReferenceScorer, popularity_by_domain, training_interactions
from isthmus.evaluation.references import Reference, fit_ease, fit_item_knn
from isthmus.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from isthmus.evaluation.summary import SavedResult, load_result, save_result
from isthmus.experiments.adi_table_3_rows import GROUPS, QUICK_ROWS, ROWS, TOWER, Row
from isthmus.experiments.jobs import run_jobs
from isthmus.experiments.table import MACRO, Table, TableRow
from isthmus.metrics import domain_means, macro_mean
from isthmus.training.runs import count_parameters

MARKETS = ("s1", "s2", "s3")
MAIN_METRIC = "recall@10"
MACRO_METRICS = ("ndcg@10", "corpus_recall@100")
RESULT = "result.parquet"
KNN_NEIGHBOURS, KNN_SHRINKS = (200, 1000, 5000), (10.0, 50.0, 200.0)
EASE_L2S = (100.0, 300.0, 1000.0)
NUM_RESAMPLES = 2000  # of the paired tests


ReferenceMethod = Literal["popularity of the market", "item-kNN, all markets", "EASE, all markets"]
REFERENCES: tuple[ReferenceMethod, ...] = get_args(ReferenceMethod)


@dataclass(frozen=True)
class Job:
    """One method and seed to train and judge."""

    row: Row
    seed: int
    dataset: Path
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / RESULT

    def run(self) -> str:
        return run_job(self)

    def __str__(self) -> str:
        return f"{self.row.method}, seed {self.seed}"


@dataclass(frozen=True)
class ReferenceJob:
    """One simple method to fit and judge; it has no seed."""

    method: ReferenceMethod
    dataset: Path
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{'-'.join(re.findall('[a-z]+', self.method.lower()))}.parquet"

    def run(self) -> str:
        return run_reference(self)

    def __str__(self) -> str:
        return self.method


def reproduce(
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool = False,
    num_processes: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train and judge every row, and write `table.md`, `table.json` and `table.png`; gives the path of the first.

    Args:
        data: the folder with the markets' folders `s1`, `s2`, `s3`, or one above.
        quick: one seed of the main rows.
        num_processes: rows trained side by side, each on one core; None: one a core.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    dataset = prepared(data, out, say)
    names = dataset.schema.domain_names
    rows = [row for row in ROWS if not quick or row.method in QUICK_ROWS]
    seeds = range(1 if quick else num_seeds)
    references = [ReferenceJob(method, dataset.path, out / "references") for method in REFERENCES]
    jobs = [Job(row, seed, dataset.path, out / "rows" / row.folder / str(seed)) for seed in seeds for row in rows]
    run_jobs([*references, *jobs], num_processes, say)
    results = {str(reference.method): [load_result(reference.file)] for reference in references}
    for job in jobs:
        results.setdefault(job.row.method, []).append(load_result(job.file))
    parameters = {row.method: read_parameters(out / "rows" / row.folder / "0") for row in rows}
    table_rows = []
    for group, methods in grouped(rows, list(results)):
        for method in methods:
            published = next((row.published for row in rows if row.method == method), ())
            table_rows.append(
                TableRow(
                    method=method,
                    group=group,
                    seeds=[by_domain(saved.result, names) for saved in results[method]],
                    num_parameters=parameters.get(method, 0),
                    published=dict(zip(MARKETS, published, strict=False)) if names == MARKETS else {},
                    against="" if method == TOWER else in_words(against_tower(results[method], results[TOWER])),
                )
            )
    best = max(
        (row for row in table_rows if "ADI" in row.method), key=lambda row: row.mean_and_spread(MACRO, MAIN_METRIC)[0]
    )
    table = Table(
        title="ADI Table 3: WSDM Cup 2022 cross-market data",
        domains=names,
        main_metric=MAIN_METRIC,
        macro_metrics=MACRO_METRICS,
        rows=tuple(table_rows),
        notes=notes(dataset, seeds, best.method),
    )
    return table.write(out)


def prepared(data: Path, out: Path, say: Callable[[str], None]) -> Dataset:
    """The data set, prepared in the output folder unless it is there."""
    folder = out / "dataset"
    if not folder.is_dir():
        say(f"preparing {data}")
        log = out / "log"
        if not log.is_dir():
            out.mkdir(parents=True, exist_ok=True)
            ingest_xmrec(data, log, seed=0)
        prepare(log / "log.yaml", folder)
    return Dataset.open(folder)


def run_reference(job: ReferenceJob) -> str:
    """Fit one simple method with each of its settings, keep the test result of the best; gives its setting."""
    dataset = Dataset.open(job.dataset)
    match job.method:
        case "popularity of the market":
            setting, references = "no setting", popularity_by_domain(dataset)
        case "item-kNN, all markets":
            setting, references = best_reference(dataset, knn_fits(dataset))
        case "EASE, all markets":
            setting, references = best_reference(dataset, ease_fits(dataset))
        case other:
            assert_never(other)
    result = evaluate_retrieval(ReferenceScorer(references, dataset, "test"), dataset, "test")
    save_result(SavedResult(result, dataset.schema.domain_names, "test"), job.file)
    return setting


def knn_fits(dataset: Dataset) -> dict[str, Callable[[], Reference]]:
    """Item-kNN with each of its settings."""
    interactions = training_interactions(dataset)
    return {
        f"{count} neighbours, shrink {shrink:g}": partial(
            fit_item_knn, interactions, num_neighbours=count, shrink=shrink
        )
        for count in KNN_NEIGHBOURS
        for shrink in KNN_SHRINKS
    }


def ease_fits(dataset: Dataset) -> dict[str, Callable[[], Reference]]:
    """EASE with each of its settings."""
    interactions = training_interactions(dataset)
    return {f"l2 {l2:g}": partial(fit_ease, interactions, l2=l2) for l2 in EASE_L2S}


def best_reference(dataset: Dataset, fits: Mapping[str, Callable[[], Reference]]) -> tuple[str, dict[int, Reference]]:
    """The reference, one for all domains, whose validation nDCG is best, and the name of its setting."""
    best: tuple[float, str, dict[int, Reference]] | None = None
    for setting, fit in fits.items():
        references = dict.fromkeys(range(dataset.num_domains), fit())
        result = evaluate_retrieval(ReferenceScorer(references, dataset, "valid"), dataset, "valid")
        value = mean(values["ndcg@10"] for values in by_domain(result, dataset.schema.domain_names).values())
        if best is None or value > best[0]:
            best = (value, setting, references)
    assert best is not None
    return best[1], best[2]


def run_job(job: Job) -> str:
    """Train one method with one seed and keep its test result; gives the result in short."""
    settings = job.row.settings.model_copy(
        update={"training": job.row.settings.training.model_copy(update={"seed": job.seed})}
    )
    run = train(job.dataset, job.folder, settings, device="cpu", say=lambda _: None)
    num_parameters = count_parameters(run.model).networks
    (job.folder / "parameters.json").write_text(json.dumps(num_parameters), encoding="utf-8")
    result = run.evaluate("test")
    names = run.dataset.schema.domain_names
    save_result(SavedResult(result, names, "test"), job.file)
    for name in ("last.pt", "best.pt"):  # hundreds of megabytes a run; settings and seed make them again
        (job.folder / name).unlink(missing_ok=True)
    by_domain = domain_means(result.metrics[MAIN_METRIC], result.domain, len(names))
    value = float(macro_mean(by_domain, names, metric=MAIN_METRIC))
    return f"{MAIN_METRIC} macro {value:.4f}"


def read_parameters(folder: Path) -> int:
    """How many trainable numbers a finished row's networks have."""
    number: int = json.loads((folder / "parameters.json").read_text(encoding="utf-8"))
    return number


def by_domain(result: RetrievalResult, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Every metric's mean in every domain."""
    means = {
        metric: domain_means(values, result.domain, len(names)).tolist() for metric, values in result.metrics.items()
    }
    return {name: {metric: values[number] for metric, values in means.items()} for number, name in enumerate(names)}


def against_tower(method: Sequence[SavedResult], tower: Sequence[SavedResult]) -> Compared:
    """The paired test of a method against the history tower: each held-out positive's values averaged over seeds."""
    comparison = compare(over_seeds(method), over_seeds(tower), num_resamples=NUM_RESAMPLES)
    return next(row for row in comparison.rows if row.group == MACRO)


def over_seeds(results: Sequence[SavedResult]) -> SavedResult:
    """One result of the main metric alone, whose values are the means over seeds."""
    first = results[0].result
    values = torch.stack([saved.result.metrics[MAIN_METRIC] for saved in results]).mean(dim=0)
    return SavedResult(replace(first, metrics={MAIN_METRIC: values}), results[0].domain_names, results[0].split)


def in_words(row: Compared) -> str:
    """The difference to the history tower, its interval, and whether it is told apart from 0."""
    difference = row.test.difference
    return f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], p {row.test.p_value:.3f}"


def grouped(rows: Sequence[Row], methods: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The methods of each part of the table, references first."""
    of_row = {row.method: row.group for row in rows}
    groups = {group: [method for method in methods if of_row.get(method, GROUPS[0]) == group] for group in GROUPS}
    return [(group, methods) for group, methods in groups.items() if methods]


def notes(dataset: Dataset, seeds: Sequence[int], best: str) -> tuple[str, ...]:
    """What a reader has to know to judge the table."""
    events = dataset.events["test"]
    unseen = int((dataset.item_count[events.domain, events.item_row] == 0).sum())
    return (
        f"{events.num_rows:,} test positives, {unseen} of an item without a training row in the market: misses of the "
        "whole-corpus metric.",
        f"Seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds. Values in brackets: the paper's.",
        f"`{MAIN_METRIC}` and `ndcg@10` are against the given lists of 100 candidates; `corpus_recall@100` against all "
        "items of the market, the user's known ones excluded.",
        f"Paired test: macro {MAIN_METRIC} less the {TOWER}'s, each user's values averaged over seeds, 95 % bootstrap "
        "interval, two-sided sign-flip p.",
        "Parameters: of the networks, without embedding tables and item biases.",
        f"The best row of ADI is '{best}'.",
    )
