"""Negatives for logs of positives alone: drawn for each positive, in its domain, among what its user has not taken."""

from collections.abc import Callable
from typing import assert_never

import numpy as np
from jaxtyping import Int

from isthmus.data.splits import Taken
from isthmus.schema import SampledNegatives

ROUNDS = 50  # of drawing again what may not be drawn; a place that stays open after them stays empty


def sample_row_negatives(
    settings: SampledNegatives,
    positives: Taken,
    known: Taken,
    train: Taken,
    *,
    everything: Taken,
    num_items: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "positive place"]:
    """Item numbers drawn for each positive of one split and domain; -1 where none was left.

    Args:
        positives: the rows to draw for, all of one domain.
        known: what users took up to the end of this split, in all domains; never drawn for them.
        train: training positives of the domain, whose items and popularity the draw knows.
        everything: all positives of the domain, for `items: all`.
        num_items: one above the largest item number.
    """
    forbidden = np.unique(known.user.astype(np.int64) * num_items + known.item)
    user = positives.user.astype(np.int64)
    match settings.draw:
        case "uniform":
            corpus = np.unique((everything if settings.items == "all" else train).item)

            def propose(rows: np.ndarray) -> np.ndarray:
                drawn: np.ndarray = corpus[rng.integers(len(corpus), size=len(rows))]
                return drawn

        case "popularity" | "same_split":
            taken = (train if settings.draw == "popularity" else positives).item

            def propose(rows: np.ndarray) -> np.ndarray:
                drawn: np.ndarray = taken[rng.integers(len(taken), size=len(rows))]
                return drawn

        case "time_window":
            assert positives.time is not None
            order = np.lexsort((positives.item, positives.user, positives.time))
            place = np.empty(len(order), np.int64)
            place[order] = np.arange(len(order))
            by_time = positives.item[order]

            def propose(rows: np.ndarray) -> np.ndarray:
                low = np.maximum(place[rows] - settings.window, 0)
                high = np.minimum(place[rows] + settings.window, len(by_time) - 1)
                drawn: np.ndarray = by_time[rng.integers(low, high + 1)]
                return drawn

        case other:
            assert_never(other)
    return _draw_distinct(propose, forbidden, user, positives.item, num_items, settings.per_positive)


def _draw_distinct(
    propose: Callable[[np.ndarray], np.ndarray],
    forbidden: np.ndarray,
    user: np.ndarray,
    own_item: np.ndarray,
    num_items: int,
    count: int,
) -> Int[np.ndarray, "positive place"]:
    """Fill place after place by what is proposed, again where it is forbidden, the row's own or drawn already."""
    drawn = np.full((len(user), count), -1, np.int64)
    for place in range(count):
        waiting = np.arange(len(user))
        for _ in range(ROUNDS):
            if not len(waiting):
                break
            item = propose(waiting).astype(np.int64)
            pair = user[waiting] * num_items + item
            found = np.minimum(np.searchsorted(forbidden, pair), max(0, len(forbidden) - 1))
            is_wrong = (forbidden[found] == pair) if len(forbidden) else np.zeros(len(pair), bool)
            is_wrong |= item == own_item[waiting]
            is_wrong |= (drawn[waiting, :place] == item[:, None]).any(axis=1)
            drawn[waiting[~is_wrong], place] = item[~is_wrong]
            waiting = waiting[is_wrong]
    return drawn
