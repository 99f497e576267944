"""Linear layers with weights of each domain: separate ones, and STAR's product with a shared one.

Each domain's weights are parameters of their own, not slices of one tensor: a domain without rows in a step then has
no gradient at all, and momentum or weight decay cannot move it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain


def output_linear(in_dim: int, out_dim: int, *, zero_start: bool) -> nn.Linear:
    """A linear layer; with `zero_start` its weight and bias are 0, so that it first adds nothing to a residual."""
    linear = nn.Linear(in_dim, out_dim)
    if zero_start:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear


class DomainLinear(nn.Module):
    """A linear layer for each domain, run on that domain's rows only.

    Args:
        zero_start: all weights and biases start at 0.
    """

    def __init__(self, num_domains: int, in_dim: int, out_dim: int, *, zero_start: bool = False) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.own_layers = nn.ModuleList(
            output_linear(in_dim, out_dim, zero_start=zero_start) for _ in range(num_domains)
        )

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        def run(domain: int, rows: Tensor) -> Tensor:
            y: Tensor = self.own_layers[domain](rows)
            return y

        return by_domain(run, domain_slices, x, width=(self.out_dim,))


class StarLinear(nn.Module):
    """STAR's layer: each domain's weight is the shared weight times the domain's factor, element by element.

    The factor starts at 1 and the domain's bias at 0, so every domain starts as the shared layer. (A product of two
    random starts would shrink the weights and with them the signal.)

    Args:
        zero_start: the shared weight and bias start at 0; the factors still at 1, so that the shared weight can move.

    Source: ADI eq. 16, (W_shared * W_spec) x + b_shared + b_spec; Sheng et al. 2021 (STAR), eq. 5-6.
    """

    def __init__(self, num_domains: int, in_dim: int, out_dim: int, *, zero_start: bool = False) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.shared = output_linear(in_dim, out_dim, zero_start=zero_start)
        self.own_factors = nn.ParameterList(nn.Parameter(torch.ones(out_dim, in_dim)) for _ in range(num_domains))
        self.own_biases = nn.ParameterList(nn.Parameter(torch.zeros(out_dim)) for _ in range(num_domains))

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        def run(domain: int, rows: Tensor) -> Tensor:
            weight = self.shared.weight * self.own_factors[domain]
            return functional.linear(rows, weight, self.shared.bias + self.own_biases[domain])

        return by_domain(run, domain_slices, x, width=(self.out_dim,))
