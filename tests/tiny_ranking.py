"""Labelled rows in memory and random features, small enough to be worked by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices

TABLES = {"user": 7, "item": 9, "words": 5}


def side(
    names: Sequence[str], categorical: Sequence[str], bags: Sequence[str], numbers: int, num_domains: int
) -> FeatureSizes:
    """Sizes of one side; the last domain lacks the side's last field where there are several."""
    present = [[True] * len(names) for _ in range(num_domains)]
    if len(names) > 1:
        present[-1][-1] = False
    return FeatureSizes(tuple(names), tuple(categorical), tuple(bags), numbers, tuple(map(tuple, present)))


def ranking_sizes(num_domains: int) -> RankingSizes:
    """A user and a bag, an item, and two numbers of the row."""
    return RankingSizes(
        side(["user", "history"], ["user"], ["item"], 0, num_domains),
        side(["item"], ["item"], [], 0, num_domains),
        side(["mean", "count"], [], [], 2, num_domains),
    )


def random_features(counts: Sequence[int], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> RankingFeatures:
    """Random rows for `ranking_sizes`, `counts[d]` of domain d."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    lengths = integers(4, rows)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    nothing = torch.zeros(rows, 0, dtype=dtype)
    return RankingFeatures(
        Features(integers(7, rows, 1), (Bag(integers(9, int(offsets[-1])), offsets),), nothing),
        Features(integers(9, rows, 1), (), nothing),
        Features(integers(1, rows, 0), (), torch.randn(rows, 2, generator=generator, dtype=dtype)),
    )


def slices(counts: Sequence[int]) -> DomainSlices:
    return DomainSlices.from_counts(counts)


def take(features: RankingFeatures, rows: Sequence[int]) -> RankingFeatures:
    return features.take(torch.tensor(rows, dtype=torch.int64))
