"""Normalisation of the rows of several domains: one for all, one for each domain, STAR's partitioned one, or none.

All are called as `(x, domain_slices)` and keep the same three rules:

- a domain without rows in a batch keeps its statistics and gets no gradient;
- a single row has no variance, so in training it is normalised by the running statistics, which do not move;
- in evaluation running statistics are used, so that a row's score never depends on the rows beside it.

With `rectify` they give the ReLU of that.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from isthmus.domains import DomainSlices


class Norm(Protocol):
    """A normalisation layer, and the ReLU behind it if asked; keeps the shape."""

    def __call__(
        self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices, *, rectify: bool = False
    ) -> Float[Tensor, "batch dim"]: ...


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


class _SpanNorm(torch.autograd.Function):
    """Batch normalisation of several spans of rows, each by its own statistics, and ReLU, in one step of autograd.

    Gives what `functional.batch_norm` and `relu` give, span by span; but what a span gives, and its gradient, is
    written to its place at once rather than copied there, and far fewer steps of autograd are left.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "batch dim"],
        scale: Float[Tensor, "span dim"],
        shift: Float[Tensor, "span dim"],
        norms: Sequence[nn.BatchNorm1d],
        counts: list[int],
        rectify: bool,
    ) -> Float[Tensor, "batch dim"]:
        y = torch.empty_like(x)
        mean, inverse_sd = torch.empty_like(scale), torch.empty_like(scale)
        spans = zip(norms, torch.split(x, counts), torch.split(y, counts), scale, shift, mean, inverse_sd, strict=True)
        for norm, own_x, own_y, own_scale, own_shift, own_mean, own_inverse_sd in spans:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            if own_x.shape[0] >= 2:
                running = (norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
                out = (own_y, own_mean, own_inverse_sd)
                torch.native_batch_norm(own_x, own_scale, own_shift, *running, out=out)
            else:
                own_mean.copy_(norm.running_mean)
                own_inverse_sd.copy_((norm.running_var + norm.eps).rsqrt())
                own_y.copy_((own_x - own_mean) * (own_inverse_sd * own_scale) + own_shift)
        moved = [norm.num_batches_tracked for norm, count in zip(norms, counts, strict=True) if count >= 2]
        if tracked := [each for each in moved if each is not None]:
            torch._foreach_add_(tracked, 1)
        if rectify:
            y.relu_()
        ctx.save_for_backward(x, y if rectify else x, scale, mean, inverse_sd)
        ctx.counts, ctx.eps, ctx.rectify = counts, norms[0].eps, rectify
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "batch dim"]) -> tuple[Tensor | None, ...]:
        x, y, scale, mean, inverse_sd = ctx.saved_tensors
        of_x, of_scale, of_shift = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)
        rows = (torch.split(each, ctx.counts) for each in (gradient, x, y, of_x))
        spans = zip(*rows, scale, mean, inverse_sd, of_scale, of_shift, strict=True)
        for given, own_x, own_y, own_of_x, own_scale, own_mean, own_inverse_sd, *own_of_parameters in spans:
            passed = torch.ops.aten.threshold_backward(given, own_y, 0) if ctx.rectify else given
            if len(own_x) >= 2:
                statistics = (own_scale, None, None, own_mean, own_inverse_sd, True)
            else:
                statistics = (own_scale, own_mean, own_inverse_sd**-2 - ctx.eps, None, None, False)
            found = torch.ops.aten.native_batch_norm_backward(passed, own_x, *statistics, ctx.eps, [True, True, True])
            for kept, each in zip((own_of_x, *own_of_parameters), found, strict=True):
                kept.copy_(each)
        return of_x, of_scale, of_shift, None, None, None


def _normalise_spans(
    x: Float[Tensor, "batch dim"],
    scale: Float[Tensor, "span dim"],
    shift: Float[Tensor, "span dim"],
    norms: Sequence[nn.BatchNorm1d],
    counts: list[int],
    *,
    rectify: bool,
) -> Float[Tensor, "batch dim"]:
    """`x`, span by span, each by the statistics, scale and shift of its own."""
    if norms[0].training and len(norms) > 1 and x.device.type == "cpu":
        y: Tensor = _SpanNorm.apply(x, scale, shift, norms, counts, rectify)  # type: ignore[no-untyped-call]
        return y
    parts = [x] if len(norms) == 1 else torch.split(x, counts)
    outputs = [_normalise(norm, *part) for norm, *part in zip(norms, parts, scale, shift, strict=True)]
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return y.relu_() if rectify else y


class SharedBatchNorm(nn.Module):
    """One batch normalisation for the rows of all domains.

    Right for a network's own layer where only one domain's rows pass; over rows of several domains it is what the
    baselines of the ADI paper use, and it mixes the domains' statistics in training.

    Source: ADI eq. 19.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(
        self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices, *, rectify: bool = False
    ) -> Float[Tensor, "batch dim"]:
        assert x.shape[0] == domain_slices.num_rows
        y = _normalise(self.norm, x, self.norm.weight, self.norm.bias)
        return y.relu_() if rectify else y


class DomainBatchNorm(nn.Module):
    """Domain-specific batch normalisation (DSBN): each domain its own statistics, scale and shift.

    Source: ADI eq. 20.
    """

    def __init__(self, num_domains: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.own_norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(num_domains))

    def forward(
        self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices, *, rectify: bool = False
    ) -> Float[Tensor, "batch dim"]:
        if domain_slices.num_rows == 0:
            return x
        norms, counts = _present(self.own_norms, domain_slices)
        return norm_by_span(x, counts, norms, rectify=rectify)


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

    def forward(
        self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices, *, rectify: bool = False
    ) -> Float[Tensor, "batch dim"]:
        if domain_slices.num_rows == 0:
            return x
        norms, counts = _present(self.own_norms, domain_slices)
        scale = self.shared_scale * torch.stack([self.own_scales[domain] for domain, _ in domain_slices])
        shift = self.shared_shift + torch.stack([self.own_shifts[domain] for domain, _ in domain_slices])
        return _normalise_spans(x, scale, shift, norms, counts, rectify=rectify)


def norm_by_span(
    x: Float[Tensor, "batch dim"], counts: list[int], norms: Sequence[nn.BatchNorm1d], *, rectify: bool
) -> Float[Tensor, "batch dim"]:
    """Each span of rows normalised by a norm of its own."""
    scale, shift = torch.stack([norm.weight for norm in norms]), torch.stack([norm.bias for norm in norms])
    return _normalise_spans(x, scale, shift, norms, counts, rectify=rectify)


def _present(own_norms: nn.ModuleList, domain_slices: DomainSlices) -> tuple[list[nn.BatchNorm1d], list[int]]:
    """The norms of the domains that have rows, and how many."""
    norms = []
    for domain, _ in domain_slices:
        norm = own_norms[domain]
        assert isinstance(norm, nn.BatchNorm1d)
        norms.append(norm)
    return norms, [count for count in domain_slices.counts if count]


class NoNorm(nn.Module):
    """Gives its input back, or writes the ReLU over it; for networks without normalisation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(
        self, x: Float[Tensor, "batch dim"], domain_slices: DomainSlices, *, rectify: bool = False
    ) -> Float[Tensor, "batch dim"]:
        assert x.shape == (domain_slices.num_rows, self.dim)
        return x.relu_() if rectify else x
