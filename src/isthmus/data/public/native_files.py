"""What importers of large public files share: CSV read in blocks by DuckDB, and a log written whole or not at all."""

import csv
import errno
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb

from isthmus.data.tables import SECONDS_LIMIT
from isthmus.data.text_files import first_mistake, require_distinct_columns
from isthmus.data.written_log import new_log_folder
from isthmus.errors import InputError, joined_names

FULL = os.strerror(errno.ENOSPC)  # DuckDB's errors have the system's words, and no number
INTERRUPTED = "Query interrupted"  # the RuntimeError that DuckDB makes of Ctrl-C
FORM = (
    "auto_detect = false, delim = ',', quote = '\"', escape = '\"', comment = '', skip = 0, strict_mode = true, "
    "null_padding = false, hive_partitioning = false"
)
IF_WRONG = "correct the row or take it out"


@dataclass(frozen=True)
class Rule:
    """What the rows of a file must be like.

    Attributes:
        name: what a message calls the value.
        value: SQL of the value, a text.
        wrong: SQL that is true where a row is not like this, and else false, never null.
        problem: what is wrong with the value then, and the remedy.
    """

    name: str
    value: str
    wrong: str
    problem: str


def filled(name: str, value: str | None = None) -> Rule:
    """A user, item or domain, which is not empty; `value` is its SQL where it is not the column of this name."""
    value = value or identifier(name)
    return Rule(name, value, f"coalesce(trim({value}), '') = ''", f"is empty; {IF_WRONG}")


def binary(name: str) -> Rule:
    """A column of labels."""
    value = identifier(name)
    return Rule(
        name, value, f"coalesce(TRY_CAST({value} AS DOUBLE) NOT IN (0, 1), true)", f"is neither 0 nor 1; {IF_WRONG}"
    )


def whole_time(name: str, *, per_second: int = 1) -> tuple[Rule, Rule]:
    """A column of times in whole seconds since 1970, or parts of them."""
    value = identifier(name)
    time = f"TRY_CAST({value} AS BIGINT)"
    unit = "milliseconds" if per_second == 1_000 else "seconds"
    return (
        Rule(name, value, f"{time} IS NULL", f"is no time in whole {unit} since 1970; {IF_WRONG}"),
        Rule(
            name,
            value,
            f"coalesce({time} > {int(SECONDS_LIMIT) * per_second}, false)",
            f"is no time in {unit} since 1970, being after the year 5138; if all are finer, divide them to {unit}",
        ),
    )


def amount(name: str) -> Rule:
    """A column of finite numbers of 0 or more, which may be empty."""
    value = identifier(name)
    is_amount = f"coalesce(TRY_CAST({value} AS DOUBLE) >= 0 AND isfinite(TRY_CAST({value} AS DOUBLE)), false)"
    return Rule(
        name,
        value,
        f"({value} IS NOT NULL AND NOT {is_amount})",
        "is no number of 0 or more; correct it, or leave it empty if it is unknown",
    )


@dataclass(frozen=True)
class _Scan:
    """A file of a view: the SQL that reads its rows, all columns as text, and what these must be like."""

    file: Path
    rows: str
    rules: tuple[Rule, ...]
    header: tuple[str, ...] | None

    def layout_mistake(self) -> str | None:
        """What is wrong with the file's lines, values aside, where something is."""
        if self.header is not None:
            with self.file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
                try:
                    first = next(csv.reader(text), [])
                except csv.Error:  # a value longer than the module takes
                    first = list(self.header)
            if len(first) != len(self.header):
                return (
                    f"line 1 has {len(first)} values, {len(self.header)} are wanted ({', '.join(self.header)}); the "
                    "published file has no header"
                )
        found = first_mistake(self.file)
        if found is not None:
            return found if self.header is None else found.replace("the header names", "line 1 has")
        return _mixed_line_ends(self.file)

    def place(self, row: int) -> str:
        """The line of a row, counted from 1."""
        with self.file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            lines = csv.reader(text)
            ends = (lines.line_num for values in lines if values)
            try:
                line = next(islice(ends, row - (self.header is not None), None), None)
            except csv.Error:
                line = None
        return f"row {row}" if line is None else f"line {line}"


class NativeFiles:
    """The files of a public data set as DuckDB views, of which queries are written to Parquet.

    Args:
        spill: a folder for what does not fit into memory.
    """

    def __init__(self, source: Path, spill: Path) -> None:
        self.source = source
        self.connection = duckdb.connect()
        self.connection.execute("SET preserve_insertion_order = false")
        self.connection.execute(f"SET temp_directory = {quoted(str(spill))}")
        self._scans: dict[str, list[_Scan]] = {}

    def find(self, *patterns: str) -> list[Path]:
        """Files of the source folder whose names match one of the patterns, in order; empty where there are none."""
        return sorted({file for pattern in patterns for file in self.source.glob(pattern) if file.is_file()})

    def need(self, name: str, what: str) -> Path:
        """A file that must be there.

        Raises:
            InputError: it is not; `what` says what it holds.
        """
        if not (self.source / name).is_file():
            raise InputError(f"{self.source / name}: missing ({what}); give the folder that holds it")
        return self.source / name

    def view(
        self,
        name: str,
        files: Sequence[Path],
        wanted: Sequence[str],
        *,
        header: Sequence[str] | None = None,
        rules: Sequence[Rule],
    ) -> list[str]:
        """Name the rows of CSV files of one form, all columns as text; gives the columns, without blanks about them.

        What breaks a rule, or is no row of this form, is found when the rows are read.

        Args:
            header: the columns of files that have no header line.

        Raises:
            InputError: a file is empty or lacks a wanted column or one of the first file's, or none has a row.
        """
        columns: list[str] = []
        parts, scans = [], []
        for file in files:
            own = columns_of(file) if header is None else list(header)
            columns = columns or own
            if missing := [column for column in (*wanted, *columns) if column not in own]:
                raise InputError(f"{file}: no column {missing[0]!r}; it has {joined_names(own)}")
            types = ", ".join(f"{quoted(column)}: 'VARCHAR'" for column in own)
            rows = f"read_csv({pattern(file)}, {FORM}, header = {header is None}, columns = {{{types}}})"
            wrong = " OR ".join(rule.wrong for rule in rules)
            failure = f"error({quoted(f'{file.name} has a row that is wrong')})"
            parts.append(
                f"SELECT {', '.join(map(identifier, columns))} FROM {rows} "
                f"WHERE CASE WHEN {wrong} THEN {failure} ELSE true END"
            )
            scans.append(_Scan(file, rows, tuple(rules), None if header is None else tuple(header)))
        if not any(_has_rows(file, has_header=header is None) for file in files):
            raise InputError(f"{files[0]}: no rows{', only a header' if header is None else ''}; fetch the file again")
        self._scans[name] = scans
        self.rows(f"CREATE VIEW {identifier(name)} AS {' UNION ALL '.join(parts)}", files)
        return columns

    def table(self, name: str, query: str, source: Sequence[Path]) -> None:
        """Keep a query's rows under a name; errors as those of `write`."""
        self.rows(f"CREATE TABLE {identifier(name)} AS {query}", source)

    def write(self, query: str, file: Path, source: Sequence[Path]) -> None:
        """Write a query's rows as Parquet, block by block.

        Raises:
            InputError: a value is not what its rule or the query asks, or a row is broken; names the file and, where
                it can, the line.
            OSError: the disk is full.
        """
        self.rows(f"COPY ({query}) TO {quoted(str(file))} (FORMAT parquet)", source)

    def values(self, query: str, source: Sequence[Path]) -> list[str]:
        """The first column of a query, as text."""
        return [str(row[0]) for row in self.rows(query, source)]

    def rows(self, query: str, source: Sequence[Path]) -> list[tuple[Any, ...]]:
        """The rows of a query; errors as those of `write`."""
        try:
            return self._fetched(query)
        except duckdb.Error as error:
            if FULL in str(error):
                raise OSError(errno.ENOSPC, FULL) from error
            for scan in [scan for scans in self._scans.values() for scan in scans if scan.file in source]:
                if (mistake := self._first_mistake(scan)) is not None:
                    raise InputError(f"{scan.file}: {mistake}") from error
            raise unreadable(source, error) from error

    def require_unique(self, view: str, column: str, *, among: str | None = None) -> None:
        """Raises InputError where two rows of a view have one value in a column; names their lines.

        Args:
            among: SQL of rows to search in place of the view's, such as those without exact repeats.
        """
        files = [scan.file for scan in self._scans[view]]
        name = identifier(column)
        rows = among or identifier(view)
        repeated = self.values(f"SELECT {name} FROM {rows} GROUP BY {name} HAVING count(*) > 1 ORDER BY {name}", files)
        if not repeated:
            return
        places = [
            (scan, scan.place(row))
            for scan in self._scans[view]
            for row in self._numbered(scan, "isthmus_row", f"{name} = {quoted(repeated[0])}", most=2)
        ]
        (scan, first), (other, second) = places[:2]
        of_other = "" if other.file == scan.file else f" of {other.file}"
        more = f" ({len(repeated)} such values in all)" if len(repeated) > 1 else ""
        raise InputError(
            f"{scan.file}: {first}, {column}: {repeated[0]!r} stands again in {second}{of_other}; leave one of the "
            f"rows{more}"
        )

    def _first_mistake(self, scan: _Scan) -> str | None:
        wrong = " OR ".join(rule.wrong for rule in scan.rules)
        try:
            found = self._numbered(scan, "isthmus_row", wrong, most=1)
        except duckdb.Error:
            return scan.layout_mistake()
        if not found:
            return None
        for rule in scan.rules:
            if broken := self._numbered(scan, rule.value, f"isthmus_row = {found[0]} AND {rule.wrong}", most=1):
                return f"{scan.place(found[0])}, {rule.name}: {broken[0] or ''!r} {rule.problem}"
        return None

    def _numbered(self, scan: _Scan, value: str, condition: str, *, most: int) -> list[Any]:
        """A value of a file's first rows for which a condition holds, in the order of the file."""
        self._fetched("SET preserve_insertion_order = true")
        rows = f"(SELECT *, row_number() OVER () AS isthmus_row FROM {scan.rows})"
        query = f"SELECT {value} FROM {rows} WHERE {condition} ORDER BY isthmus_row LIMIT {most}"
        return [row[0] for row in self._fetched(query)]

    def _fetched(self, query: str) -> list[tuple[Any, ...]]:
        try:
            found: list[tuple[Any, ...]] = self.connection.execute(query).fetchall()
        except RuntimeError as error:
            if INTERRUPTED not in str(error):
                raise
            raise KeyboardInterrupt from error
        return found


@contextmanager
def new_log(source: Path, out: Path, name: str) -> Iterator[tuple[NativeFiles, Path]]:
    """The source's files, and a folder that becomes `out` when all is written."""
    if not source.is_dir():
        raise InputError(f"{source}: is no folder; give the one that holds the data set's files")
    with new_log_folder(out, name) as temporary:
        spill = temporary / "spill"
        files = NativeFiles(source, spill)
        try:
            yield files, temporary
        finally:
            files.connection.close()
            shutil.rmtree(spill, ignore_errors=True)


def unreadable(files: Sequence[Path], error: Exception) -> InputError:
    """What to say of files that DuckDB does not read."""
    first = str(error).strip().splitlines()[0]
    return InputError(f"{', '.join(map(str, files))}: not readable in the published form: {first}")


def columns_of(file: Path) -> list[str]:
    """The columns that a CSV's header names, without blanks about them.

    Raises:
        InputError: the file is empty, is no text, or names a column twice.
    """
    if file.stat().st_size == 0:
        raise InputError(f"{file}: is empty")
    require_distinct_columns(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            header = next(csv.reader(text, strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: {first_mistake(file) or error}") from error
    return [name.strip() or f"unnamed {place}" for place, name in enumerate(header, start=1)]


def _has_rows(file: Path, *, has_header: bool) -> bool:
    with file.open("rb") as stream:
        filled_lines = (line for line in stream if line.strip())
        return next(islice(filled_lines, int(has_header), None), None) is not None


def _mixed_line_ends(file: Path) -> str | None:
    with file.open("rb") as stream:
        is_crlf = next(stream, b"").endswith(b"\r\n")
        for number, line in enumerate(stream, start=2):
            if line.endswith(b"\n") and line.endswith(b"\r\n") != is_crlf:
                return (
                    f"line {number} ends in {'LF' if is_crlf else 'CR LF'}, line 1 in {'CR LF' if is_crlf else 'LF'}; "
                    "end all lines alike, for example with dos2unix"
                )
    return None


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def pattern(file: Path) -> str:
    """A path as an SQL literal that DuckDB, which takes paths for patterns, reads as this path alone."""
    return quoted(glob.escape(str(file)))
