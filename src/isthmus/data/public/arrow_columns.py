"""Columns of public data sets' Parquet files, checked as they are read: what is wrong is named with its row."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.data.tables import SECONDS_LIMIT
from isthmus.errors import InputError, joined_names

EMPTY = "is empty; fill or remove the row"


def read_parquet(file: Path, wanted: Sequence[str] = ()) -> pa.Table:
    """The rows of a Parquet file.

    Raises:
        InputError: it is missing, not readable, or a wanted column is not in it.
    """
    if not file.is_file():
        raise InputError(f"{file}: missing; give the folder that holds it")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not readable as Parquet: {reason}; fetch the file again") from error
    if missing := [column for column in wanted if column not in table.column_names]:
        raise InputError(f"{file}: no column {missing[0]!r}; it has {joined_names(table.column_names)}")
    return table


def whole_numbers(column: pa.ChunkedArray, name: str, file: Path) -> pa.ChunkedArray:
    """A column as 64-bit whole numbers.

    Raises:
        InputError: a value is missing or no whole number; names its row.
    """
    numbers = cast_column(column, pa.int64(), name, file, "is no whole number of 64 bits; correct or remove the row")
    refuse_rows(pc.is_null(numbers), numbers, name, file, EMPTY)
    return numbers


def seconds(column: pa.ChunkedArray, name: str, file: Path) -> pa.ChunkedArray:
    """A column of timestamps, of whole seconds, or of whole numbers that only order, as 64-bit numbers.

    Raises:
        InputError: a value is missing, no whole number, or past the year 5000, which milliseconds are; names its row.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type):
        column = pc.floor_temporal(column, unit="second").cast(pa.timestamp("s"))
    numbers = whole_numbers(column, name, file)
    refuse_rows(
        pc.greater(numbers, SECONDS_LIMIT),
        numbers,
        name,
        file,
        "is past the year 5000, counted in seconds since 1970; if it counts milliseconds, divide by 1000",
    )
    return numbers


def refuse_rows(wrong: pa.ChunkedArray, column: pa.ChunkedArray, name: str, file: Path, problem: str) -> None:
    """Raises InputError naming the first row, counted from 1, for which `wrong` is true, if there is one."""
    row = pc.index(wrong, True).as_py()
    if row >= 0:
        raise InputError(f"{file}: row {row + 1}, column {name!r}: {column[row].as_py()!r} {problem}")


def cast_column(column: pa.ChunkedArray, kind: pa.DataType, name: str, file: Path, problem: str) -> pa.ChunkedArray:
    """A column of another type; where a value is not fit for it, the first such is found by halves."""
    if not len(column):
        return pa.chunked_array([], kind)
    if _fits(column, kind):
        return column.cast(kind)
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(column.slice(low, middle - low), kind) else (low, middle)
    raise InputError(f"{file}: row {low + 1}, column {name!r}: {column[low].as_py()!r} {problem}")


def _fits(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowException:
        return False
    return True


def identifiers(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    """A column of identifiers as text, none of them empty."""
    text = cast_column(table[name], pa.string(), name, file, "is no text")
    refuse_rows(pc.equal(pc.fill_null(text, ""), ""), text, name, file, EMPTY)
    return text
