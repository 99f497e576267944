"""One call of a FAISS index with exclusions that differ from query to query."""

from collections.abc import Callable
from typing import Any

import faiss as typed_faiss
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from isthmus.index.protocol import ItemLists, excluded_columns

faiss: Any = typed_faiss  # its type stubs lack most of what is used here


def exclusions_by_query(
    excluded: ItemLists | None, item_row: Int[Tensor, " item"], num_queries: int
) -> list[Int[ndarray, " _excluded"]]:
    """Places in the corpus that each query must not find."""
    if excluded is None:
        return [np.empty(0, dtype=np.int64)] * num_queries
    if num_queries == 1:
        rows, corpus = excluded.values.numpy(force=True), item_row.numpy(force=True)
        place = np.minimum(np.searchsorted(corpus, rows), len(corpus) - 1)
        return [place[corpus[place] == rows]]
    query, column = excluded_columns(excluded, item_row)
    ends = torch.bincount(query, minlength=num_queries).cumsum(dim=0)
    return np.split(column.cpu().numpy(), ends[:-1].cpu().numpy()) if num_queries else []


def filtered_search(
    index: Any,
    queries: Float[ndarray, "query dim"],
    k: int,
    exclusions: list[Int[ndarray, " _excluded"]],
    parameters: Callable[[Any, int], Any],
) -> tuple[Float[ndarray, "query k"], Int[ndarray, "query k"]]:
    """Distances and places found, -1 where the search came to an end before k.

    Queries with as many exclusions as answers, or fewer, go in one call, which finds so many more that the exclusions
    can be left out of what it gives: asking a selector about every item that is compared takes longer. Each other query
    has a selector of its own.

    Args:
        parameters: the index's search parameters for a selector, or None, and the number of items it excludes.
    """
    distance = np.empty((len(queries), k), dtype=np.float32)
    column = np.empty((len(queries), k), dtype=np.int64)
    num_excluded = np.array([len(places) for places in exclusions], dtype=np.int64)
    few = num_excluded <= k
    if few.any():
        most = int(num_excluded[few].max())
        found, places = index.search(queries[few], k + most, params=parameters(None, most))
        for query, one, place in zip(np.flatnonzero(few).tolist(), found, places, strict=True):
            kept = outside(place, exclusions[query])[:k]
            distance[query], column[query] = one[kept], place[kept]
    for query in np.flatnonzero(~few).tolist():
        row = slice(query, query + 1)
        distance[row], column[row] = _search_allowed(index, queries[row], k, exclusions[query], parameters)
    return distance, column


def search_of_one(
    index: Any,
    query: Float[ndarray, " dim"],
    k: int,
    excluded: Int[ndarray, " _excluded"],
    parameters: Callable[[Any, int], Any],
) -> tuple[Float[ndarray, " found"], Int[ndarray, " found"]]:
    """The same for one query, without the places where the search came to an end before k."""
    if len(excluded) > k:
        found, places = _search_allowed(index, query[None], k, excluded, parameters)
        kept = np.flatnonzero(places[0] >= 0)
    else:
        most = len(excluded)
        found, places = index.search(query[None], k + most, params=parameters(None, most))
        kept = outside(places[0], excluded)[:k]
        kept = kept[places[0][kept] >= 0]
    return found[0][kept], places[0][kept]


def _search_allowed(
    index: Any,
    query: Float[ndarray, "1 dim"],
    k: int,
    excluded: Int[ndarray, " _excluded"],
    parameters: Callable[[Any, int], Any],
) -> tuple[Float[ndarray, "1 k"], Int[ndarray, "1 k"]]:
    """A search that asks about every item whether it is excluded."""
    is_allowed = np.ones(index.ntotal, dtype=bool)
    is_allowed[excluded] = False
    bits = np.packbits(is_allowed, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)  # a name of its own: the search has but a pointer to it
    distance, column = index.search(query, k, params=parameters(selector, len(excluded)))
    return distance, column


def outside(places: Int[ndarray, " found"], excluded: Int[ndarray, " _excluded"]) -> Int[ndarray, " _kept"]:
    """Which of the places are not excluded; for few of both a table of all would take longer."""
    if not len(excluded):
        return np.arange(len(places))
    ordered = np.sort(excluded)
    at = np.searchsorted(ordered, places)
    return np.flatnonzero(ordered.take(at, mode="clip") != places)
