"""Normalisation of the rows of several domains: one for all, one for each domain, STAR's partitioned one, or none.

All are called as `(x, domain_slices)` and keep the same three rules:

- a domain without rows in a batch keeps its statistics and gets no gradient;
- a single row has no variance, so in training it is normalised by the running statistics, which do not move;
- in evaluation running statistics are used, so that a row's score never depends on the rows beside it.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain


class Norm(Protocol):
    """A normalisation layer; keeps the shape."""

    def __call__(self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]: ...


NormFactory = Callable[[int], nn.Module]
"""Makes the `Norm` of one layer from the layer's width."""


def _normalise(
    norm: nn.BatchNorm1d, x: Float[Tensor, "batch dim"], scale: Tensor, shift: Tensor
) -> Float[Tensor, "batch dim"]:
    """`x` by the statistics of `norm`: its own, or the running ones where it has too few rows for statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training and x.shape[0] >= 2:
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        return functional.batch_norm(x, mean, variance, scale, shift, True, norm.momentum, norm.eps)
    return functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, norm.eps)


class SharedBatchNorm(nn.Module):
    """One batch normalisation for the rows of all domains.

    Right for a network's own layer where only one domain's rows pass; over rows of several domains it is what the
    baselines of the ADI paper use, and it mixes the domains' statistics in training.

    Source: ADI eq. 19.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        assert x.shape[0] == domain_slices.num_rows
        return _normalise(self.norm, x, self.norm.weight, self.norm.bias)


class DomainBatchNorm(nn.Module):
    """Domain-specific batch normalisation (DSBN): each domain its own statistics, scale and shift.

    Source: ADI eq. 20.
    """

    def __init__(self, num_domains: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.own_norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(num_domains))

    def forward(self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        def run(domain: int, rows: Tensor) -> Tensor:
            norm = self.own_norms[domain]
            assert isinstance(norm, nn.BatchNorm1d)
            return _normalise(norm, rows, norm.weight, norm.bias)

        return by_domain(run, domain_slices, x, width=(self.dim,))


class PartitionedNorm(nn.Module):
    """STAR's partitioned normalisation: a domain's own statistics; shared and own scale multiplied, shifts added.

    All scales start at 1 and all shifts at 0.

    Source: Sheng et al. 2021 (STAR), eq. 3-4.
    """

    def __init__(self, num_domains: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.own_norms = nn.ModuleList(nn.BatchNorm1d(dim, affine=False) for _ in range(num_domains))
        self.shared_scale = nn.Parameter(torch.ones(dim))
        self.shared_shift = nn.Parameter(torch.zeros(dim))
        self.own_scales = nn.ParameterList(nn.Parameter(torch.ones(dim)) for _ in range(num_domains))
        self.own_shifts = nn.ParameterList(nn.Parameter(torch.zeros(dim)) for _ in range(num_domains))

    def forward(self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        def run(domain: int, rows: Tensor) -> Tensor:
            norm = self.own_norms[domain]
            assert isinstance(norm, nn.BatchNorm1d)
            scale: Tensor = self.shared_scale * self.own_scales[domain]
            shift: Tensor = self.shared_shift + self.own_shifts[domain]
            return _normalise(norm, rows, scale, shift)

        return by_domain(run, domain_slices, x, width=(self.dim,))


class NoNorm(nn.Module):
    """Gives its input back; for networks without normalisation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        assert x.shape == (domain_slices.num_rows, self.dim)
        return x
