"""DNN: one network for the rows of all domains; a domain shows only in its features."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import output_linear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.mlp import MLP


class DNNBackbone(nn.Module):
    """An MLP and a linear output, for all rows.

    Args:
        zero_start: the output layer starts at 0 (for a backbone that corrects something else).
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.network = MLP(in_dim, hidden_dims, norm, dropout)
        self.output = output_linear(self.network.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        y: Tensor = self.output(self.network(x, domain_slices))
        return y
