"""From stored columns to the features of a batch: whole-column gathers, fields told apart by position alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.data.dataset import Column, Dataset, Events, Lists
from isthmus.schema import FieldSpec, Scope

Rows = NDArray[np.signedinteger[Any]]
FieldSide = Literal["user", "item", "row"]
ALL_SIDES = ("user", "context", "item", "row")  # of declared fields; a context's are among the user's features


@dataclass(frozen=True)
class OrderedFields:
    """One side's fields in the order of its features; statistics are among the numbers."""

    single: tuple[FieldSpec, ...]
    lists: tuple[FieldSpec, ...]
    numbers: tuple[FieldSpec, ...]
    texts: tuple[FieldSpec, ...]

    @property
    def all(self) -> tuple[FieldSpec, ...]:
        return (*self.single, *self.lists, *self.numbers, *self.texts)


def ordered_fields(dataset: Dataset, side: FieldSide, chosen: Sequence[str] | None) -> OrderedFields:
    """One side's fields; `chosen` names those to use, None is all. Only side `row` may have none.

    Raises:
        ValueError: a chosen name is not a declared field.
    """
    declared = {field.name for field in dataset.schema.fields}
    if unknown := [name for name in chosen or () if name not in declared]:
        raise ValueError(f"unknown field {unknown[0]!r}; the dataset has {', '.join(sorted(declared))}")
    fields = [f for f in dataset.schema.side_fields(side) if chosen is None or f.name in chosen]
    if not fields and side != "row":
        raise ValueError(f"no field of side {side!r} is chosen")
    return OrderedFields(
        tuple(f for f in fields if f.kind in ("id", "categorical")),
        tuple(f for f in fields if f.kind in ("multi_valued", "sequence", "history")),
        tuple(f for f in fields if f.kind in ("number", "statistic")),
        tuple(f for f in fields if f.kind == "text"),
    )


def feature_sizes(dataset: Dataset, side: FieldSide, chosen: Sequence[str] | None) -> FeatureSizes:
    """The sizes of one side's features."""
    fields = ordered_fields(dataset, side, chosen)
    return FeatureSizes(
        names=tuple(field.name for field in fields.all),
        categorical=tuple(field.table_name for field in fields.single),
        bags=tuple(field.table_name for field in fields.lists),
        num_numbers=len(fields.numbers),
        present=tuple(
            tuple(field.domains is None or domain in field.domains for field in fields.all)
            for domain in dataset.schema.domain_names
        ),
        text_dims=tuple(int(text_vectors(dataset, field).shape[1]) for field in fields.texts),
    )


def text_vectors(dataset: Dataset, field: FieldSpec) -> Column:
    """The stored vectors of a text field."""
    stored = dataset.features[field.name]
    assert isinstance(stored, np.ndarray)
    return stored


def ranking_sizes(dataset: Dataset, chosen: Sequence[str] | None) -> RankingSizes:
    """The sizes of all that a click model reads."""
    return RankingSizes(
        feature_sizes(dataset, "user", chosen),
        feature_sizes(dataset, "item", chosen),
        feature_sizes(dataset, "row", chosen),
    )


def table_sizes(
    dataset: Dataset, chosen: Sequence[str] | None, sides: Sequence[str] = ("user", "context", "item")
) -> dict[str, int]:
    """Rows of each embedding table that the chosen fields of some sides use."""
    fields = [
        f
        for f in dataset.schema.fields
        if f.side in sides and f.kind not in ("number", "text", "statistic") and (chosen is None or f.name in chosen)
    ]
    return {field.table_name: dataset.vocabulary_sizes[field.vocabulary_name] for field in fields}


def gather_lists(values: Column, start: Rows, end: Rows, max_length: int | None = None) -> tuple[Column, Rows]:
    """The lists `values[start[i]:end[i]]`, one after the other, and their offsets; the last `max_length` of each."""
    if max_length is not None:
        start = np.maximum(start, end - max_length)
    lengths = end - start
    offsets = np.zeros(len(start) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    return values[index], offsets


def keep_values(values: Column, offsets: Rows, keep: NDArray[np.bool_]) -> tuple[Column, Rows]:
    """The lists without the values that are not to be kept."""
    kept_before = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(keep, out=kept_before[1:])
    return values[keep], kept_before[offsets]


def to_bag(values: Column, offsets: Rows) -> Bag:
    return Bag(torch.from_numpy(values.astype(np.int64)), torch.from_numpy(offsets))


@dataclass(frozen=True)
class HistorySpan:
    """For each row, which part of its user's history it may see.

    Attributes:
        start, end: places in the history's columns.
        target: the row's own item, left out of its history; -1: nothing to leave out.
        before: the time that all must lie before; None: start and end have seen to it.
        fold: what has this number is not seen; of labelled rows without a clock.
    """

    start: Rows
    end: Rows
    target: Rows
    before: Column | None = None
    fold: Column | None = None


class HistoryReader:
    """A row's view of its user's history: never its own target, nor anything at or after its time."""

    def __init__(self, dataset: Dataset) -> None:
        history = dataset.history
        self.item_row = np.asarray(history.item_row)
        self.domain = np.asarray(history.domain)
        self.offsets = np.asarray(history.offsets)
        self.train_end = np.asarray(history.train_end)
        self.time = None if history.time is None else np.asarray(history.time)
        self.fold = None if history.fold is None else np.asarray(history.fold)

    def span(self, user_row: Rows, split: str) -> HistorySpan:
        """All that rows of a split may see of their users when there is no clock to cut at."""
        start = self.offsets[user_row]
        end = self.offsets[user_row + 1] if split == "test" else self.train_end[user_row]
        return HistorySpan(start, end, np.full(len(start), -1, dtype=np.int64))

    def event_span(self, events: Events, rows: Rows, split: str) -> HistorySpan:
        """What the rows of a split may see: what came before them, or, without a clock, all but their own target."""
        span = self.span(np.asarray(events.user_row[rows], dtype=np.int64), split)
        target = np.asarray(events.item_row[rows], dtype=np.int64)
        if events.fold is not None:  # leaving out the row's own item alone would tell positives from negatives
            return HistorySpan(span.start, span.end, span.target, fold=np.asarray(events.fold[rows]))
        if self.time is None or events.time is None:
            return HistorySpan(span.start, span.end, target if split == "train" else span.target)
        if split == "test":  # users' last positives as held-out rows: validation may be older than training
            return HistorySpan(span.start, span.end, span.target, np.asarray(events.time[rows]))
        return HistorySpan(span.start, first_not_before(self.time, span, events.time[rows]), span.target)

    def lists(
        self, span: HistorySpan, row_domain: Rows | None, max_length: int | None = None, *, scope: Scope = "own"
    ) -> tuple[Column, Rows]:
        """The items of each row's span: those of the row's own domain, of all others, or all (also without domains)."""
        values, offsets = gather_lists(self.item_row, span.start, span.end)
        lengths = np.diff(offsets)
        keep = values != np.repeat(span.target, lengths)
        if row_domain is not None and scope != "all":
            value_domain, _ = gather_lists(self.domain, span.start, span.end)
            keep &= (value_domain == np.repeat(row_domain, lengths)) == (scope == "own")
        if span.fold is not None:
            assert self.fold is not None
            value_fold, _ = gather_lists(self.fold, span.start, span.end)
            keep &= value_fold != np.repeat(span.fold, lengths)
        if span.before is not None:
            assert self.time is not None
            time, _ = gather_lists(self.time, span.start, span.end)
            keep &= time < np.repeat(span.before, lengths)
            order = np.lexsort((time, np.repeat(np.arange(len(lengths)), lengths)))
            values, keep = values[order], keep[order]
        values, offsets = keep_values(values, offsets, keep)
        if max_length is None or int(np.diff(offsets).max(initial=0)) <= max_length:
            return values, offsets
        return gather_lists(values, offsets[:-1], offsets[1:], max_length)


def first_not_before(time: Column, span: HistorySpan, limit: Column) -> Rows:
    """For each row, the first place of its span whose time is not before the limit: one bisection of all."""
    low, high = span.start.copy(), span.end.copy()
    while bool((open_ := low < high).any()):
        middle = (low + high) // 2
        is_before = time[np.where(open_, middle, 0)] < limit
        low = np.where(open_ & is_before, middle + 1, low)
        high = np.where(open_ & ~is_before, middle, high)
    return low


Histories = Callable[[FieldSpec], Bag]
"""The lists of a history field, one a row."""


class FeatureReader:
    """Reads one side's features for given rows."""

    def __init__(self, dataset: Dataset, side: FieldSide, chosen: Sequence[str] | None) -> None:
        self.dataset = dataset
        self.fields = ordered_fields(dataset, side, chosen)
        self.num_rows = dataset.num_items if side == "item" else dataset.num_users
        self.history = HistoryReader(dataset) if any(f.kind == "history" for f in self.fields.lists) else None

    def read(
        self,
        rows: Rows,
        domain: Rows,
        *,
        span: HistorySpan | None = None,
        histories: Histories | None = None,
        events: Events | None = None,
        event_rows: Rows | None = None,
    ) -> Features:
        """Features of users or items `rows` shown in `domain`.

        Args:
            span: what each row may see of its history; needed where a history field is read, unless
            histories: gives the lists of such a field.
            events, event_rows: the log rows that carry the context fields; needed where there are any.
        """
        blocks = {False: rows, True: domain * self.num_rows + rows}
        single = [
            rows if field.kind == "id" else self._column(field, blocks, events, event_rows)
            for field in self.fields.single
        ]
        numbers = [self._column(field, blocks, events, event_rows) for field in self.fields.numbers]
        bags = tuple(
            histories(field)
            if field.kind == "history" and histories is not None
            else self._bag(field, blocks, domain, span, events, event_rows)
            for field in self.fields.lists
        )
        texts = [self._column(field, blocks, events, event_rows) for field in self.fields.texts]
        return Features(
            torch.from_numpy(stack(single, len(rows), np.dtype(np.int64))),
            bags,
            torch.from_numpy(stack(numbers, len(rows), np.dtype(np.float32))),
            tuple(torch.from_numpy(np.array(text)) for text in texts),
        )

    def _stored(
        self, field: FieldSpec, blocks: dict[bool, Rows], events: Events | None, event_rows: Rows | None
    ) -> tuple[Column | Lists, Rows]:
        if field.side in ("user", "item"):
            return self.dataset.features[field.name], blocks[self.dataset.is_by_domain(field)]
        assert events is not None
        assert event_rows is not None
        return events.context[field.name], event_rows

    def _column(
        self, field: FieldSpec, blocks: dict[bool, Rows], events: Events | None, event_rows: Rows | None
    ) -> Column:
        stored, rows = self._stored(field, blocks, events, event_rows)
        assert isinstance(stored, np.ndarray)
        return stored[rows]

    def _bag(
        self,
        field: FieldSpec,
        blocks: dict[bool, Rows],
        domain: Rows,
        span: HistorySpan | None,
        events: Events | None,
        event_rows: Rows | None,
    ) -> Bag:
        if field.kind == "history":
            assert self.history is not None
            assert span is not None
            return to_bag(*self.history.lists(span, domain, field.max_length, scope=field.scope))
        stored, rows = self._stored(field, blocks, events, event_rows)
        assert isinstance(stored, Lists)
        return to_bag(*gather_lists(stored.values, stored.offsets[rows], stored.offsets[rows + 1], field.max_length))


def stack(columns: list[Column], num_rows: int, dtype: np.dtype[np.generic]) -> Column:
    """Columns side by side, row-major."""
    result: Column = np.empty((num_rows, len(columns)), dtype=dtype)
    for position, column in enumerate(columns):
        result[:, position] = column
    return result


class RankingReader:
    """Reads what a click model knows of labelled rows."""

    def __init__(self, dataset: Dataset, chosen: Sequence[str] | None) -> None:
        self.user = FeatureReader(dataset, "user", chosen)
        self.item = FeatureReader(dataset, "item", chosen)
        self.row = FeatureReader(dataset, "row", chosen)

    def read(
        self, events: Events, rows: Rows, split: str, *, is_unseen: NDArray[np.bool_] | None = None
    ) -> RankingFeatures:
        """The features of given rows of a split's impressions; `is_unseen` says whose item is read as unknown."""
        user_row = np.asarray(events.user_row[rows], dtype=np.int64)
        item_row = np.asarray(events.item_row[rows], dtype=np.int64)
        if is_unseen is not None:
            item_row = np.where(is_unseen, 0, item_row)
        domain = np.asarray(events.domain[rows], dtype=np.int64)
        span = None if self.user.history is None else self.user.history.event_span(events, rows, split)
        return RankingFeatures(
            self.user.read(user_row, domain, span=span, events=events, event_rows=rows),
            self.item.read(item_row, domain),
            self.row.read(user_row, domain, events=events, event_rows=rows),
        )
