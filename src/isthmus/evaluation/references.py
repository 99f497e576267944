"""Reference recommenders that every neural model must beat: popularity, item-kNN and EASE.

Each scores all items for users of whom only a history is known, one row a user; whoever evaluates leaves out what the
user already has and what the domain may not show.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_matrix, hstack

BLOCK_COLUMNS = 512  # items whose similarities to all others are held at a time


@runtime_checkable
class Reference(Protocol):
    """A recommender that needs a user's history alone."""

    def scores(self, history: csr_matrix) -> Float[ndarray, "user item"]:
        """Score of every item for every user.

        Args:
            history: users x items, 1 where the user has taken the item in training.

        Raises:
            ValueError: the history has another number of items than the training interactions.
        """
        ...


@dataclass(frozen=True)
class Popularity:
    """Items by how often they were taken, the same for every user.

    Attributes:
        item_count: training interactions of each item, in the domain that is judged.
    """

    item_count: Float[ndarray, " item"]

    def scores(self, history: csr_matrix) -> Float[ndarray, "user item"]:
        """As `Reference.scores`; a read-only view of one row."""
        _require_items(history, len(self.item_count))
        return np.broadcast_to(self.item_count, (history.shape[0], len(self.item_count)))


@dataclass(frozen=True)
class ItemKNN:
    """Items by the sum of their similarities to the items of the history.

    Attributes:
        similarity: items x items; column j holds the similarities of item j's nearest items.
    """

    similarity: csr_matrix

    def scores(self, history: csr_matrix) -> Float[ndarray, "user item"]:
        """As `Reference.scores`."""
        _require_items(history, self.similarity.shape[0])
        result: Float[ndarray, "user item"] = (history @ self.similarity).toarray()
        return result


@dataclass(frozen=True)
class EASE:
    """Items by a linear model of the history in which no item explains itself.

    Attributes:
        weight: weight[i, j] is what having item i adds to the score of item j; 0 for i = j.
    """

    weight: Float[ndarray, "item item"]

    def scores(self, history: csr_matrix) -> Float[ndarray, "user item"]:
        """As `Reference.scores`."""
        _require_items(history, self.weight.shape[0])
        result: Float[ndarray, "user item"] = history.astype(self.weight.dtype) @ self.weight
        return result


def fit_popularity(interactions: csr_matrix) -> Popularity:
    """Counts each item's interactions (users x items) of one domain's training rows."""
    return Popularity(np.asarray(interactions.sum(axis=0), dtype=np.float64).ravel())


def fit_item_knn(interactions: csr_matrix, *, num_neighbours: int, shrink: float) -> ItemKNN:
    """Cosine similarity of the items' columns, of which each item keeps its nearest items.

    Similarity of items i and j is <x_i, x_j> / (|x_i| |x_j| + shrink), 0 for i = j. Of items that tie for the last
    places the lower ones are kept.

    Args:
        interactions: users x items, of training rows.
        num_neighbours: how many items may add to one item's score.
        shrink: how little is trusted to items with few users in common; 0 or more.

    Raises:
        ValueError: `num_neighbours` is below 1 or `shrink` below 0.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours must be 1 or more, got {num_neighbours}")
    if not shrink >= 0:
        raise ValueError(f"shrink must be 0 or more, got {shrink}")
    columns = interactions.astype(np.float64).tocsc()
    norm = np.sqrt(np.asarray(columns.multiply(columns).sum(axis=0)).ravel())
    transposed = columns.T.tocsr()
    blocks = []
    for start in range(0, columns.shape[1], BLOCK_COLUMNS):
        block = columns[:, start : start + BLOCK_COLUMNS]
        similarity = (transposed @ block).toarray()
        scale = norm[:, None] * norm[None, start : start + block.shape[1]] + shrink
        np.divide(similarity, scale, out=similarity, where=scale > 0)  # an item without users is like no other
        own = np.arange(block.shape[1])
        similarity[start + own, own] = 0
        blocks.append(csr_matrix(_keep_largest(similarity, num_neighbours)))
    return ItemKNN(csr_matrix(hstack(blocks, format="csr")))


def fit_ease(interactions: csr_matrix, *, l2: float, dtype: torch.dtype = torch.float32) -> EASE:
    """The least-squares weights B of X ~ X B with a zero diagonal, in closed form.

    With P = (X'X + l2 I)^-1, B[i, j] = -P[i, j] / P[j, j]. Memory is three dense matrices of items x items.

    Args:
        interactions: users x items, X, of training rows.
        l2: weight of the squared norm of B; above 0, or X'X may have no inverse.
        dtype: of the inverse; single precision is enough while l2 is not far below the largest counts.

    Raises:
        ValueError: `l2` is not above 0.

    Source: Steck 2019, eq. 8.
    """
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, got {l2}")
    columns = interactions.astype(np.float64).tocsc()
    transposed = columns.T.tocsr()
    num_items = columns.shape[1]
    gram = torch.empty(num_items, num_items, dtype=dtype)
    for start in range(0, num_items, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, num_items)
        gram[:, start:stop] = torch.from_numpy((transposed @ columns[:, start:stop]).toarray())
    gram.diagonal().add_(l2)
    factor = torch.linalg.cholesky(gram)
    del gram
    weight = torch.cholesky_inverse(factor)
    weight.div_(-weight.diagonal().clone())  # divides column j by -P[j, j]
    weight.fill_diagonal_(0)
    return EASE(weight.numpy())


def _keep_largest(similarity: Float[ndarray, "item column"], count: int) -> Float[ndarray, "item column"]:
    """Each column's `count` largest entries, the others 0; of equal ones the upper."""
    if count >= len(similarity):
        return similarity
    least = np.partition(similarity, len(similarity) - count, axis=0)[len(similarity) - count]
    above, ties = similarity > least, similarity == least
    room = count - above.sum(axis=0)
    return np.where(above | (ties & (ties.cumsum(axis=0) <= room)), similarity, 0)


def _require_items(history: csr_matrix, num_items: int) -> None:
    if history.shape[1] != num_items:
        raise ValueError(f"the history has {history.shape[1]} items, the training interactions {num_items}")
