"""DNN-Single: a network for each domain, nothing shared but what lies below the backbone."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.mlp import DomainMLP


class IndependentBackbone(nn.Module):
    """An MLP and a linear output for each domain, run on that domain's rows only.

    Args:
        own_norm: makes the norm of one domain's layer, which sees that domain's rows only.
        zero_start: the output layers start at 0.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        own_norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.networks = DomainMLP(num_domains, in_dim, hidden_dims, own_norm, dropout)
        self.output = DomainLinear(num_domains, self.networks.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        y: Tensor = self.output(self.networks(x, domain_slices), domain_slices)
        return y
