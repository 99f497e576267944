"""ADI's fusion of a row's specific and shared features, by gates that read the domain indicator.

Reading: a gate has one weight for each unit; `gate="scalar"` gives one weight for the whole vector.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.routing import by_domain, has_short_spans

FusionGate = Literal["unit", "scalar"]


class ConcatFusion(nn.Module):
    """Gated specific features, gated shared ones, and between them the product of the two; `out_dim` is `3 dim`.

    Source: ADI eq. 11-13 (CONCAT, the paper's choice).
    """

    def __init__(self, num_domains: int, dim: int, indicator_dim: int, gate: FusionGate = "unit") -> None:
        super().__init__()
        self.out_dim = 3 * dim
        width = dim if gate == "unit" else 1
        self.own_specific_gates = nn.ModuleList(nn.Linear(indicator_dim, width, bias=False) for _ in range(num_domains))
        self.own_shared_gates = nn.ModuleList(nn.Linear(indicator_dim, width, bias=False) for _ in range(num_domains))

    def gates(
        self, domain: int, indicator: DomainIndicator
    ) -> tuple[Float[Tensor, " dim_or_1"], Float[Tensor, " dim_or_1"]]:
        """What a domain's rows let through of each specific and of each shared unit."""
        f_domain = indicator(domain)
        specific: Tensor = self.own_specific_gates[domain](f_domain).sigmoid()
        shared: Tensor = self.own_shared_gates[domain](f_domain).sigmoid()
        return specific, shared

    def forward(
        self,
        specific: Float[Tensor, "batch dim"],
        shared: Float[Tensor, "batch dim"],
        indicator: DomainIndicator,
        domain_slices: DomainSlices,
    ) -> Float[Tensor, "batch fused"]:
        if has_short_spans(domain_slices):
            counts = [count for count in domain_slices.counts if count]
            gates = [self.gates(domain, indicator) for domain, _ in domain_slices]
            of_specific, of_shared = (torch.stack(each) for each in zip(*gates, strict=True))
            specific = _SpanScale.apply(specific, counts, of_specific)  # type: ignore[no-untyped-call]
            shared = _SpanScale.apply(shared, counts, of_shared)  # type: ignore[no-untyped-call]
            return torch.cat((specific, specific * shared, shared), dim=1)

        def run(domain: int, specific: Tensor, shared: Tensor) -> Tensor:
            specific_gate, shared_gate = self.gates(domain, indicator)
            gated_specific, gated_shared = specific_gate * specific, shared_gate * shared
            return torch.cat((gated_specific, gated_specific * gated_shared, gated_shared), dim=1)

        return by_domain(run, domain_slices, specific, shared, width=(self.out_dim,))


class _SpanScale(torch.autograd.Function):
    """Each span of rows times a vector, or number, of its own, in one step of autograd."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "batch dim"], counts: list[int], scales: Float[Tensor, "span width"]
    ) -> Float[Tensor, "batch dim"]:
        y = torch.empty_like(x, dtype=torch.result_type(x, scales))
        for own_x, own_y, scale in zip(torch.split(x, counts), torch.split(y, counts), scales, strict=True):
            torch.mul(own_x, scale, out=own_y)
        ctx.save_for_backward(x, scales)
        ctx.counts = counts
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "batch dim"]) -> tuple[Tensor | None, ...]:
        x, scales = ctx.saved_tensors
        of_x, of_scales = torch.empty_like(x), torch.empty_like(scales)
        rows = (torch.split(each, ctx.counts) for each in (gradient, x, of_x))
        for given, own_x, own_of_x, scale, own_of_scale in zip(*rows, scales, of_scales, strict=True):
            torch.mul(given, scale, out=own_of_x)
            own_of_scale.copy_((given * own_x).sum_to_size(1, scales.shape[1])[0])
        return of_x, None, of_scales


class SumFusion(nn.Module):
    """A weighted mean of specific and shared features; `out_dim` is `dim`.

    The gate's weight is each domain's own, its bias is shared, as eq. 14 is written.

    Source: ADI eq. 14-15 (SUM).
    """

    def __init__(self, num_domains: int, dim: int, indicator_dim: int, gate: FusionGate = "unit") -> None:
        super().__init__()
        self.out_dim = dim
        width = dim if gate == "unit" else 1
        self.own_gates = nn.ModuleList(nn.Linear(indicator_dim, width, bias=False) for _ in range(num_domains))
        self.shared_bias = nn.Parameter(torch.zeros(width))

    def gates(
        self, domain: int, indicator: DomainIndicator
    ) -> tuple[Float[Tensor, " dim_or_1"], Float[Tensor, " dim_or_1"]]:
        """A domain's weight of each specific unit, and of each shared one: the rest to 1."""
        weight = (self.own_gates[domain](indicator(domain)) + self.shared_bias).sigmoid()
        return weight, 1 - weight

    def forward(
        self,
        specific: Float[Tensor, "batch dim"],
        shared: Float[Tensor, "batch dim"],
        indicator: DomainIndicator,
        domain_slices: DomainSlices,
    ) -> Float[Tensor, "batch fused"]:
        def run(domain: int, specific: Tensor, shared: Tensor) -> Tensor:
            specific_gate, shared_gate = self.gates(domain, indicator)
            mixed: Tensor = specific_gate * specific + shared_gate * shared
            return mixed

        return by_domain(run, domain_slices, specific, shared, width=(self.out_dim,))
