"""One model's view of a request: ids to rows, the user's history, and the features that the model reads."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from isthmus.batch import Bag, Features
from isthmus.data.dataset import Column, Dataset, Events, Lists, read_manifest
from isthmus.data.features import FeatureReader, HistoryReader, Rows, to_bag
from isthmus.data.statistics import Spread
from isthmus.errors import InputError, did_you_mean
from isthmus.schema import FieldSpec

UNSEEN = 0  # the row of every user, item and value that training does not know
ELSEWHERE = -1  # the domain of something taken in a domain that this model does not have
LARGEST = float(np.finfo(np.float32).max)
LISTS = ("multi_valued", "sequence")
ContextValue = str | int | float | Sequence[str | int]


class Names:
    """The texts of a vocabulary, found by bisection: they ascend.

    Args:
        texts: strings, none missing.
    """

    def __init__(self, texts: pa.Array) -> None:
        self.texts = texts.cast(pa.large_string())
        _, ends, content = self.texts.buffers()
        # Arrow's own way to a text is an object of its own and five times as long
        self._ends = np.frombuffer(ends or b"", np.int64)[self.texts.offset : self.texts.offset + len(texts) + 1]
        self._bytes = memoryview(content if content is not None else b"")

    @classmethod
    def of(cls, dataset: Dataset, vocabulary: str) -> "Names":
        """A vocabulary of a dataset, without a Python object a text; memory-mapped where `write_mapped` wrote it."""
        file = dataset.path / "vocabularies" / f"{vocabulary}.parquet"
        mapped = file.with_suffix(".arrow")
        if mapped.is_file():
            with pa.ipc.open_file(pa.memory_map(str(mapped))) as batches:
                return cls(batches.get_batch(0)["value"])
        return cls(pq.read_table(file)["value"].cast(pa.large_string()).combine_chunks())

    def row(self, text: str) -> int:
        """The row of a text; 0 where it is not known."""
        place = self.place(text)
        return place + 1 if place < len(self.texts) and self._at(place) == text else UNSEEN

    def place(self, text: str) -> int:
        """How many texts come before this one."""
        return bisect_left(range(len(self.texts)), text, key=self._at)

    def rows(self, texts: Sequence[str]) -> Rows:
        return np.array([self.row(text) for text in texts], dtype=np.int64)

    def text(self, row: int) -> str:
        """The text of a row above 0."""
        return self._at(row - 1)

    def texts_of(self, rows: Int[np.ndarray, " row"]) -> list[str | None]:
        """The text of each row; None of row 0."""
        return [None if row == UNSEEN else self.text(row) for row in rows.tolist()]

    def _at(self, place: int) -> str:
        return str(self._bytes[self._ends[place] : self._ends[place + 1]], "utf-8")


def write_mapped(vocabulary: Path) -> Path:
    """Write a vocabulary again, beside its Parquet file, in the form that lies in memory; gives the file.

    Read from Parquet, a million ids take some 50 MB of every process that serves.
    """
    texts = pq.read_table(vocabulary, columns=["value"]).cast(pa.schema([("value", pa.large_string())]))
    file = vocabulary.with_suffix(".arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, texts.schema) as writer:
        writer.write_batch(pa.record_batch([texts["value"].combine_chunks()], texts.schema))
    return file


@dataclass(frozen=True)
class Taken:
    """What a user took, the latest last; a domain is a number of this model's, or ELSEWHERE."""

    item_row: Int[np.ndarray, " taken"]
    domain: Int[np.ndarray, " taken"]

    def then(self, later: "Taken") -> "Taken":
        """Both, what is in both left out of the later one."""
        both = set(zip(self.item_row.tolist(), self.domain.tolist(), strict=True))
        new = [pair not in both for pair in zip(later.item_row.tolist(), later.domain.tolist(), strict=True)]
        return Taken(
            np.concatenate([self.item_row, later.item_row[new]]), np.concatenate([self.domain, later.domain[new]])
        )

    def seen_by(self, field: FieldSpec, domain: int) -> Int[np.ndarray, " seen"]:
        """The items that a history field reads in a domain: those of its scope, the last `max_length`."""
        rows: np.ndarray
        match field.scope:
            case "own":
                rows = self.item_row[self.domain == domain]
            case "other":
                rows = self.item_row[self.domain != domain]
            case "all":
                rows = self.item_row
        latest: np.ndarray = rows[-field.max_length :]
        return latest


NOTHING = Taken(np.empty(0, np.int64), np.empty(0, np.int64))


class View:
    """The dataset of one model: its vocabularies, histories and fields.

    Args:
        by_time: whether a history is in order of time throughout, as ranking has it, rather than training's positives
            before those of validation.
    """

    def __init__(self, dataset: Dataset, chosen: Sequence[str] | None, *, by_time: bool) -> None:
        self.dataset = dataset
        self.names = dataset.schema.domain_names
        self.users, self.items = Names.of(dataset, "user"), Names.of(dataset, "item")
        self.user_reader = FeatureReader(dataset, "user", chosen)
        self.history = HistoryReader(dataset)
        self.by_time = by_time
        numbers = read_manifest(dataset.path)["numbers"]
        self.spreads = {name: Spread(spread["mean"], spread["std"]) for name, spread in numbers.items()}
        self.history_fields = [field for field in self.user_reader.fields.lists if field.kind == "history"]
        known = {} if dataset.impressions is None else dataset.impressions["train"].context
        self._empty = {**dataset.events["train"].context, **known}
        self.context_fields = {
            field.name: field
            for field in dataset.schema.fields
            if field.side in ("context", "row")
            and field.kind != "statistic"
            and (chosen is None or field.name in chosen)
        }
        vocabularies = {field.vocabulary_name for field in self.context_fields.values() if field.kind != "number"}
        self._values = {name: Names.of(dataset, name) for name in vocabularies}

    def stored(self, user_row: int) -> Taken:
        """What the bundle knows that a user took."""
        rows = slice(int(self.history.offsets[user_row]), int(self.history.offsets[user_row + 1]))
        taken = Taken(self.history.item_row[rows].astype(np.int64), self.history.domain[rows].astype(np.int64))
        if not self.by_time or self.history.time is None:
            return taken
        order = np.argsort(self.history.time[rows], kind="stable")
        return Taken(taken.item_row[order], taken.domain[order])

    def taken(self, pairs: Sequence[tuple[str, str]]) -> Taken:
        """Items and domains by name, without the items that this model does not know."""
        rows = self.items.rows([item for item, _ in pairs])
        domain = [self.names.index(name) if name in self.names else ELSEWHERE for _, name in pairs]
        return Taken(rows[rows != UNSEEN], np.array(domain, dtype=np.int64)[rows != UNSEEN])

    def knows_anything(self, user_row: int, taken: Taken, domain: int) -> bool:
        """Whether the model has something to go by: a history that it reads, or else the user itself."""
        if not self.history_fields:
            return user_row != UNSEEN
        return any(len(taken.seen_by(field, domain)) for field in self.history_fields)

    def user_features(self, user_row: int, domain: int, taken: Taken, events: Events) -> Features:
        """The user's side of one request, as a batch of one row; `events` carries the context in its first row."""
        return self.user_reader.read(
            np.array([user_row]),
            np.array([domain]),
            histories=lambda field: bag_of(taken.seen_by(field, domain)),
            events=events,
            event_rows=np.zeros(1, dtype=np.int64),
        )

    def require(self, values: Mapping[str, ContextValue]) -> None:
        """Check a request's context, whatever of it the request's path then reads.

        Raises:
            InputError: a value is not what its field is, or no number that the model can read. Names that are no field
                of this model are left to the caller.
        """
        for name, value in values.items():
            field = self.context_fields.get(name)
            if field is None:
                continue
            if field.kind == "number":
                self._require_number(name, value)
            elif field.kind in LISTS:
                if isinstance(value, str | int | float):
                    raise InputError(f"context.{name}: {value!r} is not a list of texts")
            elif isinstance(value, bool) or not isinstance(value, str | int):
                raise InputError(f"context.{name}: {value!r} is not a text")

    def context(self, values: Mapping[str, ContextValue], num_rows: int = 1) -> Events:
        """A request's context, the same in all rows; a field without a value stands at the unseen one, a number at its
        mean.

        Args:
            values: as `require` lets them pass; names that are no field of this model have no part in it.
        """
        none = np.zeros(num_rows, dtype=np.int64)
        columns: dict[str, Column | Lists] = {}
        for name, empty in self._empty.items():
            field = self.context_fields.get(name)
            value = None if field is None else values.get(name)
            if isinstance(empty, Lists):
                rows = np.empty(0, np.int64) if field is None or value is None else self._list(field, value)
                offsets = np.arange(num_rows + 1) * len(rows)
                columns[name] = Lists(np.tile(rows, num_rows).astype(empty.values.dtype), offsets)
            else:
                number = 0 if field is None or value is None else self._single(field, value)
                columns[name] = np.full(num_rows, number, dtype=empty.dtype)
        return Events(none, none, none, None, columns, None)

    def context_of(self, rows: Events, row: int) -> dict[str, ContextValue]:
        """The context of one row of the model's data as a request would give it: what `context` reads as that row's."""
        values: dict[str, ContextValue] = {}
        for name, field in self.context_fields.items():
            column = rows.context.get(name)
            if column is None:
                continue
            if isinstance(column, Lists):
                listed = column.values[int(column.offsets[row]) : int(column.offsets[row + 1])]
                values[name] = [self._values[field.vocabulary_name].text(one) for one in listed.tolist() if one]
            elif field.kind == "number":
                spread = self.spreads[name]
                values[name] = float(spread.mean + spread.std * float(column[row]))
            elif int(column[row]) != UNSEEN:
                values[name] = self._values[field.vocabulary_name].text(int(column[row]))
        return values

    def _require_number(self, name: str, value: ContextValue) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"context.{name}: {value!r} is not a number")
        spread = self.spreads[name]
        try:
            standard = (float(value) - spread.mean) / spread.std
        except OverflowError:  # a whole number beyond double precision
            standard = inf
        if not abs(standard) <= LARGEST:
            raise InputError(
                f"context.{name}: no number that the model can read; give a finite one, at most {LARGEST:.3g} times "
                f"training's standard deviation ({spread.std:.6g}) from its mean ({spread.mean:.6g})"
            )

    def _single(self, field: FieldSpec, value: ContextValue) -> float | int:
        if field.kind == "number":
            assert isinstance(value, int | float)
            return float(self.spreads[field.name].standardise(np.array([value], np.float64))[0])
        return self._values[field.vocabulary_name].row(str(value))

    def _list(self, field: FieldSpec, value: ContextValue) -> Rows:
        assert not isinstance(value, int | float)
        rows = self._values[field.vocabulary_name].rows([str(one) for one in value])
        seen: Rows = rows[rows != UNSEEN]
        return seen


def bag_of(rows: Int[np.ndarray, " value"]) -> Bag:
    """One list."""
    return to_bag(rows, np.array([0, len(rows)]))


def domain_number(dataset: Dataset, domain: str) -> int:
    """The number of a domain, or of the declared fallback; raises InputError for a name without either."""
    try:
        return dataset.schema.domain_number(domain)
    except ValueError as error:
        raise InputError(f"{error}{did_you_mean(domain, dataset.schema.domain_names)}") from error
