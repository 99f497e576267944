"""Exact search: one matrix product and the k largest of each row."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.index.protocol import (
    ItemLists,
    Neighbours,
    best_first,
    excluded_columns,
    require_corpus,
    require_search,
)

BLOCK_SCORES = 1 << 24  # scores held at a time: 64 MiB in single precision


class ExactIndex:
    """All items of a corpus, scored for every query; on the device of the vectors."""

    def __init__(self, vectors: Float[Tensor, "item dim"], item_row: Int[Tensor, " item"]) -> None:
        order = require_corpus(vectors, item_row)
        in_order = bool((order[1:] > order[:-1]).all())  # a memory-mapped table is then left where it is
        self.vectors = vectors if in_order else vectors[order]
        self.item_row = item_row if in_order else item_row[order]

    @property
    def num_items(self) -> int:
        return self.item_row.numel()

    def search(self, queries: Float[Tensor, "query dim"], k: int, excluded: ItemLists | None = None) -> Neighbours:
        """As `Index.search`; exact, and the same whatever the order of the corpus."""
        require_search(queries, k, excluded, dim=self.vectors.shape[1])
        num_queries, num_found = queries.shape[0], min(k, self.num_items)
        query, column = torch.empty(2, 0, dtype=torch.int64, device=self.item_row.device)
        if excluded is not None:
            query, column = excluded_columns(excluded, self.item_row)
        found_column = self.item_row.new_empty(num_queries, num_found)
        found_score = queries.new_empty(num_queries, num_found)
        step = max(1, BLOCK_SCORES // self.num_items)
        for start in range(0, num_queries, step):
            rows = slice(start, min(start + step, num_queries))
            score = queries[rows] @ self.vectors.T
            bounds = torch.tensor([rows.start, rows.stop], device=query.device)
            first, last = torch.searchsorted(query, bounds).tolist()
            score[query[first:last] - start, column[first:last]] = -torch.inf
            found_score[rows], found_column[rows] = _largest(score, num_found)
        return best_first(found_column, found_score, self.item_row, k)

    def save(self, folder: Path) -> None:
        """Writes `vectors.npy` and `item_row.npy`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "vectors.npy", self.vectors.numpy(force=True))
        np.save(folder / "item_row.npy", self.item_row.numpy(force=True))

    @classmethod
    def load(cls, folder: Path) -> "ExactIndex":
        """Opens a saved index, the vectors memory-mapped."""
        # copy-on-write: torch takes no read-only memory
        vectors = np.load(folder / "vectors.npy", mmap_mode="c")
        return cls(torch.from_numpy(vectors), torch.from_numpy(np.load(folder / "item_row.npy")))


def _largest(score: Float[Tensor, "query item"], k: int) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    """The k largest scores of each row, of those equal to the least of them the ones of the lowest columns."""
    value, column = score.topk(k, dim=1)
    least = value[:, -1:]
    # topk takes any of the columns that tie for the last places: sort the rows where it had a choice
    had_choice = (score == least).sum(dim=1) > (value == least).sum(dim=1)
    if bool(had_choice.any()):
        ordered, order = score[had_choice].sort(dim=1, descending=True, stable=True)
        value[had_choice], column[had_choice] = ordered[:, :k], order[:, :k]
    return value, column
