"""A file of users and their segments, such as a level of spending, as a table of DuckDB."""

import glob
from pathlib import Path

import duckdb

from isthmus.data.text_files import DELIMITERS, first_mistake, require_distinct_columns
from isthmus.errors import InputError, did_you_mean

MOST_VALUES = 50  # of one column: more are no segments but a number, and each would be a group in the report


def quoted(name: str) -> str:
    """A column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def load_segments(connection: duckdb.DuckDBPyConnection, file: Path) -> tuple[str, ...]:
    """Make the temporary table `segment` of a file with `user` and columns of text; gives the columns but `user`.

    Raises:
        InputError: the file cannot be read, has no `user` or nothing else, names a user twice, or a column has too many
            values or is no plain one.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a Parquet or CSV file with a column user and segments beside it")
    ending = file.suffix.lower()
    if ending not in (".parquet", *DELIMITERS):
        raise InputError(f"{file}: ending {ending!r} is not known; .parquet, .csv or .tsv")
    try:
        if ending == ".parquet":
            source = "read_parquet($file)"
        else:
            require_distinct_columns(file)
            form = "header = true, all_varchar = true, quote = '\"', escape = '\"'"
            source = f"read_csv($file, delim = '{DELIMITERS[ending]}', {form})"
        given = {"file": glob.escape(str(file))}
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}", given).fetchall()
        types = {str(row[0]): str(row[1]) for row in described}
        columns = _columns(file, types)
        listed = ", ".join(f"nullif({quoted(name)}::VARCHAR, '') AS {quoted(name)}" for name in ("user", *columns))
        connection.execute(f"CREATE TEMP TABLE segment AS SELECT {listed} FROM {source}", given)
    except duckdb.Error as error:
        found = first_mistake(file) if ending in DELIMITERS else None
        raise InputError(f"{file}: {found or 'cannot be read: ' + ' '.join(str(error).split())[:300]}") from error
    _require_one_row_a_user(connection, file)
    for name in columns:
        count = connection.execute(f"SELECT count(DISTINCT {quoted(name)}) FROM segment").fetchall()[0][0]
        if count > MOST_VALUES:
            raise InputError(
                f"{file}: column {name!r} has {count} values, at most {MOST_VALUES} make segments; "
                "cut it into levels, or leave it out of the file"
            )
    return columns


def _columns(file: Path, types: dict[str, str]) -> tuple[str, ...]:
    if "user" not in types:
        hint = did_you_mean("user", types) or f"; it has {', '.join(types)}"
        raise InputError(f"{file}: no column 'user'{hint}")
    if types["user"] in ("DOUBLE", "FLOAT"):
        raise InputError(f"{file}: column 'user' holds floating-point numbers, so ids are uncertain; write it as text")
    for name, kind in types.items():
        if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
            raise InputError(f"{file}: column {name!r} holds {kind}, one value a row is wanted; leave it out")
    columns = tuple(name for name in types if name != "user")
    if not columns:
        raise InputError(f"{file}: has users and no segments; add a column, such as the user's level of spending")
    return columns


def _require_one_row_a_user(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    twice = connection.execute(
        'SELECT "user", count(*) FROM segment WHERE "user" IS NOT NULL GROUP BY ALL HAVING count(*) > 1 ORDER BY 1'
    ).fetchmany(1)
    if twice:
        user, count = twice[0]
        raise InputError(f"{file}: user {user!r} has {count} rows; a user is in one segment of a column, keep one row")
