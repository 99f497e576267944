"""The reference recommenders on a prepared dataset: fitted on training positives, scored through each row's history."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from torch import Tensor

from isthmus.data.dataset import Column, Dataset, Split
from isthmus.data.features import HistoryReader, Rows
from isthmus.evaluation.references import Popularity, Reference


class ReferenceScorer:
    """Scores a domain's corpus by that domain's reference, from each row's history in the domain."""

    def __init__(self, references: Mapping[int, Reference], dataset: Dataset, split: Split) -> None:
        self.references = references
        self.events = dataset.events[split]
        self.split = split
        self.history = HistoryReader(dataset)
        self.num_items = dataset.num_items
        self.corpora = [dataset.corpus(domain) for domain in range(dataset.num_domains)]

    def __call__(self, domain: int, rows: Rows) -> Float[Tensor, "row corpus"]:
        own_domain = np.full(len(rows), domain, dtype=np.int64)
        span = self.history.event_span(self.events, rows, self.split)
        items, offsets = self.history.lists(span, own_domain)
        history = binary_matrix(items, offsets, self.num_items)
        score = self.references[domain].scores(history)[:, self.corpora[domain]]
        return torch.from_numpy(np.array(score, dtype=np.float32))


def training_interactions(dataset: Dataset) -> csr_matrix:
    """Users x items over the training positives of all domains, 1 where there is one or more."""
    history = HistoryReader(dataset)
    users = np.arange(dataset.num_users)
    span = history.span(users, "train")
    items, offsets = history.lists(span, None)
    return binary_matrix(items, offsets, dataset.num_items)


def binary_matrix(items: Column, offsets: Rows, num_items: int) -> csr_matrix:
    """One line a list of items, 1 where the item is in it; the unseen item, row 0, is in none."""
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    is_seen = items > 0
    ones = np.ones(int(is_seen.sum()), dtype=np.float32)
    matrix = csr_matrix((ones, (row[is_seen], items[is_seen])), shape=(len(offsets) - 1, num_items))
    matrix.data[:] = 1.0  # a repeated pair was summed
    return matrix


def popularity_by_domain(dataset: Dataset) -> dict[int, Reference]:
    """Each domain's own popularity, from training positives."""
    counts = np.asarray(dataset.item_count, dtype=np.float64)
    return {domain: Popularity(counts[domain]) for domain in range(dataset.num_domains)}
