"""What is wrong with a CSV or TSV file, in words that name its line: for when the engine that reads it has given up."""

import csv
from collections import Counter
from pathlib import Path

from isthmus.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def first_mistake(file: Path) -> str | None:
    """The first line that is no UTF-8, or has more or fewer values than the header; None where there is none."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"not UTF-8 text: line {number} has byte 0x{line[error.start]:02x}; convert the file, for example "
                    "with iconv"
                )
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text, delimiter=DELIMITERS[file.suffix.lower()], strict=True)
        try:
            header = next(lines, [])
            for values in lines:
                if values and len(values) != len(header):
                    return (
                        f"line {lines.line_num} has {len(values)} values, the header names {len(header)}; was the file "
                        "cut off, or is a value with a delimiter not in quotes?"
                    )
        except csv.Error as error:
            return f"line {lines.line_num}: {error}; is a quote not closed?"
    return None


def require_distinct_columns(file: Path) -> None:
    """Raises InputError where a header names a column twice: which of the two is meant, nobody says.

    Names that differ in capitals alone are one name to the engine, which then gives the second column another. Columns
    without a name, which nobody can mean, do not count; nor does what is no header at all, such as of a binary file,
    which the engine then refuses.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
        try:
            header = next(csv.reader(text, delimiter=DELIMITERS[file.suffix.lower()]), [])
        except csv.Error:
            return
    for column, count in Counter(header).items():
        if column and count > 1:
            raise InputError(f"{file}: column {column!r} stands {count} times in the header; rename all but one")
    named: dict[str, str] = {}
    for column in header:
        if (other := named.setdefault(column.lower(), column)) != column:
            raise InputError(f"{file}: columns {other!r} and {column!r} differ in capitals alone; rename one")
