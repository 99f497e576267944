"""DCN-v2: a cross network beside a deep one, for the rows of all domains (CDAnet's extractor in production)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.cross_network import CrossNetwork
from isthmus.layers.domain_linear import output_linear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.mlp import MLP


class DCNBackbone(nn.Module):
    """The parallel form: both networks read the input, a linear output reads both.

    Args:
        num_cross_layers, rank: of the cross network.
        zero_start: the output layer starts at 0.

    Source: Wang et al. 2021 (DCN V2).
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        num_cross_layers: int,
        rank: int | None,
        norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.cross = CrossNetwork(in_dim, num_cross_layers, rank)
        self.deep = MLP(in_dim, hidden_dims, norm, dropout)
        self.output = output_linear(in_dim + self.deep.out_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        y: Tensor = self.output(torch.cat([self.cross(x), self.deep(x, domain_slices)], dim=1))
        return y
