"""What every index is: the best items for each query by inner product, exclusions left out inside the search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """The best items of each query, best first, the lower item row first where scores are equal.

    Attributes:
        item_row: row in the item vocabulary; -1 only where the corpus less the exclusions has fewer than k items.
        score: inner product of query and item; minus infinity where there is no item.
    """

    item_row: Int[Tensor, "query k"]
    score: Float[Tensor, "query k"]


@runtime_checkable
class ItemLists(Protocol):
    """Item rows for each query: list i is `values[offsets[i]:offsets[i + 1]]`. A batch's `Bag` is one."""

    @property
    def values(self) -> Int[Tensor, " value"]: ...

    @property
    def offsets(self) -> Int[Tensor, " query_plus_1"]: ...


class Index(Protocol):
    """Nearest-neighbour search over one corpus of items."""

    @property
    def num_items(self) -> int: ...

    def search(self, queries: Float[Tensor, "query dim"], k: int, excluded: ItemLists | None = None) -> Neighbours:
        """The k items of largest inner product with each query, save its excluded item rows.

        Excluded rows that the corpus does not hold are ignored.

        Raises:
            ValueError: k is below 1, a query is not finite or not of the items' width, or `excluded` has not one list
                for each query.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes the index into a folder, which the class's `load` reads."""
        ...


def require_corpus(vectors: Float[Tensor, "item dim"], item_row: Int[Tensor, " item"]) -> Int[Tensor, " item"]:
    """The order that sorts a corpus by item row.

    Raises:
        ValueError: there are no items, a vector is not finite, or an item row is negative or stands twice.
    """
    if not item_row.numel():
        raise ValueError("an index needs one item or more")
    if not bool(vectors.isfinite().all()):
        raise ValueError("an item vector is not finite")
    ordered, order = item_row.sort()
    if int(ordered[0]) < 0:
        raise ValueError(f"item rows must be 0 or more, got {int(ordered[0])}")
    repeated = ordered[1:] == ordered[:-1]
    if bool(repeated.any()):
        raise ValueError(f"item row {int(ordered[1:][repeated][0])} stands twice in the corpus")
    return order


def require_search(queries: Float[Tensor, "query dim"], k: int, excluded: ItemLists | None, *, dim: int) -> None:
    """Checks the arguments of a search.

    Raises:
        ValueError: as `Index.search` says.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    if queries.shape[1] != dim:
        raise ValueError(f"queries have width {queries.shape[1]}, the items {dim}")
    if not bool(queries.isfinite().all()):
        raise ValueError("a query is not finite")
    if excluded is not None and excluded.offsets.numel() != queries.shape[0] + 1:
        raise ValueError(f"{excluded.offsets.numel() - 1} exclusion lists for {queries.shape[0]} queries")


def excluded_columns(
    excluded: ItemLists, item_row: Int[Tensor, " item"]
) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Query number and place in a sorted corpus of each excluded item that the corpus holds, in order of queries."""
    values, offsets = excluded.values.to(item_row.device), excluded.offsets.to(item_row.device)
    lengths = offsets[1:] - offsets[:-1]
    queries = torch.arange(lengths.numel(), device=item_row.device)
    query = torch.repeat_interleave(queries, lengths, output_size=values.numel())
    column = torch.searchsorted(item_row, values).clamp_(max=item_row.numel() - 1)
    found: Bool[Tensor, " value"] = item_row[column] == values
    return query[found], column[found]


def best_first(
    column: Int[Tensor, "query found"], score: Float[Tensor, "query found"], item_row: Int[Tensor, " item"], k: int
) -> Neighbours:
    """Neighbours from places in a sorted corpus, in any order, with a score of minus infinity where there is none."""
    if column.shape[0] == 1 and not column.is_cuda:
        return _best_first_of_one(column[0].numpy(), score[0].numpy(), item_row.numpy(), k)
    by_column = column.argsort(dim=1, stable=True)
    column, score = column.gather(1, by_column), score.gather(1, by_column)
    score, by_score = score.sort(dim=1, descending=True, stable=True)
    rows = item_row[column.gather(1, by_score).clamp_(min=0)].masked_fill_(score == -torch.inf, -1)
    lacking = max(0, k - rows.shape[1])
    rows = torch.nn.functional.pad(rows[:, :k], (0, lacking), value=-1)
    return Neighbours(rows, torch.nn.functional.pad(score[:, :k], (0, lacking), value=-torch.inf))


def _best_first_of_one(
    column: Int[np.ndarray, " found"], score: Float[np.ndarray, " found"], item_row: Int[np.ndarray, " item"], k: int
) -> Neighbours:
    """The same for one query, by NumPy: for so few numbers torch takes ten times as long."""
    order = order_of_one(column, score)[:k]
    rows, best = np.full((1, k), -1, dtype=np.int64), np.full((1, k), -np.inf, dtype=score.dtype)
    num_found = int(np.count_nonzero(score[order] > -np.inf))
    found = order[:num_found]
    rows[0, :num_found], best[0, :num_found] = item_row[column[found]], score[found]
    return Neighbours(torch.from_numpy(rows), torch.from_numpy(best))


def order_of_one(column: Int[np.ndarray, " found"], score: Float[np.ndarray, " found"]) -> Int[np.ndarray, " found"]:
    """What puts the places that one query found in order: by falling score, where equal by rising place."""
    if bool((score[1:] < score[:-1]).all()):  # as an index gives them where none are equal
        return np.arange(len(score))
    return np.lexsort((column, -score))
