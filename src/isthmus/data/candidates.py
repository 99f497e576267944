"""Candidate lists: drawn from a domain's corpus, or given."""

import numpy as np
from jaxtyping import Bool, Int

BLOCK_CELLS = 4_000_000


def sample_negatives(
    corpus: Int[np.ndarray, " corpus"],
    forbidden: Int[np.ndarray, " pair"],
    user: Int[np.ndarray, " row"],
    *,
    num_items: int,
    count: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "row count"]:
    """For each row `count` different items of the corpus, drawn uniformly among those not forbidden to its user.

    Where fewer are left, all of them; -1 fills the rest.

    Args:
        corpus: distinct item numbers.
        forbidden: sorted `user * num_items + item` of pairs that must not be drawn.
    """
    width = min(len(corpus), 2 * count)
    block = max(1, BLOCK_CELLS // max(1, width))
    drawn = np.full((len(user), count), -1, np.int64)
    for start in range(0, len(user), block):
        rows = slice(start, start + block)
        if width < len(corpus):
            drawn[rows], is_full = _draw_with_rejection(corpus, forbidden, user[rows], num_items, count, rng)
        else:
            is_full = np.zeros(len(user[rows]), bool)
        # A small corpus, or a user who took much of it: order the whole corpus at random instead.
        rest = start + np.flatnonzero(~is_full)
        part = max(1, BLOCK_CELLS // max(1, len(corpus)))
        for first in range(0, len(rest), part):
            chosen = rest[first : first + part]
            drawn[chosen] = _draw_by_shuffling(corpus, forbidden, user[chosen], num_items, count, rng)
    return drawn


def _draw_with_rejection(
    corpus: np.ndarray, forbidden: np.ndarray, user: np.ndarray, num_items: int, count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "row count"], Bool[np.ndarray, " row"]]:
    items = corpus[rng.integers(len(corpus), size=(len(user), 2 * count))]
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    repeated = np.zeros(items.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    allowed = ~repeated & ~_is_forbidden(items, user, forbidden, num_items)
    place = np.cumsum(allowed, axis=1)
    row, column = np.nonzero(allowed & (place <= count))
    drawn = np.full((len(user), count), -1, np.int64)
    drawn[row, place[row, column] - 1] = items[row, column]
    return drawn, place[:, -1] >= count


def _draw_by_shuffling(
    corpus: np.ndarray, forbidden: np.ndarray, user: np.ndarray, num_items: int, count: int, rng: np.random.Generator
) -> Int[np.ndarray, "row count"]:
    items = np.broadcast_to(corpus, (len(user), len(corpus)))
    chance = rng.random(items.shape)
    chance[_is_forbidden(items, user, forbidden, num_items)] = np.inf
    order = np.argsort(chance, axis=1)[:, :count]
    drawn = np.full((len(user), count), -1, np.int64)
    found = np.take_along_axis(items, order, axis=1)
    drawn[:, : found.shape[1]] = np.where(np.isinf(np.take_along_axis(chance, order, axis=1)), -1, found)
    return drawn


def _is_forbidden(
    items: np.ndarray, user: np.ndarray, forbidden: np.ndarray, num_items: int
) -> Bool[np.ndarray, "row column"]:
    if not len(forbidden):
        return np.zeros(items.shape, bool)
    pair = user[:, None].astype(np.int64) * num_items + items
    place = np.searchsorted(forbidden, pair)
    found: np.ndarray = forbidden[np.minimum(place, len(forbidden) - 1)] == pair
    return found


def sort_lists(rows: Int[np.ndarray, "row place"]) -> Int[np.ndarray, "row place"]:
    """Item rows of each list ascending, -1 at its end."""
    last = np.iinfo(np.int32).max
    ordered = np.sort(np.where(rows < 0, last, rows), axis=1)
    return np.where(ordered == last, -1, ordered).astype(np.int32)
