"""From values as they were read to what a model reads: vocabulary rows, lists of them, and standardised numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from isthmus.data.dataset import Column, Lists
from isthmus.data.events import Coded
from isthmus.data.feature_tables import Lines
from isthmus.data.statistics import Spread, measure_spread
from isthmus.data.tables import VALUE_END
from isthmus.data.text import tfidf_vectors, word_vectors
from isthmus.data.vocabularies import Vocabulary, vocabulary_of
from isthmus.errors import InputError
from isthmus.schema import FieldSpec

LONGEST_TITLE = 200


def build_vocabularies(lines: Sequence[Lines], ids: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """The vocabulary of every field, from training lines alone; fields of one vocabulary are numbered together.

    Args:
        ids: the vocabularies of users and items, which a field may name but never adds to.
    """
    texts: dict[str, list[pa.Array]] = {}
    for line in lines:
        if isinstance(line.raw, Coded) and line.field.kind != "text" and line.field.vocabulary_name not in ids:
            codes = line.raw.codes[line.place[line.is_training & (line.place >= 0)]]
            used = np.unique(codes[codes >= 0])
            values = line.raw.values.take(pa.array(used))
            texts.setdefault(line.field.vocabulary_name, []).append(_pieces(values, line.field)[0])
    return {**ids, **{name: vocabulary_of(parts) for name, parts in texts.items()}}


def encode(line: Lines, vocabularies: Mapping[str, Vocabulary], log: Path) -> tuple[np.ndarray | Lists, Spread | None]:
    """A field's stored column, and of a number field the mean and spread that it was standardised with.

    An unseen or missing value is row 0; in a list it is left out.

    Raises:
        InputError: a number is missing where training needs it and the field does not say `missing: mean`.
    """
    if isinstance(line.raw, Coded) and line.field.kind == "text":
        return encode_texts(line, line.raw, log), None
    if isinstance(line.raw, Coded):
        vocabulary = vocabularies[line.field.vocabulary_name]
        if line.field.kind in ("multi_valued", "sequence"):
            return _encode_lists(line, line.raw, vocabulary), None
        # One place more, so that both kinds of -1 (no row, no value) find row 0.
        row_of_code = np.append(vocabulary.rows(line.raw.values), 0).astype(narrowest(vocabulary.size))
        rows: Column = row_of_code[np.append(line.raw.codes, -1)[line.place]]
        return rows, None
    values = np.append(line.raw, np.nan)[line.place]
    missing = np.isnan(values) & line.is_training
    if line.field.missing == "error" and missing.any():
        raise InputError(
            f"{log}: fields.{line.field.name}: {int(missing.sum())} of {int(line.is_training.sum())} training values "
            f"of {line.field.column_name!r} ({line.field.source}) are missing; fill them in, or say 'missing: mean'"
        )
    spread = measure_spread(values, line.is_training)
    return spread.standardise(values), spread


def narrowest(size: int) -> np.dtype[np.signedinteger[Any]]:
    """The smallest integer that holds the rows of a vocabulary of that size: most fields have few values."""
    return next(np.dtype(kind) for kind in (np.int8, np.int16, np.int32) if size - 1 <= np.iinfo(kind).max)


def encode_texts(line: Lines, raw: Coded, log: Path) -> np.ndarray:
    """The vector of each line's text; zero where there is none."""
    texts = np.array([*raw.values.to_pylist(), ""], dtype=object)[np.append(raw.codes, -1)[line.place]].tolist()
    if line.field.vectors is not None:
        return word_vectors(texts, log.parent / line.field.vectors)
    return tfidf_vectors(texts, line.is_training, dim=line.field.dim)


def encode_titles(line: Lines) -> np.ndarray:
    """Readable names by item row, empty where there is none; cut at LONGEST_TITLE characters."""
    assert isinstance(line.raw, Coded)
    texts = pc.utf8_slice_codeunits(line.raw.values, 0, LONGEST_TITLE)
    titles = np.array([*texts.to_pylist(), ""], dtype=np.str_)
    result: np.ndarray = titles[np.append(line.raw.codes, -1)[line.place]]
    return result


def _pieces(values: pa.Array, field: FieldSpec) -> tuple[pa.Array, Int[np.ndarray, " value"]]:
    """The single values of texts that join several, without empty ones, and how many each text has."""
    if field.kind not in ("multi_valued", "sequence"):
        return values, np.ones(len(values), np.int64)
    lists = pc.split_pattern(values, VALUE_END)
    pieces = pc.list_flatten(lists)
    owner = pc.list_parent_indices(lists).to_numpy()
    is_value = pc.not_equal(pieces, "").to_numpy(zero_copy_only=False)
    return pieces.filter(pa.array(is_value)), np.bincount(owner[is_value], minlength=len(values)).astype(np.int64)


def _encode_lists(line: Lines, raw: Coded, vocabulary: Vocabulary) -> Lists:
    pieces, lengths = _pieces(raw.values, line.field)
    rows = vocabulary.rows(pieces)
    owner = np.repeat(np.arange(len(lengths)), lengths)[rows > 0]
    rows = rows[rows > 0]
    sizes = np.append(np.bincount(owner, minlength=len(lengths)), 0)
    starts = np.cumsum(sizes) - sizes
    stored = Lists(rows.astype(np.int32), np.append(starts, len(rows)).astype(np.int64))
    taken = take(stored, np.append(raw.codes, -1)[line.place])
    assert isinstance(taken, Lists)
    return taken


def take(column: Column | Lists, rows: Int[np.ndarray, " row"]) -> Column | Lists:
    """Some rows of a column, in their order."""
    if not isinstance(column, Lists):
        taken: Column = column[rows]
        return taken
    sizes = np.diff(column.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    index = np.repeat(column.offsets[:-1][rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
    return Lists(column.values[index], offsets)
