"""Files of users and their segments, and what of them is refused."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isthmus.abtest.segments import load_segments
from isthmus.errors import InputError


def test_columns_are_read_as_text_from_any_form(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [7, 8], 'le"vel': ["1.5", ""]}), tmp_path / "users.parquet")
    (tmp_path / "users.tsv").write_text('user\tle""vel\n7\t1.5\n8\t\n')
    for name in ("users.parquet", "users.tsv"):
        with duckdb.connect() as connection:
            (column,) = load_segments(connection, tmp_path / name)
            assert connection.execute("SELECT * FROM segment ORDER BY 1").fetchall() == [("7", "1.5"), ("8", None)]
            assert column.startswith("le")


def test_a_name_with_the_signs_of_a_pattern_is_that_files_alone(tmp_path: Path) -> None:
    (tmp_path / "users[1].csv").write_text("user,level\n7,1.5\n")
    (tmp_path / "users1.csv").write_text("user,level\n8,2\n")
    with duckdb.connect() as connection:
        load_segments(connection, tmp_path / "users[1].csv")
        assert connection.execute("SELECT * FROM segment").fetchall() == [("7", "1.5")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.csv", "usr,level\nu1,a\n", "no column 'user'; did you mean 'usr'|no column 'user'; it has usr, level"),
        ("u.csv", "user\nu1\n", "has users and no segments"),
        ("u.csv", "user,level\nu1,a\nu1,b\n", "user 'u1' has 2 rows"),
        ("u.csv", "user,level\nu1,a\nu2\n", "u.csv: line 3 has 1 values, the header names 2"),
        ("u.csv", "user,level,level\nu1,a,b\n", "column 'level' stands 2 times"),
        ("u.csv", "user,age\n" + "".join(f"u{n},{n}\n" for n in range(51)), "'age' has 51 values, at most 50"),
        ("u.parquet", "PAR1", "u.parquet: cannot be read"),
        ("u.json", "{}", "ending '.json' is not known"),
    ],
)
def test_what_is_no_such_file_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with duckdb.connect() as connection, pytest.raises(InputError, match=message):
        load_segments(connection, tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1.0], "level": ["a"]}, "floating-point"),
        ({"user": ["u1"], "level": [["a"]]}, "one value a row"),
    ],
)
def test_columns_that_hold_no_plain_text_are_refused(
    columns: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "u.parquet")
    with duckdb.connect() as connection, pytest.raises(InputError, match=message):
        load_segments(connection, tmp_path / "u.parquet")
