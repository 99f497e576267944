"""Training batches: sorted by domain, drawn by a seeded shuffle, at a position that can be taken up again."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from isthmus.batch import RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.features import FeatureReader, HistoryReader, Rows, to_bag
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
        plan = self._plan(epoch)
        filled = [step for step in range(self.num_steps) if any(len(chunks[step]) for chunks in plan)]
        for step in filled[first_step:]:  # domains of few rows in small batches can leave a step without any
            parts = [chunks[step] for chunks in plan]
            yield self.batch(np.concatenate(parts), DomainSlices.from_counts([len(part) for part in parts]))

    def _plan(self, epoch: int) -> list[list[Rows]]:
        """For each domain and step, which rows are taken."""
        generator = np.random.default_rng((self.seed, epoch))
        plan: list[list[Rows]] = []
        for first, last in zip(self.bounds, self.bounds[1:], strict=False):
            rows = generator.permutation(np.arange(first, last))
            num_chunks = max(1, min(self.num_steps, len(rows) // 2))
            steps = (np.arange(num_chunks) * self.num_steps + generator.integers(self.num_steps)) // num_chunks
            chunks: list[Rows] = [np.empty(0, dtype=np.int64)] * self.num_steps
            for step, chunk in zip(steps, np.array_split(rows, num_chunks), strict=True):
                chunks[int(step)] = chunk
            plan.append(chunks)
        return plan

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
