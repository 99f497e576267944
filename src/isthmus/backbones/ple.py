"""PLE: levels of experts, each domain's own and shared ones, that a gate of the row's domain mixes.

Reading. PLE was written for tasks that share every row; here a row has one domain. Two streams leave each level but the
last: the row's own, mixed from its domain's experts and the shared ones, and the shared stream. The paper's shared gate
mixes the experts of all tasks; ours mixes those of the row's own domain and the shared ones, for the other
domains' experts have no stream for this row, and running them would make a step cost D times as much. One level is CGC,
which has no shared stream, so there the reading changes nothing.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.experts import Gate, mix_experts
from isthmus.layers.mlp import MLP, DomainMLP
from isthmus.layers.routing import by_domain, has_short_spans


class PLELevel(nn.Module):
    """One level: its experts, and each domain's gate over its own and the shared experts.

    Args:
        num_specific: own experts of each domain, run on that domain's rows only.
        num_shared: experts that run on all rows.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        num_specific: int,
        num_shared: int,
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_experts = num_specific + num_shared
        self.out_dim = (in_dim, *hidden_dims)[-1]
        self.specific = nn.ModuleList(
            DomainMLP(num_domains, in_dim, hidden_dims, own_norm, dropout) for _ in range(num_specific)
        )
        self.shared = nn.ModuleList(MLP(in_dim, hidden_dims, norm, dropout) for _ in range(num_shared))
        self.own_gates = nn.ModuleList(Gate(in_dim, self.num_experts) for _ in range(num_domains))

    def gate_weights(
        self, own: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch expert"]:
        """Each row's weight of each expert, specific ones first; a row sums to 1."""

        def run(domain: int, rows: Tensor) -> Tensor:
            weights: Tensor = self.own_gates[domain](rows)
            return weights

        return by_domain(run, domain_slices, own, width=(self.num_experts,))

    def forward(
        self,
        own: Float[Tensor, "batch in_dim"],
        shared: Float[Tensor, "batch in_dim"],
        domain_slices: DomainSlices,
        shared_gate: nn.Module | None = None,
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim_or_0"]]:
        """The row's own mixture of its experts, and the shared stream's; without a gate for that one, it is empty."""
        shared_features = [expert(shared, domain_slices) for expert in self.shared]
        shared_weights = [] if shared_gate is None else [shared_gate(shared)]
        if has_short_spans(domain_slices):
            experts = [expert(own, domain_slices) for expert in self.specific] + shared_features
            mixed = mix_experts(experts, self.gate_weights(own, domain_slices))
            passed = mix_experts(experts, shared_weights[0]) if shared_weights else mixed[:, self.out_dim :]
            return mixed, passed

        # All that a domain's rows pass is done at once: its rows are taken apart and put together once.
        def run(domain: int, rows: Tensor, *passed: Tensor) -> Tensor:
            single = DomainSlices.single(domain, rows.shape[0], domain_slices.num_domains)
            experts = [expert(rows, single) for expert in self.specific] + list(passed[: len(shared_features)])
            mixed = [mix_experts(experts, self.own_gates[domain](rows))]
            mixed += [mix_experts(experts, weights) for weights in passed[len(shared_features) :]]
            return torch.cat(mixed, dim=1) if len(mixed) > 1 else mixed[0]

        width = self.out_dim * (1 + len(shared_weights))
        streams = by_domain(run, domain_slices, own, *shared_features, *shared_weights, width=(width,))
        if not shared_weights:  # whole, for the gradient of a slice is a copy
            return streams, streams[:, self.out_dim :]
        return streams[:, : self.out_dim], streams[:, self.out_dim :]


class PLEBackbone(nn.Module):
    """`num_levels` levels of experts, then each domain's forward network.

    Args:
        hidden_dims: widths of each expert, the same at every level.
        num_specific: own experts of each domain at each level.
        num_shared: shared experts at each level.
        forward_dims: widths of each domain's forward network before its output; may be empty.
        norm: makes the norm of a shared expert's layer.
        own_norm: makes the norm of one domain's layer, which sees that domain's rows only.
        zero_start: the output layers start at 0.

    Source: Tang et al. 2020 (PLE), eq. 1-7, with the reading above.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        num_specific: int,
        num_shared: int,
        num_levels: int,
        forward_dims: Sequence[int],
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        hidden_dim = (in_dim, *hidden_dims)[-1]
        level_in_dims = [in_dim] + [hidden_dim] * (num_levels - 1)
        self.levels = nn.ModuleList(
            PLELevel(
                num_domains,
                level_in_dim,
                hidden_dims,
                num_specific=num_specific,
                num_shared=num_shared,
                norm=norm,
                own_norm=own_norm,
                dropout=dropout,
            )
            for level_in_dim in level_in_dims
        )
        # One gate for all domains: its first weights go to whichever domain's own experts the row has.
        self.shared_gates = nn.ModuleList(Gate(dim, num_specific + num_shared) for dim in level_in_dims[:-1])
        self.forwards = DomainMLP(num_domains, hidden_dim, forward_dims, own_norm, dropout)
        self.output = DomainLinear(num_domains, self.forwards.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        own, shared = x, x
        for level, shared_gate in zip(self.levels[:-1], self.shared_gates, strict=True):
            own, shared = level(own, shared, domain_slices, shared_gate)
        own, _ = self.levels[-1](own, shared, domain_slices)
        y: Tensor = self.output(self.forwards(own, domain_slices), domain_slices)
        return y
