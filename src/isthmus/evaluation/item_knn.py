"""Item-kNN for labelled rows: how like the row's item is to what its user took before."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix, issparse

from isthmus.data.dataset import Dataset, Split
from isthmus.data.features import HistoryReader
from isthmus.schema import Scope

BLOCK = 4096


def item_knn_scores(dataset: Dataset, split: Split, scope: Scope) -> Float[np.ndarray, " row"]:
    """For each labelled row, the sum of its item's cosines to the items of its user's history before the row.

    The cosine of two items is that of their columns in the matrix of who took what in training. A row whose user or
    item training does not know, and one without a history, has 0. Training rows are among what the cosines are
    counted on, so only scores of held-out rows mean something.

    Args:
        scope: the histories are of the row's `own` domain, of all `other` domains, or of `all`.

    Source: Deshpande and Karypis 2004, with all items as neighbours.
    """
    total, _ = sums_over_histories(dataset, split, scope, unit_columns(dataset))
    return total


def sums_over_histories(
    dataset: Dataset, split: Split, scope: Scope, vectors: csr_matrix | Float[np.ndarray, "item dim"]
) -> tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """For each labelled row, the sum of its item's inner products with the items of its user's history before the row,
    and how many these are."""
    assert dataset.impressions is not None
    rows = dataset.impressions[split]
    reader = HistoryReader(dataset)
    total, length = np.zeros(rows.num_rows), np.zeros(rows.num_rows, np.int64)
    for start in range(0, rows.num_rows, BLOCK):
        block = np.arange(start, min(start + BLOCK, rows.num_rows))
        domain = np.asarray(rows.domain[block], np.int64)
        values, offsets = reader.lists(reader.event_span(rows, block, split), domain, scope=scope)
        history = csr_matrix((np.ones(len(values)), values, offsets), shape=(len(block), dataset.num_items))
        of_history = history @ vectors  # the sum of inner products is the inner product with the sum
        of_item = vectors[np.asarray(rows.item_row[block], np.int64)]
        product = of_history.multiply(of_item) if issparse(of_history) else of_history * of_item
        total[block], length[block] = np.asarray(product.sum(axis=1)).ravel(), np.diff(offsets)
    return total, length


def unit_columns(dataset: Dataset) -> csr_matrix:
    """Who took each item in training, items by users, every item's line of length 1; that of row 0 is empty."""
    train = dataset.events["train"]
    is_known = (train.user_row > 0) & (train.item_row > 0)
    item, user = (np.asarray(column[is_known], np.int64) for column in (train.item_row, train.user_row))
    taken = csr_matrix((np.ones(len(item)), (item, user)), shape=(dataset.num_items, dataset.num_users))
    taken.data[:] = 1.0  # once, however often
    length = np.sqrt(np.asarray(taken.sum(axis=1)).ravel())
    taken.data /= np.repeat(length, np.diff(taken.indptr))
    return taken
