"""What importers of large public files share: CSV read in blocks by DuckDB, and a log written whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from isthmus.data.written_log import new_log_folder
from isthmus.errors import InputError, joined_names

FULL = os.strerror(errno.ENOSPC)  # DuckDB's errors have the system's words, and no number


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
        self, name: str, files: Sequence[Path], wanted: Iterable[str], *, header: Sequence[str] | None = None
    ) -> list[str]:
        """Name the rows of CSV files of one form, all columns as text; gives the columns, without blanks about them.

        Args:
            header: the columns of files that have no header line.

        Raises:
            InputError: a file is empty, its rows differ in length, or a wanted column is not in it.
        """
        names = "" if header is None else f", names = {listed(header)}"
        form = f"header = {header is None}, all_varchar = true, delim = ',', null_padding = false, strict_mode = false"
        rows = f"read_csv({listed(map(str, files))}, {form}{names})"
        for file in files:
            if file.stat().st_size == 0:
                raise InputError(f"{file}: is empty")
        try:
            found = [column[0] for column in self.connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()]
        except duckdb.Error as error:
            raise unreadable(files, error) from error
        if missing := [column for column in wanted if column not in {one.strip() for one in found}]:
            raise InputError(f"{files[0]}: no column {missing[0]!r}; it has {joined_names(found)}")
        columns = ", ".join(f"{identifier(one)} AS {identifier(one.strip())}" for one in found)
        self.connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {rows}")
        return [one.strip() for one in found]

    def write(self, query: str, file: Path, source: Sequence[Path]) -> None:
        """Write a query's rows as Parquet, block by block.

        Raises:
            InputError: a value is not what the query makes of it, or a row is broken; names the files.
        """
        try:
            self.connection.execute(f"COPY ({query}) TO {quoted(str(file))} (FORMAT parquet)")
        except duckdb.Error as error:
            if FULL in str(error):
                raise OSError(errno.ENOSPC, FULL) from error
            raise unreadable(source, error) from error

    def values(self, query: str, source: Sequence[Path]) -> list[str]:
        """The first column of a query, as text."""
        try:
            return [str(row[0]) for row in self.connection.execute(query).fetchall()]
        except duckdb.Error as error:
            raise unreadable(source, error) from error


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


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(texts: Iterable[str]) -> str:
    """Texts as an SQL list."""
    return "[" + ", ".join(quoted(text) for text in texts) + "]"
