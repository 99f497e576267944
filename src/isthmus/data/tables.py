"""Reading logs and feature tables: files to Ibis expressions, and the checks that name the row that is wrong."""

import glob
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis

from isthmus.data.text_files import DELIMITERS, first_mistake, require_distinct_columns
from isthmus.errors import InputError, did_you_mean, joined_names
from isthmus.schema import Clock, EventLog

# Ibis is untyped to the checker: a table, a column, a connection.
Table = Any
Value = Any
Connection = Any

VALUE_END = "\x1f"  # ASCII's unit separator: it stands in no readable text
SECONDS_LIMIT = 1e11  # the year 5138; a larger time is in milliseconds or finer
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
ISO_EXAMPLE = "2026-11-30T12:00:00Z"
ISO_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
ENDINGS, LISTED_ENDINGS = (".parquet", *DELIMITERS), ".parquet, .csv or .tsv"
MOST_NAMED = 20
LARGEST = 1e30  # of what 32 bits hold, with room to reckon with it
IF_UNKNOWN = "correct it, or leave it empty if it is unknown"


@dataclass(frozen=True)
class Source:
    """Files of one form, read as one table.

    Attributes:
        key: where the YAML declares it, for messages: `events` or `tables.NAME`.
        table: all rows; of CSV and TSV every column is text.
    """

    key: str
    files: tuple[Path, ...]
    table: Table
    connection: Connection

    def loaded(self, columns: Sequence[str]) -> "Source":
        """The same with these columns alone, text files parsed once instead of at every check."""
        present = [column for column in dict.fromkeys(columns) if column in self.table.columns]
        if self.files[0].suffix.lower() == ".parquet" or len(present) < len(set(columns)):
            return self
        with reading(self.files):
            table = self.connection.create_table(f"loaded_{self.key}", self.table.select(*present), temp=True)
        return Source(self.key, self.files, table, self.connection)

    def require(self, column: str, key: str) -> None:
        """Raises InputError where the files have no such column; `key` is the YAML's key that names it."""
        if column not in self.table.columns:
            hint = did_you_mean(column, self.table.columns) or f"; they have {joined_names(self.table.columns)}"
            raise InputError(f"{_names(self.files)}: no column {column!r} ({self.key}.{key}){hint}")

    def text(self, column: str, key: str) -> Value:
        """A column as text, null where empty; 007 stays 007."""
        self.require(column, key)
        value = self.table[column]
        if value.type().is_floating():
            raise InputError(
                f"{_names(self.files)}: column {column!r} ({self.key}.{key}) holds floating-point numbers, so ids and "
                "names are uncertain; write it as text or as integers"
            )
        if value.type().is_array():
            raise InputError(
                f"{_names(self.files)}: column {column!r} ({self.key}.{key}) holds lists, one value a row is wanted"
            )
        return value.cast("string").nullif("")

    def joined(self, column: str, key: str, separator: str) -> Value:
        """A column of several values a row as one text, in which VALUE_END parts them."""
        self.require(column, key)
        value = self.table[column]
        if value.type().is_array():
            return value.cast("array<string>").join(VALUE_END).nullif("")
        return self.text(column, key).replace(separator, VALUE_END)

    def number(self, column: str, key: str, *, remedy: str = IF_UNKNOWN) -> Value:
        """A column as 64-bit floating-point numbers, null where empty.

        Args:
            remedy: what to do about a value that is no number.

        Raises:
            InputError: a value is not a finite number, or is one too large to reckon with in 32 bits.
        """
        self.require(column, key)
        value = self.table[column]
        if not (value.type().is_numeric() or value.type().is_string() or value.type().is_boolean()):
            raise InputError(
                f"{_names(self.files)}: column {column!r} ({self.key}.{key}) is of type {value.type()}, "
                "a number is wanted"
            )

        def wrong(table: Table) -> Value:
            number = _as_number(table[column])
            is_text = table[column].cast("string").nullif("").notnull()
            return is_text & (number.isnull() | number.isnan() | (number.abs() > LARGEST))

        self.refuse(wrong, column, key, f"is not a finite number of at most {LARGEST:g} in size; {remedy}")
        return _as_number(value)

    def time(self, clock: Clock, key: str) -> Value:
        """A column of times as seconds, whole numbers where they are.

        Timestamps, dates and ISO 8601 text become seconds since 1970, parts of a second kept to the microsecond; where
        they have no offset, they are UTC.

        Raises:
            InputError: a value is missing, of another form than the column's first, or a number of another unit.
        """
        column = clock.column
        self.require(column, key)
        value = self.table[column]
        if value.type().is_timestamp() or value.type().is_date():
            self.refuse(lambda table: table[column].isnull(), column, key, "is empty; every event needs its time")
            return _seconds(value.cast("timestamp"))
        self.refuse(
            lambda table: table[column].cast("string").nullif("").isnull(),
            column,
            key,
            "is empty; every event needs its time",
        )
        if self._begins_with_iso_time(column):
            self.refuse(
                lambda table: ~table[column].re_search(ISO_TIME) | _from_iso_time(table[column]).isnull(),
                column,
                key,
                f"is no ISO 8601 time such as {ISO_EXAMPLE}, as the column's first value is; write all rows so",
            )
            return _from_iso_time(value)
        number = self.number(
            column, key, remedy=f"write all rows as seconds since 1970, or all as ISO 8601 such as {ISO_EXAMPLE}"
        )
        per_second = PER_SECOND[clock.unit]
        self.refuse(
            lambda table: _as_number(table[column]) > SECONDS_LIMIT * per_second,
            column,
            key,
            f"is past the year 5000, counted in {clock.unit} since 1970; if it counts milliseconds, divide by 1000 or "
            f"declare the log's 'time: {{column: {column}, unit: ms}}' (us: microseconds); all rows need one unit",
        )
        if per_second > 1:
            return number / per_second
        return value.cast("int64") if value.type().is_integer() else number

    def _begins_with_iso_time(self, column: str) -> bool:
        if not self.table[column].type().is_string():
            return False
        with reading(self.files):
            first = self.table.limit(1).select(is_iso=self.table[column].re_search(ISO_TIME)).to_pyarrow()
        return bool(first["is_iso"][0].as_py())

    def refuse(self, wrong: Callable[[Table], Value], column: str, key: str, problem: str) -> None:
        """Raises InputError naming the first row for which `wrong` holds, if there is one."""
        with reading(self.files):
            count = self.table.filter(wrong(self.table)).count().to_pyarrow().as_py()
        if not count:
            return
        for file in self.files:
            one = open_files(self.connection, (file,), self.key).table
            numbered = one.mutate(isthmus_row=ibis.row_number() + 1)
            found = numbered.filter(wrong(numbered)).order_by("isthmus_row").limit(1).to_pyarrow().to_pylist()
            if found:
                more = f" ({count} such rows in all)" if count > 1 else ""
                raise InputError(
                    f"{file}: row {found[0]['isthmus_row']}, column {column!r} ({self.key}.{key}): "
                    f"{found[0][column]!r} {problem}{more}"
                )


def declared_clock(log: EventLog) -> Clock | None:
    """The log's clock, of seconds where its declaration names the column alone."""
    return Clock(column=log.time) if isinstance(log.time, str) else log.time


@contextmanager
def connect() -> Iterator[Connection]:
    """A DuckDB of its own in memory, which spills to the temporary folder when memory is short."""
    connection = ibis.duckdb.connect(temp_directory=str(Path(tempfile.gettempdir()) / f"isthmus-duckdb-{os.getpid()}"))
    # They take a column for what its Parquet file says of its smallest and largest value, which leave NaN out.
    connection.raw_sql("SET disabled_optimizers = 'statistics_propagation,filter_pushdown'")
    try:
        yield connection
    finally:
        connection.disconnect()


def open_source(connection: Connection, names: Sequence[str], folder: Path, key: str) -> Source:
    """The files that a YAML in `folder` names (a name with `*` stands for all that match), as one table.

    Raises:
        InputError: a file is missing, empty, listed twice or not readable, or there is not one row.
    """
    files: list[Path] = []
    for name in names:
        found = sorted(folder.glob(name)) if "*" in name and not (folder / name).exists() else [folder / name]
        if not found:
            raise InputError(f"{folder / name}: no file matches ({key}.files)")
        files.extend(found)
    for file in files:
        if file.is_dir():
            within = sorted(one.name for one in file.iterdir() if one.suffix.lower() in ENDINGS)
            more = f" and {len(within) - MOST_NAMED} more" if len(within) > MOST_NAMED else ""
            there = f"such as {joined_names(within[:MOST_NAMED])}{more}" if within else f"no {LISTED_ENDINGS} is there"
            raise InputError(f"{file}: is a folder; give files of it ({key}.files), {there}")
        if not file.is_file():
            beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
            raise InputError(f"{file}: no such file ({key}.files){did_you_mean(file.name, beside)}")
        if file.stat().st_size == 0:
            raise InputError(f"{file}: empty ({key}.files); a header line and rows are wanted")
    resolved = [file.resolve() for file in files]
    for file in files:
        if resolved.count(file.resolve()) > 1:
            raise InputError(f"{file}: listed twice ({key}.files); its rows would count double")
    return open_files(connection, tuple(files), key)


def open_files(connection: Connection, files: tuple[Path, ...], key: str) -> Source:
    """Existing files of one form as one table, their columns matched by name."""
    endings = sorted({file.suffix.lower() for file in files})
    if len(endings) > 1:
        raise InputError(f"{_names(files)}: files of one table need one form, got {', '.join(endings)} ({key}.files)")
    paths = [glob.escape(str(file)) for file in files]  # DuckDB takes a name with *, ? or [ for a pattern
    with reading(files):
        match endings[0]:
            case ".parquet":
                table = connection.read_parquet(paths, union_by_name=len(paths) > 1)
            case ".csv" | ".tsv" as ending:
                for file in files:
                    require_distinct_columns(file)
                table = connection.read_csv(
                    paths,
                    delim=DELIMITERS[ending],
                    quote='"',
                    escape='"',
                    header=True,
                    all_varchar=True,
                    union_by_name=len(paths) > 1,
                )
            case other:
                raise InputError(f"{files[0]}: ending {other!r} is not known ({key}.files); {LISTED_ENDINGS}")
        if table.limit(1).count().to_pyarrow().as_py() == 0:
            raise InputError(f"{_names(files)}: no rows, only a header ({key}.files)")
    return Source(key, files, table, connection)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[None]:
    """Turns what DuckDB says about unreadable files into an InputError that names the file and, of text, the line."""
    try:
        yield
    except duckdb.Error as error:
        for file in files:
            if file.suffix.lower() in DELIMITERS and (found := first_mistake(file)) is not None:
                raise InputError(f"{file}: {found}") from error
        message = " ".join(str(error).split())
        raise InputError(f"{_names(files)}: not readable: {message[:400]}") from error


def _seconds(timestamp: Value) -> Value:
    return timestamp.epoch_seconds().cast("float64")  # DuckDB's has the fraction, for all that Ibis says


def _from_iso_time(text: Value) -> Value:
    """Seconds since 1970, null where the text is no time; one without an offset is in the connection's zone, UTC."""
    return _seconds(text.try_cast("timestamp('UTC')"))


def _as_number(value: Value) -> Value:
    if value.type().is_string():
        return value.nullif("").try_cast("float64")
    return value.cast("float64")


def _names(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
