"""Epinions: what its files must hold, and the clock that some of them have."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from isthmus.data.prepare import prepare
from isthmus.data.public.epinions import ingest_epinions
from isthmus.data.read_schema import read_schema
from isthmus.errors import InputError

CATEGORIES = "category\tname\n1\tMovies\n2\tBooks\n"


def columns() -> dict[str, list[int]]:
    """Three hundred ratings of two categories, each with its own user and item."""
    rng = np.random.default_rng(0)
    numbers = range(300)
    return {
        "user": [n % 20 for n in numbers],
        "item": [n // 2 for n in numbers],
        "category": [1 + n % 2 for n in numbers],
        "rating": rng.integers(1, 6, 300).tolist(),
    }


def write(folder: Path, changed: Mapping[str, object] | None = None, *, names: str = CATEGORIES) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({**columns(), **(changed or {})}), folder / "ratings.parquet")
    (folder / "categories.tsv").write_text(names, encoding="utf-8")
    return folder


def matrix(*further: Sequence[float]) -> np.ndarray:
    return np.column_stack([*columns().values(), *further]).astype(np.float64)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("category", 7, r"row 3, column 'category': 7 is not in categories\.tsv; add the category's number"),
        ("category", None, "row 3, column 'category': None is empty"),
        ("rating", 0, "row 3, column 'rating': 0 is no rating from 1 to 5; correct or remove the row"),
        ("rating", 6, "row 3, column 'rating': 6 is no rating from 1 to 5"),
        ("rating", 3.5, r"row 3, column 'rating': 3\.5 is no whole number"),
        ("rating", float("nan"), "row 3, column 'rating': nan is no whole number"),
        ("item", None, "row 3, column 'item': None is empty"),
    ],
)
def test_a_wrong_rating_is_named_with_its_row(tmp_path: Path, column: str, value: float | None, message: str) -> None:
    values = columns()[column]
    kind = pa.float64() if isinstance(value, float) else pa.int64()
    source = write(tmp_path / "raw", {column: pa.array([*values[:2], value, *values[3:]], kind)})
    with pytest.raises(InputError, match=rf"ratings\.parquet: {message}"):
        ingest_epinions(source, tmp_path / "log", domains=["Movies"])
    assert not (tmp_path / "log").exists()


def test_users_who_are_no_numbers_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", {"user": [*map(str, columns()["user"][:-1]), "anna"]})
    with pytest.raises(InputError, match=r"ratings\.parquet: row 300, column 'user': 'anna' is no whole number"):
        ingest_epinions(source, tmp_path / "log")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", r"columns category and name are wanted"),
        ("category\tname\n1\tMovies\n1\tFilms\n2\tBooks\n", "line 3: the number 1 stands twice"),
        ("category\tname\n1\tMovies\n2\tMovies\n", "line 3: the name 'Movies' stands twice"),
        ("category\tname\n1\tMovies\n2\n", "line 3: has 1 values, a category's number and name are wanted"),
        ("category\tname\none\tMovies\n2\tBooks\n", "line 2: category 'one' is no whole number"),
        ("category\tname\n1\t\n2\tBooks\n", "line 2: category 1 has no name"),
    ],
)
def test_wrong_names_of_categories_are_named_with_their_line(tmp_path: Path, names: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"categories\.tsv[:,] {message}"):
        ingest_epinions(write(tmp_path / "raw", names=names), tmp_path / "log")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    "change", [cut, lambda file: file.write_bytes(b""), lambda file: file.write_text("user,item\n1,2\n")]
)
def test_ratings_that_are_no_parquet_are_named(tmp_path: Path, change: Callable[[Path], object]) -> None:
    source = write(tmp_path / "raw")
    change(source / "ratings.parquet")
    with pytest.raises(InputError, match=r"ratings\.parquet: not readable as Parquet"):
        ingest_epinions(source, tmp_path / "log")


HEADER_7_3 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n".ljust(512, b"\x00")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as a MATLAB file"),
        (b"garbage" * 100, "not readable as a MATLAB file"),
        (HEADER_7_3, r"is in MATLAB's form 7\.3, which is not read; save it in form 7"),
    ],
)
def test_a_matlab_file_that_is_none_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rating.mat").write_bytes(content)
    with pytest.raises(InputError, match=rf"rating\.mat: {message}"):
        ingest_epinions(tmp_path, tmp_path / "log")


@pytest.mark.parametrize("value", [np.nan, 3.9, 9.0])
def test_a_rating_of_a_matlab_file_is_not_rounded(tmp_path: Path, value: float) -> None:
    ratings = matrix()
    ratings[4, 3] = value
    savemat(tmp_path / "rating.mat", {"rating": ratings})
    with pytest.raises(InputError, match=rf"rating\.mat: row 5, column 'rating': {value:g}"):
        ingest_epinions(tmp_path, tmp_path / "log")


TIMES = [1_000_000_000 + 3_600 * n for n in range(300)]


def write_matlab(folder: Path, name: str) -> None:
    savemat(folder / name, {"rating": matrix([1] * 300, TIMES)})


@pytest.mark.parametrize(
    "write_timed",
    [
        lambda folder: write_matlab(folder, "rating.mat"),
        lambda folder: write_matlab(folder, "rating_with_timestamp.mat"),
        lambda folder: write(folder, {"timestamp": TIMES}),
        lambda folder: write(folder, {"time": pa.array([1_000 * time for time in TIMES], pa.timestamp("ms"))}),
    ],
)
def test_a_time_is_the_logs_clock_and_its_split(tmp_path: Path, write_timed: Callable[[Path], object]) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    write_timed(source)
    log = ingest_epinions(source, tmp_path / "log", statistics=True)
    assert read_schema(log).split.by == "time"
    assert pq.read_table(log.parent / "events.parquet")["time"].to_pylist() == TIMES
    rows = prepare(log, tmp_path / "dataset").impressions
    assert rows is not None
    train, test = rows["train"].time, rows["test"].time
    assert train is not None
    assert test is not None
    # Of 300 rows one an hour the last 30 are test, the 30 before them validation.
    assert train.max() == TIMES[239]
    assert test.min() == TIMES[270]


def test_the_file_with_times_is_read_before_the_one_without(tmp_path: Path) -> None:
    savemat(tmp_path / "rating.mat", {"rating": matrix([1] * 300)})
    assert read_schema(ingest_epinions(tmp_path, tmp_path / "log")).events.time is None
    write_matlab(tmp_path, "rating_with_timestamp.mat")
    assert read_schema(ingest_epinions(tmp_path, tmp_path / "log")).events.time == "time"
    savemat(tmp_path / "rating_with_timestamp.mat", {"rating": matrix([1] * 300)})
    with pytest.raises(InputError, match="has 5 columns, the sixth is to be the time"):
        ingest_epinions(tmp_path, tmp_path / "log")


def test_a_split_that_is_asked_for_is_kept_beside_a_clock(tmp_path: Path) -> None:
    write_matlab(tmp_path, "rating.mat")
    log = ingest_epinions(tmp_path, tmp_path / "log", split={"by": "random", "seed": 3})
    assert read_schema(log).split.by == "random"


def test_times_in_milliseconds_are_named(tmp_path: Path) -> None:
    savemat(tmp_path / "rating.mat", {"rating": matrix([1] * 300, [1_000 * time for time in TIMES])})
    with pytest.raises(InputError, match=r"rating\.mat: row 1, column 'time': .* divide by 1000"):
        ingest_epinions(tmp_path, tmp_path / "log")


def test_names_keep_their_marks_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    names = '\ufeffcategory\tname\r\n2.0\t"Books", & more\r\n\r\n1\tMovies'
    log = ingest_epinions(write(tmp_path / "raw", names=names), tmp_path / "log")
    assert read_schema(log).domain_names == ('"Books", & more', "Movies")
