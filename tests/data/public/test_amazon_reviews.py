"""Amazon's reviews: lines and files that are not as published."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from isthmus.data.public.amazon_reviews import ingest_amazon_reviews
from isthmus.errors import InputError

REVIEW = {"user_id": "U1", "parent_asin": "K1", "rating": 5.0, "timestamp": 1_390_000_000_000}


def write(folder: Path, *lines: str, name: str = "Home.jsonl", encoding: str = "utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps({**REVIEW, "timestamp": 1e300}), r"time 1e\+300 is neither in seconds nor in milliseconds"),
        (json.dumps({**REVIEW, "timestamp": -1e300}), r"time -1e\+300 is neither"),
        (json.dumps({**REVIEW, "timestamp": 1_390_000_000_000_000}), "time 1390000000000000 is neither"),
        ('{"user_id": "U1", "votes": ' + "9" * 5_000 + "}", r"not readable: .*4300.*; correct or remove the line"),
        ("[" * 100_000 + "]" * 100_000, "not readable: .*recursion.*; correct or remove the line"),
        ("{[1]: 2}", "is no JSON object"),
    ],
)
def test_an_odd_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"Home\.jsonl, line 2: {message}"):
        ingest_amazon_reviews(write(tmp_path / "raw", json.dumps(REVIEW), line), tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_a_wrong_value_is_shown_in_short(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", json.dumps({**REVIEW, "rating": "good" * 1_000}))
    with pytest.raises(InputError, match="is not a number") as raised:
        ingest_amazon_reviews(source, tmp_path / "log")
    assert len(str(raised.value)) < 300


def test_gzip_with_wrong_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    file = tmp_path / "raw" / "Home.jsonl.gz"
    packed = bytearray(gzip.compress("".join(json.dumps({**REVIEW, "n": n}) + "\n" for n in range(900)).encode()))
    packed[40:60] = b"\xff" * 20
    file.write_bytes(packed)
    with pytest.raises(InputError, match=r"Home\.jsonl\.gz: not readable .*fetch the file again"):
        ingest_amazon_reviews(tmp_path / "raw", tmp_path / "log")


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_kept(tmp_path: Path) -> None:
    whole = json.dumps({**REVIEW, "user_id": "\N{GRINNING FACE}"})
    assert r"\ud83d\ude00" in whole
    source = write(tmp_path / "raw", r'{"user_id": "U\ud83d", "asin": "K1", "rating": 5, "timestamp": 9}', whole)
    write(tmp_path / "raw", r'{"asin": "K1", "title": "tea \ude00 cup", "brand": "\ud83dB"}', name="meta_Home.jsonl")
    ingest_amazon_reviews(source, tmp_path / "log")
    events = pq.read_table(tmp_path / "log" / "events.parquet")
    assert events["user_id"].to_pylist() == ["U\ufffd", "\N{GRINNING FACE}"]
    [item] = pq.read_table(tmp_path / "log" / "items.parquet").to_pylist()
    assert (item["title"], item["brand"]) == ("tea \ufffd cup", "\ufffdB")


def test_a_byte_order_mark_is_no_part_of_the_first_review(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", json.dumps(REVIEW), encoding="utf-8-sig")
    ingest_amazon_reviews(source, tmp_path / "log")
    assert pq.read_table(tmp_path / "log" / "events.parquet")["user_id"].to_pylist() == ["U1"]


@pytest.mark.parametrize("ending", [".JSONL", ".Json", ".JSONL.GZ"])
def test_endings_in_capitals_are_read(tmp_path: Path, ending: str) -> None:
    source = write(tmp_path / "raw", json.dumps(REVIEW), name="Books.jsonl")
    content = f"{json.dumps(REVIEW)}\n".encode()
    (source / f"Home{ending}").write_bytes(gzip.compress(content) if ending.endswith(".GZ") else content)
    ingest_amazon_reviews(source, tmp_path / "log")
    assert pq.read_table(tmp_path / "log" / "events.parquet")["domain"].to_pylist() == ["Books", "Home"]
