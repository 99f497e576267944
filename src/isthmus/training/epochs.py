"""What the training loops share: the report of an epoch, the place within one, and when training is over."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.domains import DomainSlices
from isthmus.errors import DivergedError
from isthmus.metrics import NaNError
from isthmus.training.self_training import no_counts

Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch did: a line of `metrics.jsonl`.

    Attributes:
        loss: mean of the rows' losses, in nats, by domain name.
        valid: macro means of the validation metrics.
        pseudo_labels: rows that self-training labelled, by `source->target` domain.
        stage: which stage of training, where it has several.
    """

    epoch: int
    loss: dict[str, float]
    valid: dict[str, float]
    valid_by_domain: dict[str, list[float]]
    rows_per_second: float
    pseudo_labels: dict[str, int]
    is_best: bool
    stage: str = ""


@dataclass
class OpenEpoch:
    """An epoch that has begun: which of its steps comes next, and what those before it have added up to.

    Attributes:
        loss, rows: by domain, the sum of the rows' losses and their number.
        pseudo_labels: by source and target domain, how many rows were labelled.
    """

    next_step: int
    loss: list[float]
    rows: list[int]
    pseudo_labels: list[list[int]]

    @classmethod
    def first(cls, num_domains: int) -> "OpenEpoch":
        return cls(0, [0.0] * num_domains, [0] * num_domains, no_counts(num_domains))

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    def add(self, loss: Float[Tensor, " batch"], domain_slices: DomainSlices) -> None:
        """Count a finished step; raises DivergedError where its losses are not finite."""
        if not bool(loss.isfinite().all()):
            raise DivergedError
        self.next_step += 1
        for domain, rows in domain_slices:
            self.loss[domain] += float(loss[rows].sum())
            self.rows[domain] += rows.stop - rows.start


@contextmanager
def named_divergence() -> Iterator[None]:
    """Raises DivergedError where the model that is judged within the block gives scores that are NaN."""
    try:
        yield
    except NaNError as error:
        raise DivergedError from error


def is_finished(reports: list[EpochReport], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return len(reports) > patience and not any(report.is_best for report in reports[-patience:])


def set_rates(optimizers: Sequence[torch.optim.Optimizer], schedule: Schedule, epochs_done: float, epochs: int) -> None:
    """Give the optimizers the learning rates of this moment, counted in epochs from the start."""
    match schedule:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1.0 - epochs_done / epochs
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]
