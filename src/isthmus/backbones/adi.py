"""ADI's backbone: shared networks and specific ones, their fusion, and a forward network for each domain.

    x -> K shared networks, mixed by a gate on the domain indicator (eq. 8-9)  \\
                                                                                fusion (eq. 11-15) -> forward (eq. 18)
    x -> the row's domain's own network (eq. 10)                               /

or, with "network_mul", one STAR network in place of the shared networks, the specific ones and the fusion (eq. 16-17).
"""

from collections.abc import Callable, Sequence
from typing import Literal, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.experts import Gate, GateForm, mix_experts
from isthmus.layers.fusion import ConcatFusion, FusionGate, SumFusion
from isthmus.layers.mlp import MLP, DomainMLP, StarMLP
from isthmus.layers.routing import by_domain

FusionKind = Literal["concat", "sum", "network_mul"]
NetworkAdaptation = Callable[[], nn.Module]
"""Makes what stands before one network, on the backbone's input: `NetworkSE` for the paper's 4-SE."""


class SharedNetworks(nn.Module):
    """K networks that all rows pass, mixed for each domain by a gate on its indicator.

    One network needs no gate: its weight is 1.

    Source: ADI eq. 8-9.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        num_shared: int,
        indicator_dim: int,
        gate: GateForm,
        norm: NormFactory,
        dropout: float,
        adaptation: NetworkAdaptation | None,
    ) -> None:
        super().__init__()
        self.num_shared = num_shared
        self.networks = nn.ModuleList(MLP(in_dim, hidden_dims, norm, dropout) for _ in range(num_shared))
        self.gate = Gate(indicator_dim, num_shared, gate) if num_shared > 1 else None
        self.adaptations = nn.ModuleList([] if adaptation is None else [adaptation() for _ in range(num_shared)])

    def forward(
        self, x: Float[Tensor, "batch in_dim"], indicator: DomainIndicator, domain_slices: DomainSlices
    ) -> Float[Tensor, "batch dim"]:
        inputs = [adaptation(x) for adaptation in self.adaptations] or [x] * self.num_shared
        outputs = [network(y, domain_slices) for network, y in zip(self.networks, inputs, strict=True)]
        if self.gate is None:
            only: Tensor = outputs[0]
            return only
        gate = self.gate

        def run(domain: int, rows: Tensor) -> Tensor:
            alpha: Tensor = gate(indicator(domain))  # one vector a domain, not one a row
            return alpha.expand(rows.shape[0], -1)

        weights = by_domain(run, domain_slices, x, width=(self.num_shared,))
        return mix_experts(outputs, weights)


class MixtureBottom(nn.Module):
    """Shared and specific networks and their fusion. Source: ADI eq. 8-15."""

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        num_shared: int,
        indicator_dim: int,
        gate: GateForm,
        fusion: Literal["concat", "sum"],
        fusion_gate: FusionGate,
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
        adaptation: NetworkAdaptation | None,
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.indicator = DomainIndicator(num_domains, indicator_dim)
        self.shared = SharedNetworks(
            in_dim,
            hidden_dims,
            num_shared=num_shared,
            indicator_dim=indicator_dim,
            gate=gate,
            norm=norm,
            dropout=dropout,
            adaptation=adaptation,
        )
        self.own_adaptations = nn.ModuleList([] if adaptation is None else [adaptation() for _ in range(num_domains)])
        self.specific = DomainMLP(num_domains, in_dim, hidden_dims, own_norm, dropout)
        fusion_layer = ConcatFusion if fusion == "concat" else SumFusion
        self.fusion = fusion_layer(num_domains, self.specific.out_dim, indicator_dim, fusion_gate)
        self.out_dim = self.fusion.out_dim

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch fused"]:
        shared = self.shared(x, self.indicator, domain_slices)
        specific = self.specific(self._adapt_own(x, domain_slices), domain_slices)
        fused: Tensor = self.fusion(specific, shared, self.indicator, domain_slices)
        return fused

    def _adapt_own(
        self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch in_dim"]:
        if not len(self.own_adaptations):
            return x

        def run(domain: int, rows: Tensor) -> Tensor:
            y: Tensor = self.own_adaptations[domain](rows)
            return y

        return by_domain(run, domain_slices, x, width=(self.in_dim,))


class ADIBackbone(nn.Module):
    """ADI's backbone whole; the paper's is CONCAT with domain-specific normalisation.

    Args:
        hidden_dims: widths of each shared and each specific network.
        num_shared: K, the shared networks; 1 for "network_mul", which has one.
        gate: form of the gate over the shared networks; not used where there is one.
        fusion: which of the paper's three fusions.
        fusion_gate: one weight for each unit, or one for each vector; not used by "network_mul".
        indicator_dim: width of the domain indicator's embedding; not used by "network_mul".
        forward_dims: widths of each domain's forward network before its output; may be empty.
        norm: makes the norm of a shared network's layer (and of a STAR network's).
        own_norm: makes the norm of one domain's layer, which sees that domain's rows only.
        zero_start: the output layers start at 0.
        network_adaptation: makes what stands before each shared and each specific network ((D+K)-SE).

    Raises:
        ValueError: "network_mul" with more than one shared network, or with a `network_adaptation`.

    Source: ADI eq. 8-18.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        num_shared: int,
        gate: GateForm,
        fusion: FusionKind,
        fusion_gate: FusionGate = "unit",
        indicator_dim: int,
        forward_dims: Sequence[int],
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
        network_adaptation: NetworkAdaptation | None = None,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.bottom: MixtureBottom | StarMLP
        match fusion:
            case "concat" | "sum":
                self.bottom = MixtureBottom(
                    num_domains,
                    in_dim,
                    hidden_dims,
                    num_shared=num_shared,
                    indicator_dim=indicator_dim,
                    gate=gate,
                    fusion=fusion,
                    fusion_gate=fusion_gate,
                    norm=norm,
                    own_norm=own_norm,
                    dropout=dropout,
                    adaptation=network_adaptation,
                )
            case "network_mul":
                if num_shared != 1 or network_adaptation is not None:
                    raise ValueError(
                        f"network_mul has one shared network and no network adaptation, got num_shared={num_shared}"
                    )
                self.bottom = StarMLP(num_domains, in_dim, hidden_dims, norm, dropout)
            case other:
                assert_never(other)
        self.forwards = DomainMLP(num_domains, self.bottom.out_dim, forward_dims, own_norm, dropout)
        self.output = DomainLinear(num_domains, self.forwards.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        fused: Tensor = self.bottom(x, domain_slices)
        y: Tensor = self.output(self.forwards(fused, domain_slices), domain_slices)
        return y
