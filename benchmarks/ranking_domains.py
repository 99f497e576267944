"""What a row costs a click model as its domains grow in number: whole steps, with loader and optimizers, and scoring.

    .venv/bin/python -m benchmarks.ranking_domains [--full] [--batch-size N]

The made rows of `ranking_speed`, with what is planted of three domains repeated for more. A step has as many rows
whatever their number.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from benchmarks.ctr_rows import make_rows, write_log
from benchmarks.ranking_cost import StageSteps
from benchmarks.ranking_speed import BACKBONES, BATCH
from benchmarks.table import Line, cpu_seconds, median_ratio, to_markdown

from isthmus.allocator import keep_freed_memory
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.evaluation.ranking import score_impressions
from isthmus.models.ctr import CTRSettings
from isthmus.training.ranking import RankingTrainingSettings, Stage
from isthmus.training.ranking_stages import new_ranking_model

FLAT_TARGET = 1.3
MOST_DOMAINS = 50  # that the target is for


@dataclass(frozen=True)
class Size:
    """How much is measured: rows, steps of each run, turns, and numbers of domains, the smallest first."""

    num_train: int = 200_000
    num_test: int = 20_000
    batch_size: int = BATCH
    steps: int = 12
    repeats: int = 5
    domains: tuple[int, ...] = (1, 3, 10, 50)


def measure_ranking_domains(size: Size) -> list[Line]:
    """A step's and a scored row's lines of every model, by number of domains."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets = {}
        for number in size.domains:
            rows = make_rows(size.num_train, size.num_test, size.num_test, num_domains=number)
            log = write_log(rows, folder / f"log-{number}")
            datasets[number] = prepare(log, folder / f"dataset-{number}")
        return [line for model in BACKBONES for line in lines_of(model, datasets, size)]


def lines_of(name: str, datasets: dict[int, Dataset], size: Size) -> list[Line]:
    """One model's lines."""
    settings = RankingTrainingSettings(seed=0, epochs=1, batch_size=size.batch_size)
    chosen = CTRSettings(backbone=BACKBONES[name], latent_dim=64, tower_dims=(), indicator_logit=name == "STAR")
    runs: dict[str, Callable[[], object]] = {}
    num_rows: dict[str, int] = {}
    for number, dataset in datasets.items():
        model = new_ranking_model(dataset, chosen, settings)
        steps = StageSteps(dataset, model, Stage("click", 0, tuple(range(number)), None), settings)
        runs[f"a step, D = {number}"] = partial(steps.train, size.steps)
        num_rows[f"a step, D = {number}"] = steps.num_rows(size.steps)
        runs[f"scoring, D = {number}"] = partial(score_impressions, model, dataset, "test", None)
        num_rows[f"scoring, D = {number}"] = size.num_test
    seconds = cpu_seconds(runs, size.repeats)
    lines = []
    for work in ("a step", "scoring"):
        for number in datasets:
            case, first = f"{work}, D = {number}", f"{work}, D = {min(datasets)}"
            ratio = median_ratio(seconds[case], seconds[first]) * num_rows[first] / num_rows[case]
            target = FLAT_TARGET if work == "a step" and number <= MOST_DOMAINS else None
            lines.append(Line(name, case, 1e6 * median(seconds[case]) / num_rows[case], "us/row", ratio, first, target))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ranking_domains", description=__doc__)
    parser.add_argument("--full", action="store_true", help="200 domains too, and nine turns")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="rows of a step (%(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    size = Size(batch_size=given.batch_size)
    if given.full:
        size = replace(size, repeats=9, domains=(*size.domains, 200))
    print(to_markdown(measure_ranking_domains(size)))


if __name__ == "__main__":
    main()
