"""Vocabularies: the values of training rows, numbered from 1 in the order of their text; 0 is everything else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int


@dataclass(frozen=True)
class Vocabulary:
    """Values in ascending order of their text: value i has row i + 1."""

    values: pa.Array

    @property
    def size(self) -> int:
        """Rows, the one for unseen values among them."""
        return len(self.values) + 1

    def rows(self, texts: pa.Array) -> Int[np.ndarray, " text"]:
        """The row of each text, 0 for one that is unseen or missing."""
        place = pc.index_in(texts, value_set=self.values, skip_nulls=True)
        rows: np.ndarray = place.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1)
        return rows


def vocabulary_of(texts: Sequence[pa.Array]) -> Vocabulary:
    """The vocabulary of all texts together; missing ones have no row."""
    joined = pa.chunked_array([text.cast(pa.string()) for text in texts], type=pa.string())
    distinct = pc.unique(joined).drop_null()
    return Vocabulary(distinct.take(pc.sort_indices(distinct)))


def row_of_code(training_codes: Int[np.ndarray, " row"], num_codes: int) -> Int[np.ndarray, " code"]:
    """The vocabulary row of each code, 0 for one that training does not use; codes ascend with their texts."""
    is_used = np.zeros(num_codes, bool)
    is_used[training_codes] = True
    return np.where(is_used, np.cumsum(is_used), 0).astype(np.int32)


def number_of_code(row_of_code: Int[np.ndarray, " code"]) -> Int[np.ndarray, " code"]:
    """A number for each code and for no other: its vocabulary row, or above all of them where it has none."""
    unknown = np.flatnonzero(row_of_code == 0)
    number = row_of_code.copy()
    number[unknown] = row_of_code.max(initial=0) + 1 + np.arange(len(unknown))
    return number
