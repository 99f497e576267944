"""Shared-Bottom: one network for all rows, then a forward network for each domain."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.mlp import MLP, DomainMLP


class SharedBottomBackbone(nn.Module):
    """A shared MLP, then each domain's forward network with a linear output on its own rows.

    Args:
        hidden_dims: widths of the shared MLP.
        forward_dims: widths of each forward network before its output; may be empty.
        norm: makes the norm of a shared layer.
        own_norm: makes the norm of one domain's layer, which sees that domain's rows only.
        zero_start: the output layers start at 0.

    Source: Caruana 1997.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        forward_dims: Sequence[int],
        norm: NormFactory,
        own_norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.shared = MLP(in_dim, hidden_dims, norm, dropout)
        self.forwards = DomainMLP(num_domains, self.shared.out_dim, forward_dims, own_norm, dropout)
        self.output = DomainLinear(num_domains, self.forwards.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        bottom: Tensor = self.shared(x, domain_slices)
        y: Tensor = self.output(self.forwards(bottom, domain_slices), domain_slices)
        return y
