"""What a row costs CDAnet in each stage and in scoring, beside the click model with the same network; more domains.

Two sizes: ids alone and the networks of CDAnet's tables, and the fields and networks of `ranking_speed`.

.venv/bin/python -m benchmarks.ranking_cost
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from benchmarks.ctr_rows import make_rows, write_log
from benchmarks.ranking_speed import BACKBONES, BATCH, HIDDEN
from benchmarks.table import Line, cpu_seconds, median_ratio, to_markdown
from torch import nn

from isthmus.allocator import keep_freed_memory
from isthmus.backbones.settings import AnyBackboneSettings, DNNSettings, IndependentSettings
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RankingLoader
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate
from isthmus.evaluation.ranking import score_impressions
from isthmus.experiments.cdanet_rows import EXTRACTORS, training
from isthmus.models.cdanet import CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRSettings
from isthmus.training.ranking import RankingTrainingSettings, Stage, new_optimizers, train_step
from isthmus.training.ranking_stages import new_ranking_model

TARGETS = {"IndepMLP": ("SharedMLP", "MLP", 2.2), "MMoE": ("MMoE", "MMoE", 1.5)}
"""By CDAnet's extractor: the network of the click model, its name, and what the ratio should not exceed."""
WIDE: dict[str, AnyBackboneSettings] = {
    "IndepMLP": IndependentSettings(hidden_dims=HIDDEN, norm="none"),
    "SharedMLP": DNNSettings(hidden_dims=HIDDEN, norm="none"),
    "MMoE": BACKBONES["MMoE"],
}
DOMAINS = ("shop", "video")
OTHERS: tuple[int | None, ...] = (None, 1)


@dataclass(frozen=True)
class Networks:
    """What the models read and how wide they are.

    Attributes:
        title: stands behind the model's name.
        fields: None: all of the dataset.
        backbones: by name; of the click model too, which gives vectors of `latent_dim`.
    """

    title: str
    fields: tuple[str, ...] | None
    backbones: Mapping[str, AnyBackboneSettings]
    latent_dim: int
    batch_size: int


IDS = Networks("", ("user_id", "item_id"), EXTRACTORS, 128, training().batch_size)
FIELDS = Networks(", 256-128", None, WIDE, 64, BATCH)


@dataclass(frozen=True)
class Size:
    """How much is measured: the logs, steps of each run, turns, and numbers of domains, the smallest first."""

    num_users: int = 4000
    num_items: int = 2000
    num_made: int = 200_000
    steps: int = 20
    repeats: int = 5
    domains: tuple[int, ...] = (2, 5, 10, 25)


class StageSteps:
    """The first steps of an epoch of one stage, loader included."""

    def __init__(self, dataset: Dataset, model: nn.Module, stage: Stage, settings: RankingTrainingSettings) -> None:
        self.model, self.stage, self.settings = model.train(), stage, settings
        self.loader = RankingLoader(
            dataset, batch_size=settings.batch_size, seed=0, fields=stage.fields, domains=stage.domains
        )
        self.optimizers = new_optimizers(model, settings)

    def train(self, steps: int) -> None:
        for batch in islice(self.loader.epoch(0), steps):
            train_step(self.model, self.optimizers, batch, self.stage, self.settings)

    def num_rows(self, steps: int) -> int:
        return sum(batch.label.numel() for batch in islice(self.loader.epoch(0), steps))


def measure_ranking_cost(size: Size) -> list[Line]:
    """For each extractor: both stages' steps against the plain model's on the same rows, then scoring."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = simulate(folder / "log", num_users=size.num_users, num_items=size.num_items, domains=DOMAINS, num_shown=4)
        made = write_log(make_rows(size.num_made, size.num_made // 50, size.num_made // 5), folder / "made-log")
        measured = ((prepare(log, folder / "dataset"), IDS), (prepare(made, folder / "made"), FIELDS))
        return [
            line
            for dataset, networks in measured
            for extractor in TARGETS
            for line in lines_of(dataset, networks, extractor, size)
        ]


def measure_growth(size: Size) -> list[Line]:
    """The first stage's steps with more domains, translated into all others or into some that are drawn."""
    settings, fields = training(), ("user_id", "item_id")
    runs: dict[str, Callable[[], object]] = {}
    rows: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in size.domains:
            names = [f"domain-{n}" for n in range(number)]
            log = simulate(
                Path(folder) / f"log-{number}",
                num_users=size.num_users,
                num_items=size.num_items,
                domains=names,
                num_shown=4,
            )
            dataset = prepare(log, Path(folder) / f"dataset-{number}")
            for others in OTHERS:
                chosen = CDAnetSettings(fields=fields, extractor=EXTRACTORS["MMoE"], others_per_step=others)
                cdanet = new_ranking_model(dataset, chosen, settings)
                assert isinstance(cdanet, CDAnet)
                assert isinstance(cdanet.translation, TranslationNetwork)
                stage = Stage("translation", 0, tuple(range(number)), fields, chosen.alpha, chosen.beta)
                steps = StageSteps(dataset, cdanet.translation, stage, settings)
                case = f"D = {number}, {'all others' if others is None else f'{others} of the others'}"
                runs[case] = partial(steps.train, size.steps)
                rows[case] = steps.num_rows(size.steps)
        seconds = cpu_seconds(runs, size.repeats)
    first = next(iter(runs))
    to_one_row = rows[first]
    return [
        Line(
            "CDAnet+MMoE, first stage",
            case,
            1e6 * median(of_case) / rows[case],
            "us/row",
            median_ratio(of_case, seconds[first]) * to_one_row / rows[case],
            first,
        )
        for case, of_case in seconds.items()
    ]


def lines_of(dataset: Dataset, networks: Networks, extractor: str, size: Size) -> list[Line]:
    """The three lines of one extractor."""
    network, name, limit = TARGETS[extractor]
    settings = training().model_copy(update={"batch_size": networks.batch_size})
    fields, backbones, dim = networks.fields, networks.backbones, networks.latent_dim
    plain = new_ranking_model(
        dataset, CTRSettings(fields=fields, backbone=backbones[network], latent_dim=dim), settings
    )
    chosen = CDAnetSettings(fields=fields, extractor=backbones[extractor], latent_dim=dim)
    cdanet = new_ranking_model(dataset, chosen, settings)
    assert isinstance(cdanet, CDAnet)
    assert isinstance(cdanet.translation, TranslationNetwork)
    everyone = tuple(range(dataset.num_domains))
    stages = {
        "first stage": (cdanet.translation, Stage("translation", 0, everyone, fields, chosen.alpha, chosen.beta)),
        "second stage": (cdanet.augmentations[0], Stage("augmentation", 1, (0,), fields, beta=chosen.beta)),
    }
    runs: dict[str, Callable[[], object]] = {}
    num_rows: dict[str, int] = {}
    for case, (model, stage) in stages.items():
        steps = StageSteps(dataset, model, stage, settings)
        runs[case] = partial(steps.train, size.steps)
        num_rows[case] = steps.num_rows(size.steps)
        beside = StageSteps(dataset, plain, Stage("click", 0, stage.domains, fields), settings)
        runs[f"plain {case}"] = partial(beside.train, size.steps)
    assert dataset.impressions is not None
    num_rows["scoring"] = dataset.impressions["test"].num_rows
    runs["scoring"] = partial(score_impressions, cdanet, dataset, "test", fields)
    runs["plain scoring"] = partial(score_impressions, plain, dataset, "test", fields)
    seconds = cpu_seconds(runs, size.repeats)
    return [
        Line(
            f"CDAnet+{extractor}{networks.title}",
            case,
            1e6 * median(seconds[case]) / rows,
            "us/row",
            median_ratio(seconds[case], seconds[f"plain {case}"]),
            f"{name} on the same rows",
            None if case == "scoring" else limit,
        )
        for case, rows in num_rows.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="benchmarks.ranking_cost", description=__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    print(to_markdown([*measure_ranking_cost(Size()), *measure_growth(Size())]))


if __name__ == "__main__":
    main()
