"""A linear layer of each domain on rows sorted by domain, in four ways.

Segment by segment, the results put together; segment by segment, each written to its place, as the layers do; in padded
stacks; in one grouped product. Each way starts from one weight a domain, a parameter of its own as in `DomainLinear`,
and gives forward and backward: the gradients of the rows, and of every weight.
"""

from collections.abc import Callable
from statistics import median

import torch
from benchmarks.sizes import Sizes
from benchmarks.table import Line, cpu_seconds, median_ratio
from torch import Tensor
from torch.nn import functional

from isthmus.layers.domain_linear import product_by_span
from isthmus.layers.products import linear

Way = Callable[[Tensor, list[int], list[Tensor]], Tensor]


def by_segment(x: Tensor, counts: list[int], weights: list[Tensor]) -> Tensor:
    """One product a domain, put together at the end."""
    return torch.cat([linear(rows, weight) for rows, weight in zip(torch.split(x, counts), weights, strict=True)])


def in_place(x: Tensor, counts: list[int], weights: list[Tensor]) -> Tensor:
    """One product a domain, written to its place: what the layers do."""
    return product_by_span(x, counts, [(weight, None) for weight in weights])


def padded(x: Tensor, counts: list[int], weights: list[Tensor]) -> Tensor:
    """One batched product, of as many rows a domain as the largest has; where all have as many, nothing is padded."""
    stacked, most = torch.stack(weights), max(counts)
    if min(counts) == most:
        return torch.bmm(x.view(len(counts), most, -1), stacked.transpose(1, 2)).flatten(0, 1)
    place = torch.cat([torch.arange(count) + domain * most for domain, count in enumerate(counts)])
    rows = x.new_zeros(len(counts) * most, x.shape[1]).index_copy(0, place, x)
    products = torch.bmm(rows.view(len(counts), most, -1), stacked.transpose(1, 2))
    return products.flatten(0, 1).index_select(0, place)


def grouped(x: Tensor, counts: list[int], weights: list[Tensor]) -> Tensor:
    """PyTorch's product of groups of rows."""
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    y: Tensor = functional.grouped_mm(x, torch.stack(weights).transpose(1, 2), offs=ends)
    return y


WAYS: dict[str, Way] = {"by segment": by_segment, "in place": in_place, "padded": padded, "grouped": grouped}


def equal_counts(num_rows: int, num_domains: int) -> list[int]:
    """As near to equal as they can be, made equal by leaving out the rest."""
    return [num_rows // num_domains] * num_domains


def uneven_counts(num_rows: int, num_domains: int) -> list[int]:
    """The largest domain has twice the rows of the smallest."""
    shares = [1 + place / max(1, num_domains - 1) for place in range(num_domains)]
    return [max(1, int(num_rows * share / sum(shares))) for share in shares]


def measure_segments(sizes: Sizes) -> list[Line]:
    """Each way's time to that of segments, for numbers of domains; below 1 it wins."""
    lines = []
    for form, counts_of in (("equal", equal_counts), ("uneven", uneven_counts)):
        for num_domains in sizes.segment_domains:
            counts = counts_of(sizes.backbone_rows, num_domains)
            runs = {name: layer_pass(way, counts, sizes.backbone_dims[:2]) for name, way in WAYS.items()}
            seconds = cpu_seconds(runs, sizes.repeats)
            lines += [
                Line(
                    "segments",
                    f"{name}, {form}, D = {num_domains}",
                    1e6 * median(seconds[name]) / sum(counts),
                    "us/row",
                    median_ratio(seconds[name], seconds["by segment"]),
                    "by segment",
                )
                for name in WAYS
            ]
    return lines


def layer_pass(way: Way, counts: list[int], dims: tuple[int, int]) -> Callable[[], None]:
    """Forward and backward of the layer."""
    in_dim, out_dim = dims
    x = torch.rand(sum(counts), in_dim, requires_grad=True)
    weights = [torch.rand(out_dim, in_dim, requires_grad=True) for _ in counts]
    gradient = torch.rand(sum(counts), out_dim)

    def run() -> None:
        for leaf in (x, *weights):
            leaf.grad = None
        torch.autograd.backward(way(x, counts, weights), gradient)

    return run
