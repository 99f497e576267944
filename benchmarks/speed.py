"""CPU time of training, of evaluation, and of a step as the tables grow."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from benchmarks.bare_step import bare_product
from benchmarks.market_log import LIST_LENGTH, market_log
from benchmarks.sizes import Sizes
from benchmarks.step import Bare, Trainer, bare_steps, tower
from benchmarks.table import Line, cpu_seconds, median_ratio

from isthmus.backbones.settings import ADISettings
from isthmus.batch import RetrievalBatch
from isthmus.evaluation.retrieval import TwoTowerScorer, evaluate_retrieval
from isthmus.layers.embedding import new_table
from isthmus.training.optim import RowAdamW
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import new_model

EVALUATION_BLOCK = 1024
EVALUATION_TARGET, TABLES_TARGET, UPDATES_TARGET = 3.0, 1.3, 1.15


def measure_training(sizes: Sizes) -> list[Line]:
    """Steps of three models against their bounds; the loader and the candidate sampler as shares of a step."""
    dataset = market_log(sizes.markets)
    models = {
        "history tower": tower(sizes.dim),
        "ADI, no norm": tower(sizes.dim, ADISettings(hidden_dims=(64,), norm="none")),
        "ADI, DSBN": tower(sizes.dim, ADISettings(hidden_dims=(64,), norm="domain")),
    }
    trainers = {name: Trainer(dataset, settings) for name, settings in models.items()}
    runs: dict[str, Callable[[], object]] = {}
    for name, trainer in trainers.items():
        bare = Bare(bare_steps(trainer, sizes.steps), dataset.num_items, sizes.dim)
        runs |= {name: partial(trainer.train, sizes.steps), f"bound of {name}": bare.all}
    plain = trainers["history tower"]
    batches = list(plain.batches(sizes.steps))
    num_rows = sum(batch.item_row.numel() for batch in batches)
    runs |= {"loader": partial(plain.load, sizes.steps), "candidates": partial(draw_candidates, plain, batches)}
    seconds = cpu_seconds(runs, sizes.repeats)

    def line(case: str, run: str, below: str, to: str) -> Line:
        ratio = median_ratio(seconds[run], seconds[below])
        return Line("training", case, num_rows / median(seconds[run]), "rows/s", ratio, to)

    return [
        *(line(name, name, f"bound of {name}", "its bare products, gathers and scatters") for name in models),
        line("loader alone", "loader", "history tower", "a step of the history tower"),
        line("drawing candidates alone", "candidates", "history tower", "a step of the history tower"),
    ]


def draw_candidates(trainer: Trainer, batches: list[RetrievalBatch]) -> None:
    for batch in batches:
        trainer.sampler.block(batch, trainer.generator)


def measure_evaluation(sizes: Sizes) -> list[Line]:
    """All test rows ranked in lists and in the whole corpus, against bare products and the best of each row."""
    dataset = market_log(sizes.markets)
    events = dataset.events["test"]
    settings = tower(sizes.dim)
    model = new_model(dataset, settings, TrainingSettings(seed=0, epochs=1))
    bounds = events.domain_bounds(dataset.num_domains)
    items = [torch.rand(len(dataset.corpus(domain)), model.out_dim) for domain in range(dataset.num_domains)]
    users = torch.rand(events.num_rows, model.out_dim)

    def evaluate() -> None:
        scorer = TwoTowerScorer(model, settings, dataset, "test")
        evaluate_retrieval(scorer, dataset, "test", block=EVALUATION_BLOCK)

    def bare() -> None:
        for domain, corpus in enumerate(items):
            for start in range(bounds[domain], bounds[domain + 1], EVALUATION_BLOCK):
                block = users[start : min(start + EVALUATION_BLOCK, bounds[domain + 1])]
                bare_product(block, corpus.T).topk(min(LIST_LENGTH, len(corpus)), dim=1)

    seconds = cpu_seconds({"evaluate": evaluate, "bare": bare}, sizes.repeats)
    return [
        Line(
            "evaluation",
            "every user, lists and whole corpus",
            events.num_rows / median(seconds["evaluate"]),
            "users/s",
            median_ratio(seconds["evaluate"], seconds["bare"]),
            f"bare products and topk({LIST_LENGTH})",
            EVALUATION_TARGET,
        )
    ]


def measure_tables(sizes: Sizes) -> list[Line]:
    """Steps on the same rows with the same distinct items, which are spread over larger and larger tables."""
    runs: dict[str, Callable[[], object]] = {}
    for num_rows in sizes.tables:
        trainer = Trainer(market_log(sizes.markets, num_rows=num_rows), tower(sizes.table_dim))
        bare = Bare(bare_steps(trainer, sizes.steps), num_rows, sizes.table_dim)
        runs |= {f"step {num_rows}": partial(trainer.train, sizes.steps), f"bare {num_rows}": bare.gathers}
    seconds = cpu_seconds(runs, sizes.repeats)
    smallest = sizes.tables[0]

    def line(what: str, run: str, num_rows: int, target: float | None) -> Line:
        milliseconds = 1e3 * median(seconds[f"{run} {num_rows}"]) / sizes.steps
        growth = median_ratio(seconds[f"{run} {num_rows}"], seconds[f"{run} {smallest}"])
        return Line("tables", f"{num_rows:,} rows, {what}", milliseconds, "ms", growth, f"{smallest:,} rows", target)

    return [
        each
        for num_rows in sizes.tables
        for each in (
            line("a step", "step", num_rows, TABLES_TARGET),
            line("its bare gathers and scatters", "bare", num_rows, None),
        )
    ]


class LookUps:
    """Steps of a table alone: its lookup, its sparse gradient and the optimizer; or their bare gathers and scatters.

    Every size of table has as many distinct rows in a step, spread over all of it.
    """

    def __init__(self, num_rows: int, dim: int, batch: int, steps: int) -> None:
        self.table = new_table(num_rows, dim, std=0.01)
        self.optimizer = RowAdamW(self.table.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        apart = num_rows // batch
        self.rows = [
            (torch.arange(batch) * apart + torch.randint(apart, (batch,), generator=generator))[
                torch.randperm(batch, generator=generator)
            ]
            for _ in range(steps)
        ]
        self.gradient = torch.rand(batch, dim, generator=generator)

    def train(self) -> None:
        for rows in self.rows:
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self.table(rows), self.gradient)
            self.optimizer.step()

    def bare(self) -> None:
        state = self.optimizer.state[self.table.weight]
        weight = self.table.weight.detach()
        for rows in self.rows:
            weight.index_select(0, rows)
            for held in (weight, state["first"], state["second"], state["num_steps"]):
                held.index_copy_(0, rows, held.index_select(0, rows))


def measure_updates(sizes: Sizes) -> list[Line]:
    """Lookups and their updates in larger and larger tables, each against bare gathers and scatters of that size."""
    tables = {n: LookUps(n, sizes.table_dim, sizes.update_batch, sizes.steps) for n in sizes.update_tables}
    for table in tables.values():
        table.train()
    runs = {f"step {n}": table.train for n, table in tables.items()} | {f"bare {n}": t.bare for n, t in tables.items()}
    seconds = cpu_seconds(runs, sizes.repeats)
    smallest = sizes.update_tables[0]
    beyond = {n: [a / b for a, b in zip(seconds[f"step {n}"], seconds[f"bare {n}"], strict=True)] for n in tables}
    num_rows = sizes.update_batch * sizes.steps
    return [
        Line(
            "updates",
            f"{n:,} rows",
            1e6 * median(seconds[f"step {n}"]) / num_rows,
            "us/row",
            median_ratio(beyond[n], beyond[smallest]),
            f"{smallest:,} rows, each over its bare gathers and scatters ({median(beyond[n]):.1f} times)",
            UPDATES_TARGET,
        )
        for n in tables
    ]
