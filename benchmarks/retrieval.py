"""Speed and memory of retrieval, as ratios: each figure stands beside a bound or a smaller case of the same run.

Own CPU time on one thread, not wall clock, and what is compared takes turns: neighbours on the machine weigh little.
The log is made here, in the shape of the WSDM Cup 2022 cross-market data; nothing is read from outside. One file, so
that `python benchmarks/retrieval.py` is all there is to run; a section a question, in the order of the table.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
    build_backbone,
)
from isthmus.batch import RetrievalBatch
from isthmus.data.dataset import Dataset, Events, Split
from isthmus.data.history import build_history
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler
from isthmus.data.splits import TEST, TRAIN, Taken
from isthmus.domains import DomainSlices
from isthmus.evaluation.retrieval import TwoTowerScorer, evaluate_retrieval
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.schema import Domain, EventLog, FieldSpec, GivenSplit, Schema
from isthmus.training.optim import RowAdamW, split_parameters
from isthmus.training.retrieval import TrainingSettings, retrieval_loss
from isthmus.training.runs import new_model
from isthmus.training.self_training import PseudoLabelCounts, SelfTrainingSettings, pseudo_batch

FIELDS = ("history", "item_id")
MARKETS_USERS, MARKETS_ITEMS, MARKETS_POSITIVES = (6466, 7109, 3328), (9762, 2198, 1245), (77_200, 48_300, 23_400)
EVALUATION_BLOCK, LONGEST_LIST = 1024, 100  # of `evaluate_retrieval`


@dataclass(frozen=True)
class Market:
    """One domain of the log."""

    users: int
    items: int
    positives: int


MARKETS = tuple(map(Market, MARKETS_USERS, MARKETS_ITEMS, MARKETS_POSITIVES))


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        steps: training steps in each timing.
        dim: embedding size of training, evaluation and memory.
        tables: rows of each embedding table, the smallest first; `table_dim` numbers a row.
        backbone_domains: numbers of domains of the backbones; `stitch_domains` of Cross-Stitch, whose cost grows.
        pseudo_domains: numbers of domains in self-training.
        memory_table: rows of the second memory case, where the tables are most of the memory.
    """

    markets: tuple[Market, ...] = MARKETS
    repeats: int = 5
    steps: int = 12
    dim: int = 256
    tables: tuple[int, ...] = (100_000, 1_000_000)
    table_dim: int = 16
    backbone_rows: int = 8192
    backbone_dims: tuple[int, int, int] = (256, 256, 128)
    backbone_domains: tuple[int, ...] = (1, 3, 10, 50)
    stitch_domains: tuple[int, ...] = (1, 3, 10)
    pseudo_domains: tuple[int, ...] = (2, 5, 10)
    memory_table: int = 300_000


QUICK = Sizes()
FULL = replace(
    QUICK,
    repeats=9,
    steps=40,
    tables=(100_000, 1_000_000, 10_000_000),
    backbone_domains=(1, 3, 10, 50, 200),
    stitch_domains=(1, 3, 10, 50),
    memory_table=2_000_000,
)


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, and its ratio to what.

    Attributes:
        target: what the ratio should not exceed; None where it is only stated.
    """

    part: str
    case: str
    value: float
    unit: str
    ratio: float | None
    to: str
    target: float | None = None


# ---- Time


def cpu_seconds(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Own CPU time of each run, `repeats` times, in turns and after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of the same turn."""
    return median(a / b for a, b in zip(above, below, strict=True))


# ---- The log


def market_log(markets: Sequence[Market], *, shared: float = 0.5, num_rows: int | None = None) -> Dataset:
    """A dataset in memory: a user is in one market and has a held-out positive there, items are taken by a power law.

    Args:
        shared: share of the items of each later market that the first one has too.
        num_rows: rows of the item tables, over which the same items are spread evenly; None: no rows between.
    """
    rng = np.random.default_rng(0)
    overlap = [0, *(min(markets[0].items, int(shared * market.items)) for market in markets[1:])]
    num_distinct = sum(market.items for market in markets) - sum(overlap)
    num_rows = num_rows or num_distinct + 1
    stride = (num_rows - 1) // num_distinct
    corpora, next_item = [], 0
    for market, common in zip(markets, overlap, strict=True):
        own = np.arange(next_item, next_item + market.items - common)
        chosen = np.concatenate([rng.choice(markets[0].items, size=common, replace=False), own])
        corpora.append(1 + stride * np.sort(chosen))
        next_item += len(own)
    num_users = 1 + sum(market.users for market in markets)
    parts = [draw_market(market, corpus, rng) for market, corpus in zip(markets, corpora, strict=True)]
    first_user = np.cumsum([1, *(market.users for market in markets)])
    user = np.concatenate([first + part[0] for first, part in zip(first_user, parts, strict=False)])
    item, split = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    domain = np.repeat(np.arange(len(markets)), [len(part[0]) for part in parts])
    taken = Taken(user, item, domain, None)
    item_count = np.zeros((len(markets), num_rows), dtype=np.int64)
    np.add.at(item_count, (domain[split == TRAIN], item[split == TRAIN]), 1)
    test = taken.select(split == TEST)
    none = taken.select(np.zeros(0, dtype=np.int64))
    lists = [draw_candidates(corpora[d], test.item[test.domain == d], rng) for d in range(len(markets))]
    splits = {
        "train": (taken.select(split == TRAIN), None),
        "valid": (none, None),
        "test": (test, np.concatenate(lists)),
    }
    events: dict[Split, Events] = {
        name: Events(rows.user, rows.item, rows.domain, None, {}, lists)  # type: ignore[misc]
        for name, (rows, lists) in splits.items()
    }
    schema = log_schema(len(markets))
    return Dataset(
        path=Path("in-memory"),
        schema=schema,
        schema_hash=schema.hash(),
        vocabulary_sizes={"user": num_users, "item": num_rows},
        events=events,
        history=build_history(taken, split, num_users),
        item_count=item_count,
        features={},
    )


def log_schema(num_domains: int) -> Schema:
    return Schema(
        name="benchmark",
        events=EventLog(files=("log.csv",), user="user", item="item", domain="domain"),
        domains={f"d{domain}": Domain() for domain in range(num_domains)},
        fields=(
            FieldSpec(name="history", side="user", kind="history"),
            FieldSpec(name="item_id", side="item", kind="id"),
        ),
        split=GivenSplit(by="given"),
    )


Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_market(market: Market, corpus: np.ndarray, rng: np.random.Generator) -> Drawn:
    """User (from 0), item and split of a market's positives; every item of the corpus is taken in training."""
    weight = rng.permutation(1 / np.arange(1, market.items + 1) ** 0.7)
    user = rng.choice(market.users, size=market.positives + market.users, p=rng.dirichlet(np.full(market.users, 3.0)))
    item = rng.choice(market.items, size=len(user), p=weight / weight.sum())
    pairs = rng.permutation(np.unique(user * market.items + item))[: market.positives]
    user, item = pairs // market.items, pairs % market.items
    held_out = np.unique(user, return_index=True)[1]
    held_out = held_out[np.bincount(user)[user[held_out]] > 1]
    split = np.full(len(user), TRAIN)
    split[held_out] = TEST
    missing = np.setdiff1d(np.arange(market.items), item[split == TRAIN])
    user = np.concatenate([user, rng.integers(market.users, size=len(missing))])
    item, split = np.concatenate([item, missing]), np.concatenate([split, np.full(len(missing), TRAIN)])
    order = np.lexsort((item, user))
    return user[order], corpus[item[order]], split[order]


def draw_candidates(corpus: np.ndarray, positive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each positive a list of items that holds it, distinct and ascending."""
    count = min(100, len(corpus) // 2)
    place = np.sort(rng.integers(len(corpus) - count + 1, size=(len(positive), count)), axis=1) + np.arange(count)
    own = np.searchsorted(corpus, positive)
    lacks = ~(place == own[:, None]).any(axis=1)
    place[lacks, rng.integers(count, size=int(lacks.sum()))] = own[lacks]
    listed: np.ndarray = corpus[np.sort(place, axis=1)].astype(np.int32)
    return listed


# ---- A training step


@dataclass
class Trainer:
    """A model and all that a step needs; the step is that of `training.retrieval`, without its reports."""

    dataset: Dataset
    settings: TwoTowerSettings
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(seed=0, epochs=1, num_negatives=1024))

    def __post_init__(self) -> None:
        self.model = new_model(self.dataset, self.settings, self.training).train()
        self.loader = RetrievalLoader(self.dataset, batch_size=self.training.batch_size, seed=0, fields=FIELDS)
        self.sampler = CandidateSampler(
            self.dataset, self.training.negatives, self.training.num_negatives, FIELDS, self.training.positive_weight
        )
        tables, networks = split_parameters(self.model)
        self.optimizers: list[torch.optim.Optimizer] = [RowAdamW(tables, lr=self.training.learning_rate)]
        if networks:
            self.optimizers.append(torch.optim.AdamW(networks, lr=self.training.network_learning_rate))
        self.generator = torch.Generator().manual_seed(0)

    def batches(self, steps: int) -> Iterator[RetrievalBatch]:
        return islice(self.loader.epoch(0), steps)

    def load(self, steps: int) -> None:
        for _ in self.batches(steps):
            pass

    def train(self, steps: int) -> None:
        for batch in self.batches(steps):
            self.step(batch)

    def step(self, batch: RetrievalBatch) -> None:
        loss = retrieval_loss(self.model, batch, self.sampler, self.generator, self.training)
        objective = loss.mean()
        if self.training.self_training is not None:
            counts = PseudoLabelCounts(self.dataset.num_domains)
            share = self.training.self_training.share
            pseudo = pseudo_batch(self.model, batch, self.sampler, share, counts)
            if pseudo is not None:
                pseudo_loss = retrieval_loss(self.model, pseudo, self.sampler, self.generator, self.training)
                objective = objective + pseudo_loss.sum() / loss.numel()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective)
        for optimizer in self.optimizers:
            optimizer.step()


def tower(dim: int, backbone: AnyBackboneSettings | None = None) -> TwoTowerSettings:
    """The history tower, or a network added to it."""
    return TwoTowerSettings(embedding_dim=dim, fields=FIELDS, backbone=backbone, dropout=0.5)


# ---- The bound of a step: its matrix products, and one gather and one scatter of its embeddings


@dataclass(frozen=True)
class BareStep:
    """What a step cannot do without.

    Attributes:
        products: (rows, in, out) of each `x @ W.T`, done forward, for the gradient of x, and for that of W.
        rows: table rows that are read and whose gradients are added, one list a table.
    """

    products: list[tuple[int, int, int]]
    rows: list[Tensor]


def bare_steps(trainer: Trainer, steps: int) -> list[BareStep]:
    """The shapes of the steps that `trainer.train(steps)` takes."""
    found = []
    for batch in trainer.batches(steps):
        block, _ = trainer.sampler.block(batch, trainer.generator)
        products: list[tuple[int, int, int]] = []

        def note(
            module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, into: list[tuple[int, int, int]] = products
        ) -> None:
            into.append((output.numel() // output.shape[-1], inputs[0].shape[-1], output.shape[-1]))

        hooks = [m.register_forward_hook(note) for m in trainer.model.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            trainer.model.encode_user(batch.user, batch.domain_slices)
            trainer.model.encode_item(block.item, block.item_row, block.domain_slices)
        for hook in hooks:
            hook.remove()
        counts = zip(batch.domain_slices.counts, block.domain_slices.counts, strict=True)
        products.extend((num_rows, trainer.model.out_dim, num_items) for num_rows, num_items in counts if num_rows)
        found.append(BareStep(products, [batch.user.bags[0].values, block.item_row]))
    return found


class Bare:
    """Runs bare steps on memory that it holds already."""

    def __init__(self, steps: Sequence[BareStep], num_rows: int, dim: int) -> None:
        self.steps = steps
        shapes = [shape for step in steps for shape in step.products] or [(1, 1, 1)]
        self.x, self.weight, self.gradient = (
            torch.rand(max(size)) for size in zip(*((n * m, m * k, n * k) for n, m, k in shapes), strict=True)
        )
        self.tables = [torch.rand(num_rows, dim) for _ in steps[0].rows]

    def products(self) -> None:
        for step in self.steps:
            for n, m, k in step.products:
                x, weight = self.x[: n * m].view(n, m), self.weight[: m * k].view(k, m)
                gradient = self.gradient[: n * k].view(n, k)
                torch.mm(x, weight.T)
                torch.mm(gradient, weight)
                torch.mm(gradient.T, x)

    def gathers(self) -> None:
        for step in self.steps:
            for table, rows in zip(self.tables, step.rows, strict=True):
                table.index_add_(0, rows, table.index_select(0, rows))

    def run(self) -> None:
        self.products()
        self.gathers()


# ---- 1 and 2: training and its loader


def measure_training(sizes: Sizes) -> list[Line]:
    """Steps of three models against their bounds; the loader and the candidate sampler as shares of a step."""
    dataset = market_log(sizes.markets)
    models = {
        "history tower": tower(sizes.dim),
        "ADI, no norm": tower(sizes.dim, ADISettings(hidden_dims=(64,), norm="none")),
        "ADI, DSBN": tower(sizes.dim, ADISettings(hidden_dims=(64,), norm="domain")),
    }
    lines = []
    for name, settings in models.items():
        trainer = Trainer(dataset, settings)
        bare = Bare(bare_steps(trainer, sizes.steps), dataset.num_items, sizes.dim)
        batches = list(trainer.batches(sizes.steps))
        num_rows = sum(batch.item_row.numel() for batch in batches)

        def draw(trainer: Trainer = trainer, batches: list[RetrievalBatch] = batches) -> None:
            for batch in batches:
                trainer.sampler.block(batch, trainer.generator)

        seconds = cpu_seconds(
            {
                "step": partial(trainer.train, sizes.steps),
                "bound": bare.run,
                "loader": partial(trainer.load, sizes.steps),
                "candidates": draw,
            },
            sizes.repeats,
        )
        speed = {part: num_rows / median(times) for part, times in seconds.items()}
        bound = ratio(seconds["step"], seconds["bound"])
        lines.append(Line("training", name, speed["step"], "rows/s", bound, "bare products, gathers and scatters"))
        if settings.backbone is None:
            for part in ("loader", "candidates"):
                share = ratio(seconds[part], seconds["step"])
                lines.append(Line("training", f"{part} alone", speed[part], "rows/s", share, f"step of the {name}"))
    return lines


# ---- 3: evaluation


def measure_evaluation(sizes: Sizes) -> list[Line]:
    """All test rows ranked among candidates and in the whole corpus, against bare products and the top 100."""
    dataset = market_log(sizes.markets)
    events = dataset.events["test"]
    settings = tower(sizes.dim)
    model = new_model(dataset, settings, TrainingSettings(seed=0, epochs=1))
    bounds = events.domain_bounds(dataset.num_domains)
    items = [torch.rand(len(dataset.corpus(domain)), model.out_dim) for domain in range(dataset.num_domains)]
    users = torch.rand(events.num_rows, model.out_dim)

    def bare() -> None:
        for domain, corpus in enumerate(items):
            for block in users[bounds[domain] : bounds[domain + 1]].split(EVALUATION_BLOCK):
                torch.mm(block, corpus.T).topk(min(LONGEST_LIST, len(corpus)), dim=1)

    def evaluate() -> None:
        scorer = TwoTowerScorer(model, settings, dataset, "test")
        evaluate_retrieval(scorer, dataset, "test", block=EVALUATION_BLOCK)

    seconds = cpu_seconds({"evaluate": evaluate, "bare": bare}, sizes.repeats)
    speed = events.num_rows / median(seconds["evaluate"])
    value = ratio(seconds["evaluate"], seconds["bare"])
    return [
        Line(
            "evaluation",
            "all users, whole corpus and lists",
            speed,
            "users/s",
            value,
            "bare products and topk(100)",
            3.0,
        )
    ]


# ---- 4: size of the tables


def measure_tables(sizes: Sizes) -> list[Line]:
    """Steps on the same rows with the same distinct items, spread over larger and larger tables."""
    runs: dict[str, Callable[[], object]] = {}
    for num_rows in sizes.tables:
        trainer = Trainer(market_log(sizes.markets, num_rows=num_rows), tower(sizes.table_dim))
        bare = Bare(bare_steps(trainer, sizes.steps), num_rows, sizes.table_dim)
        runs |= {f"step {num_rows}": partial(trainer.train, sizes.steps), f"bare {num_rows}": bare.gathers}
    seconds = cpu_seconds(runs, sizes.repeats)
    smallest = sizes.tables[0]
    lines = []
    for num_rows in sizes.tables:
        step, bare_seconds = seconds[f"step {num_rows}"], seconds[f"bare {num_rows}"]
        growth = ratio(step, seconds[f"step {smallest}"])
        bare_growth = ratio(bare_seconds, seconds[f"bare {smallest}"])
        case, milliseconds = f"tables of {num_rows:,} rows", 1e3 / sizes.steps
        to = f"{smallest:,} rows"
        lines.append(Line("tables", f"{case}, step", milliseconds * median(step), "ms", growth, to, 1.3))
        lines.append(Line("tables", f"{case}, bare", milliseconds * median(bare_seconds), "ms", bare_growth, to))
        lines.append(
            Line("tables", f"{case}, step / bare", median(step) / median(bare_seconds), "x", growth / bare_growth, to)
        )
    return lines


# ---- 5: number of domains


def backbone_kinds(hidden_dims: tuple[int, ...]) -> dict[str, AnyBackboneSettings]:
    return {
        "DNN": DNNSettings(hidden_dims=hidden_dims),
        "DNN-Single": IndependentSettings(hidden_dims=hidden_dims),
        "Shared-Bottom": SharedBottomSettings(hidden_dims=hidden_dims),
        "MMoE, 4 experts": MMoESettings(hidden_dims=hidden_dims, num_experts=4),
        "PLE, 1 level": PLESettings(hidden_dims=hidden_dims),
        "PLE, 2 levels": PLESettings(hidden_dims=hidden_dims, num_levels=2),
        "STAR": StarSettings(hidden_dims=hidden_dims),
        "ADI, no norm": ADISettings(hidden_dims=hidden_dims, norm="none"),
        "ADI, DSBN": ADISettings(hidden_dims=hidden_dims),
        "Cross-Stitch": CrossStitchSettings(hidden_dims=hidden_dims),
    }


def backbone_pass(settings: AnyBackboneSettings, num_domains: int, sizes: Sizes) -> Callable[[], None]:
    """Forward and backward of one backbone on the same number of rows, equally many of each domain."""
    in_dim, _, out_dim = sizes.backbone_dims
    backbone = build_backbone(settings, num_domains=num_domains, in_dim=in_dim, out_dim=out_dim)
    slices = DomainSlices(tuple(domain * sizes.backbone_rows // num_domains for domain in range(num_domains + 1)))
    x = torch.rand(sizes.backbone_rows, in_dim, requires_grad=True)
    gradient = torch.rand(sizes.backbone_rows, out_dim)

    def run() -> None:
        backbone.zero_grad(set_to_none=True)
        x.grad = None
        torch.autograd.backward(backbone(x, slices), gradient)

    return run


def measure_domains(sizes: Sizes) -> list[Line]:
    """What a row costs as domains are added: the backbones, then a step of self-training."""
    lines = []
    for kind, settings in backbone_kinds(sizes.backbone_dims[1:-1]).items():
        domains = sizes.stitch_domains if kind == "Cross-Stitch" else sizes.backbone_domains
        runs = {str(d): backbone_pass(settings, d, sizes) for d in domains}
        seconds = cpu_seconds(runs, sizes.repeats)
        for d in domains:
            cost = 1e6 * median(seconds[str(d)]) / sizes.backbone_rows
            growth = ratio(seconds[str(d)], seconds[str(domains[0])])
            lines.append(Line("domains", f"{kind}, D = {d}", cost, "us/row", growth, f"D = {domains[0]}"))
    total = Market(*(sum(column) for column in zip(*(asdict(m).values() for m in sizes.markets), strict=True)))
    for d in sizes.pseudo_domains:
        market = Market(total.users // d, total.items // 6, total.positives // d)
        dataset = market_log([market] * d, shared=1.0)
        plain = Trainer(dataset, tower(sizes.dim))
        pseudo = Trainer(
            dataset, plain.settings, plain.training.model_copy(update={"self_training": SelfTrainingSettings()})
        )
        steps = max(1, sizes.steps // 4)
        seconds = cpu_seconds(
            {"plain": partial(plain.train, steps), "pseudo": partial(pseudo.train, steps)}, sizes.repeats
        )
        num_rows = sum(batch.item_row.numel() for batch in plain.batches(steps))
        cost = 1e6 * median(seconds["pseudo"]) / num_rows
        growth = ratio(seconds["pseudo"], seconds["plain"])
        lines.append(Line("domains", f"self-training, D = {d}", cost, "us/row", growth, "step without it, same D"))
    return lines


# ---- 6: memory


@dataclass(frozen=True)
class MemoryCase:
    """Tables of `num_rows` rows of `dim` numbers (None: as many as there are items), trained on the log's markets."""

    markets: tuple[Market, ...]
    num_rows: int | None
    dim: int
    steps: int


def hold(case: MemoryCase, work: str) -> None:
    """What a process of its own does before its peak is read; all three make the log."""
    torch.set_num_threads(1)
    dataset = market_log(case.markets, num_rows=case.num_rows)
    match work:
        case "log":
            pass
        case "bare":
            tables = [torch.ones(dataset.num_items, case.dim) for _ in range(2 * 3)]  # each with its two moments
            biases = [torch.ones(dataset.num_domains * dataset.num_items) for _ in range(3)]
            counts = [torch.ones(len(column)) for column in (*tables[:2], biases[0])]
            assert len(tables) + len(biases) + len(counts) == 12
        case "train":
            trainer = Trainer(dataset, tower(case.dim))
            trainer.train(case.steps)
        case _:
            raise ValueError(f"no such work: {work!r}")


def peak_mib(case: MemoryCase, work: str) -> float:
    """Peak resident memory of a process that does only this."""
    given = json.dumps({"work": work, **asdict(case)})
    command = [sys.executable, str(Path(__file__).resolve()), "--hold", given]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def hold_and_report(given: str) -> None:
    content = json.loads(given)
    work = content.pop("work")
    markets = tuple(Market(**market) for market in content.pop("markets"))
    hold(MemoryCase(markets=markets, **content), work)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_memory(sizes: Sizes) -> list[Line]:
    """Peak of training against a process that only holds the tables and their optimizer state."""
    cases = {
        "the log's own tables": MemoryCase(sizes.markets, None, sizes.dim, sizes.steps),
        f"tables of {sizes.memory_table:,} rows": MemoryCase(sizes.markets, sizes.memory_table, 64, sizes.steps),
    }
    lines = []
    for name, case in cases.items():
        peak = {work: peak_mib(case, work) for work in ("log", "bare", "train")}
        to = f"{peak['bare']:.0f} MiB, tables and optimizer state held"
        above = (peak["train"] - peak["log"]) / max(1.0, peak["bare"] - peak["log"])
        lines.append(Line("memory", name, peak["train"], "MiB", peak["train"] / peak["bare"], to))
        to = f"the same, both less {peak['log']:.0f} MiB of libraries and log"
        lines.append(Line("memory", f"{name}, above the log", peak["train"] - peak["log"], "MiB", above, to))
    return lines


# ---- The table

PARTS: dict[str, Callable[[Sizes], list[Line]]] = {
    "training": measure_training,
    "evaluation": measure_evaluation,
    "tables": measure_tables,
    "domains": measure_domains,
    "memory": measure_memory,
}


def to_markdown(lines: Sequence[Line]) -> str:
    header = ["part", "case", "measured", "ratio", "to", "target"]
    rows = [
        [
            line.part,
            line.case,
            f"{line.value:,.{0 if line.value >= 100 else 2}f} {line.unit}",
            "" if line.ratio is None else f"{line.ratio:.2f}",
            line.to,
            "" if line.target is None else f"<= {line.target:g}",
        ]
        for line in lines
    ]
    rule = ["---", "---", "---:", "---:", "---", "---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def write_results(out: Path, sizes: Sizes, lines: Sequence[Line]) -> None:
    """The lines, and what they were measured with, as JSON."""
    content = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sizes": asdict(sizes),
        "lines": [asdict(line) for line in lines],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="more repeats, larger tables, more domains (long)")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="measure this part only; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="where the lines go as JSON")
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold is not None:
        hold_and_report(arguments.hold)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = FULL if arguments.full else QUICK
    lines = []
    for part in arguments.part or PARTS:
        print(f"measuring {part} ...", file=sys.stderr)
        lines += PARTS[part](sizes)
    print(to_markdown(lines))
    write_results(arguments.out, sizes, lines)


if __name__ == "__main__":
    main()
