"""A prepared dataset: memory-mapped columns in a folder, and what they mean.

    manifest.json               format, schema and its hash, counts, vocabulary sizes; `files`: the `sha256` of each
                                file and, of an array, its `shape`
    vocabularies/NAME.parquet   `value` (text) of rows 1, 2, ...; row 0 stands for every unseen value
    fields/FIELD.npy            a single value a row: table rows, in the narrowest signed integer that holds its
                                vocabulary's, or float32 standardised numbers; of a text field float32 vectors,
                                rows x dim
    fields/FIELD.values.npy, FIELD.offsets.npy      a list a row (multi-valued, sequence)
    events/SPLIT/{user,item,domain}.npy, time.npy where there is a clock, FIELD.* for context fields
                                positives, sorted by domain, then user, then time; SPLIT is train, valid or test
    events/SPLIT/user_number.npy, impressions/SPLIT/user_number.npy
                                where the split has users whom training does not know: `user`, or of those a number
                                of their own above all rows of the vocabulary
    events/SPLIT/candidates.npy optional; int32 item rows, one line an event, -1 past a list's end; rows in ascending
                                order, so that ties never know which candidate is the positive
    impressions/SPLIT/{user,item,domain,label}.npy, time.npy, FIELD.*
                                where the schema declares `ranking`: labelled rows (int8 0 or 1), sorted in the same
                                way; context fields and those of side `row`, statistics among them as float32
    impressions/train/outcomes/COLUMN.npy   float64: the log's numbers that statistics are means of
    impressions/SPLIT/fold.npy  without a clock, int8: a row knows of training what has another fold; -1 if held out
    history/fold.npy            the same of the history's rows, where there are impressions and no clock
    history/{offsets,item,domain}.npy, time.npy     per user, the positives of training, then those of validation,
                                each in order of time; never those of test
    history/train_end.npy       per user, where the training part of its list ends
    statistics/item_count.npy   int64, domains x items: training positives; column 0 is 0
    titles.npy                  optional; readable names by item row (fixed-width text), row 0 an empty one

A user or item feature has one line per user or item row. Where its source has a row per user or item and domain, it has
`num_domains` such blocks, domain 0 first.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isthmus.errors import InputError
from isthmus.schema import FieldSpec, Schema

FORMAT = 1
MOST_SHOWN = 5  # domains, in the line that stands for a dataset
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Column = NDArray[Any]


class DatasetError(InputError):
    """A folder is not a dataset that this code can read; the message names the file and the remedy."""


@dataclass(frozen=True)
class Lists:
    """A list a row, one after the other: row i's is `values[offsets[i]:offsets[i + 1]]`."""

    values: Column
    offsets: Column


@dataclass(frozen=True)
class Events:
    """Rows of one split, sorted by domain, then user, then time: the positives, or the labelled rows of ranking.

    Attributes:
        context: the columns of context fields, of labelled rows those of side `row` too.
        label: 0 or 1; None: all are positives.
        fold: of labelled rows without a clock; -1: knows all of training.
        user_number: `user_row`, and a number above all of them for each user whom training does not know; None: there
            is no such user.
        outcomes: of labelled training rows, by column, the numbers beside the label that statistics are means of.
    """

    user_row: Column
    item_row: Column
    domain: Column
    time: Column | None
    context: Mapping[str, Column | Lists]
    candidates: Column | None
    label: Column | None = None
    fold: Column | None = None
    outcomes: Mapping[str, Column] = field(default_factory=dict)
    user_number: Column | None = None

    @property
    def who(self) -> Column:
        """A number for each row's user, whether training knows him or not."""
        return self.user_row if self.user_number is None else self.user_number

    @property
    def num_rows(self) -> int:
        return int(self.user_row.shape[0])

    def domain_bounds(self, num_domains: int) -> list[int]:
        """`num_domains + 1` row numbers: domain d owns rows bounds[d] to bounds[d + 1]."""
        return [int(n) for n in np.searchsorted(self.domain, np.arange(num_domains + 1))]


@dataclass(frozen=True)
class History:
    """Per user, the positives of training and after them those of validation, each in order of time."""

    offsets: Column
    train_end: Column
    item_row: Column
    domain: Column
    time: Column | None
    fold: Column | None = None


@dataclass(frozen=True, repr=False)
class Dataset:
    """A prepared dataset; its columns are memory maps, so opening it costs the same at any size."""

    path: Path
    schema: Schema
    schema_hash: str
    vocabulary_sizes: Mapping[str, int]  # rows, the one for unseen values among them
    events: Mapping[Split, Events]
    history: History
    item_count: Column
    features: Mapping[str, Column | Lists]
    impressions: Mapping[Split, Events] | None = None  # None: the schema declares no ranking

    def __repr__(self) -> str:
        names = self.schema.domain_names
        more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        parts = [f"{sum(one.num_rows for one in self.events.values()):,} positives"]
        if self.impressions is not None:
            parts.append(f"{sum(one.num_rows for one in self.impressions.values()):,} labelled rows")
        counts, domains = " and ".join(parts), ", ".join(names[:MOST_SHOWN]) + more
        return f"Dataset({str(self.path)!r}, {self.schema.name!r} with {counts} in {domains})"

    @property
    def num_domains(self) -> int:
        return len(self.schema.domains)

    @property
    def num_users(self) -> int:
        return self.vocabulary_sizes["user"]

    @property
    def num_items(self) -> int:
        return self.vocabulary_sizes["item"]

    def corpus(self, domain: int) -> Column:
        """Item rows that a domain may show, ascending: those with a training positive in one of its corpus domains."""
        names = self.schema.domain_names
        sources = [names.index(name) for name in self.schema.corpus_domains(names[domain])]
        return np.flatnonzero(np.asarray(self.item_count[sources]).sum(axis=0))

    def vocabulary(self, name: str) -> list[str]:
        """The text of each row of a vocabulary, from row 1 on; raises DatasetError where its file is damaged."""
        import pyarrow.parquet as pq  # 30 MiB that a process has no use for as long as it trains

        file = self.path / "vocabularies" / f"{name}.parquet"
        try:
            values: list[str] = pq.read_table(file)["value"].to_pylist()
        except (ValueError, KeyError, FileNotFoundError) as error:  # PyArrow's own errors are ValueErrors
            reason = str(error).splitlines()[0]
            raise DatasetError(f"{file}: not readable ({reason}); run 'isthmus prepare' again") from error
        return values

    def titles(self) -> Column | None:
        file = self.path / "titles.npy"
        return np.load(file, mmap_mode="r") if file.exists() else None

    def is_by_domain(self, field: FieldSpec) -> bool:
        """Whether a user's or an item's value of this field differs by domain."""
        return field.source != "events" and self.schema.tables[field.source].domain is not None

    def keys(self, events: Events, of: str) -> Column:
        """What a statistic is about: each row's user, item, or value in the field named `of`."""
        if of == "user":
            return events.user_row
        if of == "item":
            return events.item_row
        field = next(f for f in self.schema.fields if f.name == of)
        if field.side in ("context", "row"):
            stored = events.context[of]
            assert isinstance(stored, np.ndarray)
            return stored
        stored = self.features[of]
        assert isinstance(stored, np.ndarray)
        row, num_rows = (events.user_row, self.num_users) if field.side == "user" else (events.item_row, self.num_items)
        block = np.asarray(events.domain, np.int64) * num_rows if self.is_by_domain(field) else 0
        taken: Column = stored[block + np.asarray(row, np.int64)]
        return taken

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Open a dataset folder.

        Raises:
            DatasetError: there is no dataset, it was half written, or it has another format.
        """
        manifest = read_manifest(path)
        schema = Schema.model_validate(manifest["schema"])
        present = manifest["files"]

        def column(name: str) -> Column:
            if name not in present or not (path / name).is_file():
                raise DatasetError(f"{path / name}: missing; the dataset is damaged, run 'isthmus prepare' again")
            is_empty = 0 in present[name]["shape"]  # an empty array cannot be mapped
            try:
                # as a plain array, which every gather from it is spared a Python call by
                return np.asarray(np.load(path / name, mmap_mode=None if is_empty else "r"))
            except ValueError as error:
                raise DatasetError(f"{path / name}: {error}; run 'isthmus prepare' again") from error

        def feature(folder: str, field: FieldSpec) -> Column | Lists:
            if f"{folder}/{field.name}.npy" in present:
                return column(f"{folder}/{field.name}.npy")
            return Lists(column(f"{folder}/{field.name}.values.npy"), column(f"{folder}/{field.name}.offsets.npy"))

        def optional(name: str) -> Column | None:
            return column(name) if name in present else None

        context = [field for field in schema.fields if field.side == "context"]
        of_row = [field for field in schema.fields if field.side == "row"]
        stored = [f for f in schema.fields if f.side in ("user", "item") and f.kind not in ("id", "history")]

        def events_in(folder: str, fields: list[FieldSpec]) -> Events:
            return Events(
                user_row=column(f"{folder}/user.npy"),
                item_row=column(f"{folder}/item.npy"),
                domain=column(f"{folder}/domain.npy"),
                time=optional(f"{folder}/time.npy"),
                context={field.name: feature(folder, field) for field in fields},
                candidates=optional(f"{folder}/candidates.npy"),
                label=optional(f"{folder}/label.npy"),
                fold=optional(f"{folder}/fold.npy"),
                user_number=optional(f"{folder}/user_number.npy"),
                outcomes={
                    name: column(f"{folder}/outcomes/{name}.npy")
                    for name in schema.outcome_columns
                    if folder == "impressions/train"
                },
            )

        return cls(
            path=path,
            schema=schema,
            schema_hash=manifest["schema_hash"],
            vocabulary_sizes=manifest["vocabularies"],
            events={split: events_in(f"events/{split}", context) for split in SPLITS},
            history=History(
                offsets=column("history/offsets.npy"),
                train_end=column("history/train_end.npy"),
                item_row=column("history/item.npy"),
                domain=column("history/domain.npy"),
                time=optional("history/time.npy"),
                fold=optional("history/fold.npy"),
            ),
            item_count=column("statistics/item_count.npy"),
            features={field.name: feature("fields", field) for field in stored},
            impressions=None
            if schema.ranking is None
            else {split: events_in(f"impressions/{split}", [*context, *of_row]) for split in SPLITS},
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a dataset folder; raises DatasetError where there is none that this code can read."""
    file = path / "manifest.json"
    if not file.is_file():
        raise DatasetError(f"{path}: not a dataset (no manifest.json); make one with 'isthmus prepare'")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{file}: not readable ({error}); run 'isthmus prepare' again") from error
    if manifest.get("format") != FORMAT:
        raise DatasetError(f"{file}: format {manifest.get('format')!r}, this version reads {FORMAT}; prepare again")
    return manifest


def file_checksum(file: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
