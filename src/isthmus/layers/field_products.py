"""Products of embedded fields, which dense layers on the fields side by side learn only slowly."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FieldProducts(nn.Module):
    """The inner product of every pair of embedded fields, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Of a history, whose vector is the sum of its items' over the square root of their number, and the item shown, that
    is how like the item is to what its user took before.

    Args:
        num_fields: two or more make a pair; with fewer there is no product.

    Source: the interaction of DLRM (Naumov et al. 2019), of inner product networks (Qu et al. 2016).
    """

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(num_fields, num_fields, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.first: Tensor
        self.second: Tensor
        self.num_products = len(first)

    def forward(self, fields: Float[Tensor, "batch field dim"]) -> Float[Tensor, "batch product"]:
        products: Tensor = torch.einsum("bfd,bgd->bfg", fields, fields)[:, self.first, self.second]
        return products


def side_by_side(
    fields: Float[Tensor, "batch field dim"], products: FieldProducts | None
) -> Float[Tensor, "batch in_dim"]:
    """The embedded fields one after the other, and behind them their products where there is a layer for these."""
    flat = fields.flatten(start_dim=1)
    return flat if products is None else torch.cat([flat, products(fields)], dim=1)


def side_by_side_dim(num_fields: int, dim: int, products: FieldProducts | None) -> int:
    """How many numbers a row of `side_by_side` has."""
    return num_fields * dim + (0 if products is None else products.num_products)
