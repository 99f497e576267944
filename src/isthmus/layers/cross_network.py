"""The cross network of DCN-v2: explicit products of the input with itself, of bounded degree (Wang et al. 2021)."""

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.layers.products import Linear


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, a layer after the other; the width stays.

    Args:
        num_layers: the highest degree is one more.
        rank: W is the product of two matrices of this inner width; None: one full matrix.
    """

    def __init__(self, dim: int, num_layers: int, rank: int | None = None) -> None:
        super().__init__()

        def weight() -> nn.Module:
            if rank is None:
                return Linear(dim, dim)
            return nn.Sequential(Linear(dim, rank, bias=False), Linear(rank, dim))

        self.layers = nn.ModuleList(weight() for _ in range(num_layers))

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        crossed = x
        for layer in self.layers:
            crossed = x * layer(crossed) + crossed
        return crossed
