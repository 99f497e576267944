"""Training batches: sorted by domain, drawn by a seeded shuffle, at a position that can be taken up again."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.batch import RankingBatch, RetrievalBatch
from isthmus.data.dataset import Column, Dataset
from isthmus.data.features import FeatureReader, HistoryReader, RankingReader, Rows, to_bag
from isthmus.domains import DomainSlices


class RetrievalLoader:
    """Batches of a dataset's training positives.

    Every step holds its share of each domain's rows; a domain with few rows comes two rows or more at a time, in fewer
    steps, so that batch statistics exist. The batches of an epoch depend on the seed and the epoch's number alone.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, seed: int, fields: Sequence[str] | None = None) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be 2 or more, got {batch_size}")
        self.events = dataset.events["train"]
        self.bounds = self.events.domain_bounds(dataset.num_domains)
        self.num_steps = -(-self.events.num_rows // batch_size)
        self.seed = seed
        self.reader = FeatureReader(dataset, "user", fields)
        self.history = HistoryReader(dataset)

    @property
    def num_rows(self) -> int:
        return self.events.num_rows

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[RetrievalBatch]:
        """The batches of an epoch from `first_step` on."""
        everything = [range(first, last) for first, last in pairwise(self.bounds)]
        for parts in mixed_steps(everything, self.num_steps, (self.seed, epoch))[first_step:]:
            yield self.batch(np.concatenate(parts), DomainSlices.from_counts([len(part) for part in parts]))

    def batch(self, rows: Rows, domain_slices: DomainSlices) -> RetrievalBatch:
        """The batch of given event rows, which lie sorted by domain."""
        events = self.events
        user_row = np.asarray(events.user_row[rows], dtype=np.int64)
        domain = np.asarray(events.domain[rows], dtype=np.int64)
        span = self.history.event_span(events, rows, "train")
        user = self.reader.read(user_row, domain, span=span, events=events, event_rows=rows)
        known = self.history.lists(self.history.span(user_row, "train"), domain)
        item_row = torch.from_numpy(np.asarray(events.item_row[rows], dtype=np.int64))
        return RetrievalBatch(user, item_row, to_bag(*known), domain_slices)


def numbered(rows: Rows | range) -> Rows:
    """The rows as an array; those of a range take four bytes each where they can."""
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, dtype=np.int32 if rows.stop <= np.iinfo(np.int32).max else np.int64)
    return rows


def shuffled(rows: Rows | range, generator: np.random.Generator) -> Rows:
    """The rows in random order, in memory of their own."""
    drawn = numbered(rows)
    drawn = drawn.copy() if drawn is rows else drawn
    generator.shuffle(drawn)
    return drawn


def mixed_steps(rows: Sequence[Rows | range], num_steps: int, seed: tuple[int, int]) -> list[list[Rows]]:
    """For each step, the rows of each domain: all rows once, drawn by a seeded shuffle, every step its share of each.

    A domain of few rows comes two rows or more at a time, in fewer steps; a step without any row is left out.
    """
    generator = np.random.default_rng(seed)
    plan: list[list[Rows]] = []
    for own in rows:
        drawn = shuffled(own, generator)
        num_chunks = max(1, min(num_steps, len(own) // 2))
        steps = (np.arange(num_chunks) * num_steps + generator.integers(num_steps)) // num_chunks
        chunks: list[Rows] = [drawn[:0]] * num_steps
        for step, chunk in zip(steps, np.array_split(drawn, num_chunks), strict=True):
            chunks[int(step)] = chunk
        plan.append(chunks)
    steps_of_all = [[chunks[step] for chunks in plan] for step in range(num_steps)]
    return [parts for parts in steps_of_all if any(len(part) for part in parts)]


def steps_in_turn(rows: Sequence[Rows | range], batch_size: int, seed: tuple[int, int]) -> list[list[Rows]]:
    """As `mixed_steps`, but each step holds rows of one domain alone; the domains' steps come in random order."""
    generator = np.random.default_rng(seed)
    steps: list[list[Rows]] = []
    for domain, own in enumerate(rows):
        if len(own):
            for chunk in np.array_split(shuffled(own, generator), -(-len(own) // batch_size)):
                steps.append([chunk if d == domain else chunk[:0] for d in range(len(rows))])
    return [steps[place] for place in generator.permutation(len(steps))]


def without_some_negatives(rows: Rows, label: Column, share: float, generator: np.random.Generator) -> Rows:
    """The rows in their order, of which a share of the negatives is kept and every positive."""
    is_positive = np.asarray(label[rows]) > 0
    negatives = generator.permutation(rows[~is_positive])
    return np.sort(np.concatenate([rows[is_positive], negatives[: num_kept(share, len(negatives))]]))


def num_kept(share: float, num_negatives: int) -> int:
    """How many of a domain's negatives are kept: whole rows, and one at least."""
    return max(1, round(share * num_negatives))


class RankingLoader:
    """Batches of a dataset's labelled training rows; the batches of an epoch depend on seed and epoch alone.

    Args:
        domains: numbers of the domains whose rows are taken; None: all.
        share: of each domain's rows, the share that is kept, drawn by the seed; above 0, at most 1.
        negative_shares: of each domain's rows that are negatives, the share of these that is kept, alike; None: all.
        unseen_items: in each epoch, the share of rows whose item is read as one that training does not know, drawn
            anew; at least 0, below 1.
        in_turn: a batch holds rows of one domain alone, instead of its share of each.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        fields: Sequence[str] | None = None,
        domains: Sequence[int] | None = None,
        share: float = 1.0,
        negative_shares: Sequence[float] | None = None,
        unseen_items: float = 0.0,
        in_turn: bool = False,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be 2 or more, got {batch_size}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        if not 0 <= unseen_items < 1:
            raise ValueError(f"unseen_items must be at least 0 and below 1, got {unseen_items}")
        assert dataset.impressions is not None, "the dataset declares no ranking"
        self.events = dataset.impressions["train"]
        assert self.events.label is not None
        self.reader = RankingReader(dataset, fields)
        self.batch_size, self.seed, self.in_turn = batch_size, seed, in_turn
        self.unseen_items = unseen_items
        generator, thinning = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        self.rows: list[Rows | range] = []
        for domain, (first, last) in enumerate(pairwise(self.events.domain_bounds(dataset.num_domains))):
            own: Rows | range = range(first, last)
            if share < 1:
                own = np.sort(shuffled(own, generator)[: max(1, round(share * len(own)))])
            if negative_shares is not None and negative_shares[domain] < 1:
                own = without_some_negatives(numbered(own), self.events.label, negative_shares[domain], thinning)
            self.rows.append(own if domains is None or domain in domains else own[:0])
        self.num_rows = sum(len(own) for own in self.rows)

    def steps(self, epoch: int) -> list[list[Rows]]:
        """For each step of an epoch, the rows of each domain."""
        if self.in_turn:
            return steps_in_turn(self.rows, self.batch_size, (self.seed, epoch))
        return mixed_steps(self.rows, -(-self.num_rows // self.batch_size), (self.seed, epoch))

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[RankingBatch]:
        """The batches of an epoch from `first_step` on."""
        is_unseen: NDArray[np.bool_] | None = None
        if self.unseen_items:  # drawn for the whole epoch at once, so that it does not matter where it is taken up
            drawn = np.random.default_rng([self.seed, epoch, 1]).random(self.events.num_rows)
            is_unseen = drawn < self.unseen_items
        for parts in self.steps(epoch)[first_step:]:
            rows = np.concatenate(parts)
            slices = DomainSlices.from_counts([len(part) for part in parts])
            yield self.batch(rows, slices, is_unseen=None if is_unseen is None else is_unseen[rows])

    def batch(self, rows: Rows, domain_slices: DomainSlices, *, is_unseen: NDArray[np.bool_] | None) -> RankingBatch:
        """The batch of given rows, which lie sorted by domain; `is_unseen` says whose item is read as unknown."""
        assert self.events.label is not None
        label = torch.from_numpy(np.asarray(self.events.label[rows], dtype=np.float32))
        features = self.reader.read(self.events, rows, "train", is_unseen=is_unseen)
        return RankingBatch(features, label, domain_slices)
