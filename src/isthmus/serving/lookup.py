"""Finding users and items by a part of what they are called."""

from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from isthmus.serving.requests import FoundItem
from isthmus.serving.view import Names


class ItemSearch:
    """Items by a part of their title or id; what it looks through is made at the first search.

    Args:
        items: all ids.
        titles: readable names by item row, where there are any.
    """

    def __init__(self, items: Names, titles: np.ndarray | None) -> None:
        self.items, self.titles = items, titles

    @cached_property
    def _texts(self) -> pa.Array:
        ids = self.items.texts
        if self.titles is None:
            return ids
        titles = pa.array(self.titles[1:].tolist(), pa.large_string())
        return pc.binary_join_element_wise(titles, ids, pa.scalar(" ", pa.large_string()))

    def find(self, text: str, item_row: Int[np.ndarray, " item"], limit: int) -> tuple[FoundItem, ...]:
        """The first items of a corpus whose title or id has the text in it, in the order of their ids; case is not
        looked at.
        """
        is_hit = pc.match_substring(self._texts.take(pa.array(item_row - 1)), text, ignore_case=True)
        rows = item_row[np.flatnonzero(is_hit.to_numpy(zero_copy_only=False))[:limit]]
        ids = self.items.texts_of(rows)
        titles = [None] * len(rows) if self.titles is None else [str(t) or None for t in self.titles[rows]]
        return tuple(FoundItem(name or "", title) for name, title in zip(ids, titles, strict=True))


def beginning_with(names: Names, prefix: str, limit: int) -> tuple[str, ...]:
    """The first names that begin with the prefix; all of them begin with an empty one."""
    start = names.place(prefix)
    after = (names.text(place + 1) for place in range(start, len(names.texts)))
    return tuple(name for name in islice(after, limit) if name.startswith(prefix))
