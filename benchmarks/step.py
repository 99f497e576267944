"""A training step, and the least that it has to do: its matrix products, gathers and scatters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from benchmarks.bare_step import bare_product
from benchmarks.market_log import FIELDS
from torch import Tensor, nn

from isthmus.backbones.settings import AnyBackboneSettings
from isthmus.batch import RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.training.optim import AdamW, RowAdamW, descend, split_parameters
from isthmus.training.retrieval import TrainingSettings, retrieval_loss
from isthmus.training.runs import new_model
from isthmus.training.self_training import SelfTrainingSettings, no_counts, pseudo_batch


def tower(dim: int, backbone: AnyBackboneSettings | None = None) -> TwoTowerSettings:
    """The history tower, or a network added to it; as in ADI's Table 3."""
    return TwoTowerSettings(embedding_dim=dim, fields=FIELDS, backbone=backbone, dropout=0.5)


class Trainer:
    """Takes the first steps of an epoch as `isthmus.training.retrieval` does, less its reports and its validation."""

    def __init__(
        self, dataset: Dataset, settings: TwoTowerSettings, self_training: SelfTrainingSettings | None = None
    ) -> None:
        self.dataset = dataset
        self.settings = TrainingSettings(seed=0, epochs=1, num_negatives=1024, self_training=self_training)
        self.model = new_model(dataset, settings, self.settings).train()
        self.loader = RetrievalLoader(dataset, batch_size=self.settings.batch_size, seed=0, fields=settings.fields)
        self.sampler = CandidateSampler(
            dataset,
            self.settings.negatives,
            self.settings.num_negatives,
            settings.fields,
            self.settings.positive_weight,
        )
        tables, networks = split_parameters(self.model)
        self.optimizers: list[torch.optim.Optimizer] = [RowAdamW(tables, lr=self.settings.learning_rate)]
        if networks:
            self.optimizers.append(AdamW(networks, lr=self.settings.network_learning_rate))
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
        loss = retrieval_loss(self.model, batch, self.sampler, self.generator, self.settings)
        objective = loss.mean()
        if self.settings.self_training is not None:
            counts = no_counts(self.dataset.num_domains)
            pseudo = pseudo_batch(self.model, batch, self.sampler, self.settings.self_training.share_at(0), counts)
            if pseudo is not None:
                pseudo_loss = retrieval_loss(self.model, pseudo, self.sampler, self.generator, self.settings)
                objective = objective + pseudo_loss.sum() / loss.numel()
        descend(objective, self.optimizers)


@dataclass(frozen=True)
class BareStep:
    """What a step cannot do without.

    Attributes:
        products: (rows, in, out) of each `x @ W.T`; it is done forward, for the gradient of x, and for that of W.
        rows: table rows that are read and whose gradients are added, one list a table.
    """

    products: list[tuple[int, int, int]]
    rows: list[Tensor]


def bare_steps(trainer: Trainer, steps: int) -> list[BareStep]:
    """The shapes of the steps that `trainer.train(steps)` takes."""
    products: list[tuple[int, int, int]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        products.append((output.numel() // output.shape[-1], inputs[0].shape[-1], output.shape[-1]))

    hooks = [m.register_forward_hook(note) for m in trainer.model.modules() if isinstance(m, nn.Linear)]
    found = []
    for batch in trainer.batches(steps):
        products.clear()
        block, _ = trainer.sampler.block(batch, trainer.generator)
        with torch.no_grad():
            trainer.model.encode_user(batch.user, batch.domain_slices)
            trainer.model.encode_item(block.item, block.item_row, block.domain_slices)
        counts = zip(batch.domain_slices.counts, block.domain_slices.counts, strict=True)
        scores = [(num_rows, trainer.model.out_dim, num_items) for num_rows, num_items in counts if num_rows]
        found.append(BareStep([*products, *scores], [batch.user.bags[0].values, block.item_row]))
    for hook in hooks:
        hook.remove()
    return found


class Bare:
    """Runs bare steps on memory that it holds already."""

    def __init__(self, steps: Sequence[BareStep], num_rows: int, dim: int) -> None:
        self.steps = steps
        shapes = [shape for step in steps for shape in step.products]
        self.x = torch.rand(max(n * m for n, m, _ in shapes))
        self.weight = torch.rand(max(m * k for _, m, k in shapes))
        self.gradient = torch.rand(max(n * k for n, _, k in shapes))
        self.tables = [torch.rand(num_rows, dim) for _ in steps[0].rows]

    def products(self) -> None:
        for step in self.steps:
            for n, m, k in step.products:
                x, weight = self.x[: n * m].view(n, m), self.weight[: m * k].view(k, m)
                gradient = self.gradient[: n * k].view(n, k)
                bare_product(x, weight.T)
                bare_product(gradient, weight)
                bare_product(gradient.T, x)

    def gathers(self) -> None:
        for step in self.steps:
            for table, rows in zip(self.tables, step.rows, strict=True):
                table.index_add_(0, rows, table.index_select(0, rows))

    def all(self) -> None:
        self.products()
        self.gathers()
