"""Runs each domain's part on its own rows only, and puts the rows back in order."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.domains import DomainSlices

LONG_SPAN = 512  # rows a domain, on average


def has_short_spans(domain_slices: DomainSlices) -> bool:
    """Whether, in training, several domains' rows should go through one layer after the other together.

    Where a domain has many rows, it is one domain after the other that should go through all layers: its numbers then
    come from the cache, and that saves more than fewer operations do.
    """
    present = sum(count > 0 for count in domain_slices.counts)
    return torch.is_grad_enabled() and present > 1 and domain_slices.num_rows < LONG_SPAN * present


def by_domain(
    run: Callable[..., Tensor],
    domain_slices: DomainSlices,
    *inputs: Float[Tensor, "batch ..."],
    width: tuple[int, ...],
) -> Float[Tensor, "batch ..."]:
    """What `run` gives for each domain that has rows, one below the other: the order of the batch.

    The work grows with the rows, not with the number of domains, and a domain without rows is not touched: its
    parameters get no gradient (None, not zero) and so no optimizer moves them.

    Args:
        run: takes a domain and that domain's rows of each input; gives as many rows, each of shape `width`.
        inputs: one or more; the first one's type and device are those of an empty result.
        width: shape of one row of the result, for a batch without rows.
    """
    for x in inputs:
        assert x.shape[0] == domain_slices.num_rows, f"{x.shape[0]} rows, {domain_slices.num_rows} in slices"
    if domain_slices.num_rows == 0:
        return inputs[0].new_empty((0, *width))
    present = [domain for domain, _ in domain_slices]
    if len(present) == 1:
        return run(present[0], *inputs)
    # Split, not sliced: the gradient of a slice is a tensor of the whole batch, D times over; that of a split is one.
    counts = list(domain_slices.counts)
    parts = zip(*(torch.split(x, counts) for x in inputs), strict=True)
    outputs = [run(domain, *part) for domain, part in enumerate(parts) if counts[domain]]
    return torch.cat(outputs)
