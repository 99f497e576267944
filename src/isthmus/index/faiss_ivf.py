"""Approximate search in an inverted file: only the lists nearest to the query are read."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.index.filtered import exclusions_by_query, faiss, filtered_search, search_of_one
from isthmus.index.protocol import (
    ItemLists,
    Neighbours,
    best_first,
    order_of_one,
    require_corpus,
    require_search,
)


class IVFIndex:
    """A FAISS inverted file, by inner product, whose lists hold the vectors plain or in 8 bits a number.

    With 8 bits the scores are those of the rounded vectors.
    """

    def __init__(self, inverted_file: Any, item_row: Int[Tensor, " item"]) -> None:
        """Takes over a trained and filled FAISS index; `build` and `load` make one.

        Args:
            item_row: rising; place i of the inverted file is item row `item_row[i]`.
        """
        self.inverted_file = inverted_file
        self.item_row = item_row

    @classmethod
    def build(
        cls,
        vectors: Float[Tensor, "item dim"],
        item_row: Int[Tensor, " item"],
        *,
        num_lists: int,
        num_probes: int,
        eight_bits: bool,
        seed: int,
    ) -> "IVFIndex":
        """Clusters the items into lists.

        Args:
            num_probes: lists read for a query; more are read where these cannot fill k.
            seed: of the clustering.

        Raises:
            ValueError: `num_lists` is above the number of items, or `num_probes` not in 1..`num_lists`.
        """
        order = require_corpus(vectors, item_row)
        if not 1 <= num_probes <= num_lists <= item_row.numel():
            raise ValueError(
                "num_probes may not exceed num_lists, nor that the number of items, got "
                f"{num_probes}, {num_lists} and {item_row.numel()}"
            )
        kind = f"IVF{num_lists},{'SQ8' if eight_bits else 'Flat'}"
        inverted_file = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        inverted_file.cp.seed = seed
        inverted_file.cp.min_points_per_centroid = 1  # a small corpus is no reason to write to the terminal
        inverted_file.nprobe = num_probes
        sorted_vectors = vectors[order].float().numpy(force=True)
        inverted_file.train(sorted_vectors)
        inverted_file.add(sorted_vectors)
        return cls(inverted_file, item_row[order].cpu())

    @property
    def num_items(self) -> int:
        return self.item_row.numel()

    def search(self, queries: Float[Tensor, "query dim"], k: int, excluded: ItemLists | None = None) -> Neighbours:
        """As `Index.search`; a query that is not filled reads twice as many lists, until all are read."""
        require_search(queries, k, excluded, dim=self.inverted_file.d)
        vectors = queries.float().numpy(force=True)
        exclusions = exclusions_by_query(excluded, self.item_row, len(vectors))
        num_found = min(k, self.num_items)
        score = np.empty((len(vectors), num_found), dtype=np.float32)
        column = np.full((len(vectors), num_found), -1, dtype=np.int64)
        num_probes, num_lists = self.inverted_file.nprobe, self.inverted_file.nlist
        unfilled = np.arange(len(vectors))
        while len(unfilled):
            left_out = [exclusions[query] for query in unfilled.tolist()]
            parameters = partial(_parameters, num_probes=num_probes)
            found = filtered_search(self.inverted_file, vectors[unfilled], num_found, left_out, parameters)
            score[unfilled], column[unfilled] = found
            if num_probes == num_lists:
                break
            num_probes = min(2 * num_probes, num_lists)
            unfilled = unfilled[(column[unfilled] == -1).any(axis=1)]
        score[column == -1] = -np.inf
        best = best_first(torch.from_numpy(column), torch.from_numpy(score), self.item_row, k)
        return Neighbours(best.item_row.to(queries.device), best.score.to(queries))

    def nearest(
        self, query: Float[np.ndarray, " dim"], k: int, excluded: Int[np.ndarray, " excluded"]
    ) -> tuple[Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
        """What `search` gives for one query, without tensors and rows of none: they take a tenth of a request.

        Args:
            excluded: places in the corpus that must not be found, ascending.

        Returns:
            Places in the corpus and scores, best first; fewer than k only where no more are left.

        Raises:
            ValueError: the query is not finite.
        """
        if not bool(np.isfinite(query).all()):
            raise ValueError("a query is not finite")
        num_wanted = min(k, self.num_items - len(excluded))
        num_probes, num_lists = self.inverted_file.nprobe, self.inverted_file.nlist
        while True:
            parameters = partial(_parameters, num_probes=num_probes)
            score, place = search_of_one(self.inverted_file, query, k, excluded, parameters)
            if len(place) >= num_wanted or num_probes == num_lists:
                order = order_of_one(place, score)
                return place[order], score[order]
            num_probes = min(2 * num_probes, num_lists)

    def tune(self, queries: Float[Tensor, "query dim"], best: Int[Tensor, "query k"], *, recall: float) -> float:
        """Read as few lists as find a share of the best items of some queries, or all; gives the share found.

        Args:
            best: the item rows that an exact search finds for each query.
        """

        def found(num_probes: int) -> float:
            self.inverted_file.nprobe = num_probes
            near = self.search(queries, best.shape[1]).item_row.numpy()
            exact = best.numpy()
            hits = [len(np.intersect1d(one, other)) for one, other in zip(near, exact, strict=True)]
            return float(sum(hits)) / exact.size

        least, most = 1, int(self.inverted_file.nlist)
        while least < most:
            middle = (least + most) // 2
            if found(middle) >= recall:
                most = middle
            else:
                least = middle + 1
        return found(most)

    def save(self, folder: Path) -> None:
        """Writes `inverted_file.faiss` and `item_row.npy`."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.inverted_file, str(folder / "inverted_file.faiss"))
        np.save(folder / "item_row.npy", self.item_row.numpy())

    @classmethod
    def load(cls, folder: Path) -> "IVFIndex":
        """Opens a saved index, its lists memory-mapped."""
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        inverted_file = faiss.read_index(str(folder / "inverted_file.faiss"), flags)
        # FAISS starts 32 threads a search to read ahead what the system reads ahead anyway: half of a search's time
        faiss.downcast_InvertedLists(inverted_file.invlists).prefetch_nthread = 0
        return cls(inverted_file, torch.from_numpy(np.load(folder / "item_row.npy")))


def _parameters(selector: Any, num_excluded: int, *, num_probes: int) -> Any:
    return faiss.SearchParametersIVF(nprobe=num_probes, sel=selector)
