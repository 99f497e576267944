"""Runs each domain's part on its own rows only, and puts the rows back in order."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.domains import DomainSlices


def by_domain(
    run: Callable[[int, slice], Tensor],
    domain_slices: DomainSlices,
    *,
    like: Float[Tensor, "batch ..."],
    width: tuple[int, ...],
) -> Float[Tensor, "batch ..."]:
    """What `run` gives for each domain that has rows, one below the other: the order of the batch.

    The work grows with the rows, not with the number of domains, and a domain without rows is not touched: its
    parameters get no gradient (None, not zero) and so no optimizer moves them.

    Args:
        run: takes a domain and its rows; gives one row of `width` for each.
        like: the input, for its number of rows, type and device.
        width: shape of one row of the result, for a batch without rows.
    """
    assert like.shape[0] == domain_slices.num_rows, f"{like.shape[0]} rows, {domain_slices.num_rows} in slices"
    parts = [run(domain, rows) for domain, rows in domain_slices]
    if not parts:
        return like.new_empty((0, *width))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
