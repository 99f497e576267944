"""Pairs of Amazon categories: titles, clocks, and files that are not as published."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isthmus.data.prepare import prepare
from isthmus.data.public.amazon_pairs import ingest_grocery_kitchen, ingest_kg_books_movies
from isthmus.data.read_schema import read_schema
from isthmus.errors import InputError

HEADER = "user_id:token\titem_id:token\trating:float\n"
NAMES = ("Books", "Movies_and_TV")


def write_graph(folder: Path, *, times: Sequence[str] = (), header: str = HEADER) -> Path:
    """Sixty rows a category; with `times` those of them have a column timestamp."""
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        timed = name in times
        rows = "".join(
            f"u{n % 9}\t{name[0]}{n % 7}\t1" + (f"\t{1_000_000_000 + n}" if timed else "") + "\n" for n in range(60)
        )
        head = header.replace("\n", "\ttimestamp:float\n") if timed else header
        (folder / f"{name}.inter").write_text(head + rows, encoding="utf-8")
        links = "".join(f"{name[0]}{n}\tres:Title_{n}\n" for n in range(7))
        (folder / f"{name}.link").write_text("item_id:token\tentity_id:token\n" + links, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("entity", "title"),
    [
        (
            "res:The_Lord_of_the_Rings:_The_Fellowship_of_the_Ring",
            "The Lord of the Rings: The Fellowship of the Ring",
        ),
        ("res:America_24/7", "America 24/7"),
        ("res:9/11_Commission_Report", "9/11 Commission Report"),
        ("res:The_Prophet_(book)", "The Prophet (book)"),
        ("http://dbpedia.org/resource/Star_Wars:_Episode_IV", "Star Wars: Episode IV"),
        ("https://dbpedia.org/resource/The_Freud/Jung_Letters", "The Freud/Jung Letters"),
        ("The_Freud/Jung_Letters", "The Freud/Jung Letters"),
        ("res:_Open_", "Open"),
        ("m.045c7b", "m.045c7b"),
    ],
)
def test_a_title_loses_its_prefix_and_nothing_more(tmp_path: Path, entity: str, title: str) -> None:
    source = write_graph(tmp_path / "raw")
    (source / "Books.link").write_text(f"item_id:token\tentity_id:token\nB1\t{entity}\n", encoding="utf-8")
    ingest_kg_books_movies(source, tmp_path / "log")
    titles = pq.read_table(tmp_path / "log" / "titles.parquet")["title"].to_pylist()
    assert titles == [title, *(f"Title {n}" for n in range(7))]


def test_times_of_both_categories_are_the_clock(tmp_path: Path) -> None:
    log = ingest_kg_books_movies(write_graph(tmp_path / "raw", times=NAMES), tmp_path / "log")
    schema = read_schema(log)
    assert (schema.split.by, schema.events.time) == ("time", "time")
    times = pq.read_table(tmp_path / "log" / "events.parquet")["time"].to_pylist()
    assert times == 2 * [1_000_000_000 + n for n in range(60)]
    rows = prepare(log, tmp_path / "dataset").events
    train, test = rows["train"].time, rows["test"].time
    assert train is not None
    assert test is not None
    assert train.max() < test.min()


def test_times_of_one_category_alone_are_refused(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "raw", times=NAMES[:1])
    with pytest.raises(InputError, match=r"only one of the two \.inter files has a column 'timestamp'"):
        ingest_kg_books_movies(source, tmp_path / "log")


@pytest.mark.parametrize("untyped", [NAMES[:1], NAMES])
def test_identifiers_are_text_whatever_the_header_says(tmp_path: Path, untyped: Sequence[str]) -> None:
    source = write_graph(tmp_path / "raw")
    for name in NAMES:
        head = "user_id\titem_id\trating\n" if name in untyped else HEADER
        (source / f"{name}.inter").write_text(head + "001\t0002\t1\n", encoding="utf-8")
    ingest_kg_books_movies(source, tmp_path / "log")
    events = pq.read_table(tmp_path / "log" / "events.parquet")
    assert events["user_id"].to_pylist() == ["001", "001"]
    assert events["item_id"].to_pylist() == ["0002", "0002"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{HEADER}u1\tB1\t1\nu2\tB".encode(), "not readable as UTF-8 .*: CSV parse error: Row #3: Expected 3 columns"),
        (b"", "not readable as UTF-8 .*: Empty CSV file"),
        (f"{HEADER}u1\tB1\t1\nRené\tB2\t1\n".encode("latin-1"), "not readable as UTF-8 .*Row #3.* invalid UTF8 data"),
        ("user_id:token\titem_id:token\tprix_payé\n".encode("latin-1"), "not readable as UTF-8"),
        (HEADER.encode(), "has a header and no row"),
        (f"{HEADER}u1\t\t1\n".encode(), "row 1, column 'item_id': '' is empty"),
        (b"user_id:token\trating:float\nu1\t1\n", "not one column 'item_id'"),
        (
            b"user_id:token\titem_id:token\ttimestamp:float\nu1\tB1\tnoon\n",
            "Row #2: .* to double: invalid value 'noon'",
        ),
        (
            b"user_id:token\titem_id:token\ttimestamp:float\nu1\tB1\t1e12\n",
            "row 1, column 'timestamp': .* divide by 1000",
        ),
    ],
)
def test_an_interaction_file_that_is_broken_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    source = write_graph(tmp_path / "raw")
    (source / "Books.inter").write_bytes(content)
    with pytest.raises(InputError, match=rf"Books\.inter: .*{message}"):
        ingest_kg_books_movies(source, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def write_pair(folder: Path, **changed: object) -> Path:
    """Three hundred purchases of ten users, one a second."""
    folder.mkdir(exist_ok=True)
    asins = [f"{'GK'[n % 2]}{n % 30}" for n in range(300)]
    events = {
        "user": [f"u{n % 10}" for n in range(300)],
        "asin": asins,
        "domain": [("Grocery", "Kitchen")[n % 2] for n in range(300)],
        "timestamp": TIMES,
    }
    pq.write_table(pa.table({**events, **changed}), folder / "events.parquet")
    named = sorted(set(asins))
    pq.write_table(pa.table({"asin": named, "title": [f"thing {asin}" for asin in named]}), folder / "titles.parquet")
    return folder


TIMES = [1_000_000_000 + n for n in range(300)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"domain": [*["Grocery"] * 299, None]}, "row 300, column 'domain': None is empty"),
        ({"user": ["", *["u1"] * 299]}, "row 1, column 'user': '' is empty"),
        ({"timestamp": [None, *TIMES[1:]]}, "row 1, column 'timestamp': None is empty"),
        ({"timestamp": [*map(float, TIMES[:9]), 9.5, *map(float, TIMES[10:])]}, "row 10, .*9.5 is no whole number"),
        ({"timestamp": ["2014-05-01"] * 300}, "row 1, column 'timestamp': '2014-05-01' is no whole number"),
        ({"timestamp": [1_000 * time for time in TIMES]}, "row 1, column 'timestamp': .* divide by 1000"),
        ({"user": [[1]] * 300}, r"row 1, column 'user': \[1\] is no text"),
    ],
)
def test_a_wrong_purchase_is_named_with_its_row(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf"events\.parquet: {message}"):
        ingest_grocery_kitchen(write_pair(tmp_path / "raw", **changed), tmp_path / "log")


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_timestamps_become_whole_seconds(tmp_path: Path, unit: str, per_second: int, zone: str | None) -> None:
    moments = pa.array([per_second * time + per_second // 2 for time in TIMES], pa.timestamp(unit, zone))
    log = ingest_grocery_kitchen(write_pair(tmp_path / "raw", timestamp=moments), tmp_path / "log")
    assert pq.read_table(log.parent / "events.parquet")["time"].to_pylist() == TIMES


def test_a_date_is_its_first_second(tmp_path: Path) -> None:
    days = pa.array(range(300), pa.int32()).cast(pa.date32())
    log = ingest_grocery_kitchen(write_pair(tmp_path / "raw", timestamp=days), tmp_path / "log")
    assert pq.read_table(log.parent / "events.parquet")["time"].to_pylist() == [86_400 * day for day in range(300)]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def break_a_page(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:60] = b"\xff" * 56
    file.write_bytes(content)


@pytest.mark.parametrize("change", [cut, break_a_page, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", ["events.parquet", "titles.parquet"])
def test_a_broken_parquet_file_is_named(tmp_path: Path, change: Callable[[Path], object], name: str) -> None:
    source = write_pair(tmp_path / "raw")
    change(source / name)
    with pytest.raises(InputError, match=rf"{name}: not readable as Parquet: .*; fetch the file again"):
        ingest_grocery_kitchen(source, tmp_path / "log")
