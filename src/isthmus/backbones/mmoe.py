"""MMoE: shared experts, mixed for each row by the gate of its domain."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.experts import Gate, mix_experts
from isthmus.layers.mlp import MLP, DomainMLP
from isthmus.layers.routing import by_domain


class MMoEBackbone(nn.Module):
    """Every expert runs on every row; each domain has a gate on the input, and a forward network behind the mixture.

    Args:
        hidden_dims: widths of each expert.
        forward_dims: widths of each domain's forward network before its output; may be empty.
        norm: makes the norm of an expert's layer, which sees the rows of all domains.
        own_norm: makes the norm of one domain's layer, which sees that domain's rows only.
        zero_start: the output layers start at 0.

    Source: Ma et al. 2018.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        num_experts: int,
        forward_dims: Sequence[int],
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.num_experts = num_experts
        self.experts = nn.ModuleList(MLP(in_dim, hidden_dims, norm, dropout) for _ in range(num_experts))
        self.own_gates = nn.ModuleList(Gate(in_dim, num_experts) for _ in range(num_domains))
        hidden_dim = (in_dim, *hidden_dims)[-1]
        self.forwards = DomainMLP(num_domains, hidden_dim, forward_dims, own_norm, dropout)
        self.output = DomainLinear(num_domains, self.forwards.out_dim, out_dim, zero_start=zero_start)

    def gate_weights(
        self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch expert"]:
        """Each row's weight of each expert; a row sums to 1."""

        def run(domain: int, rows: Tensor) -> Tensor:
            weights: Tensor = self.own_gates[domain](rows)
            return weights

        return by_domain(run, domain_slices, x, width=(self.num_experts,))

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        experts = [expert(x, domain_slices) for expert in self.experts]
        mixed = mix_experts(experts, self.gate_weights(x, domain_slices))
        y: Tensor = self.output(self.forwards(mixed, domain_slices), domain_slices)
        return y
