"""Amazon's review files, a category being a domain: ratings are labels, so negatives are real, and there is a clock.

Read are, for each category, reviews `reviews_NAME.json` (2014, `reviewerID`, `asin`, `overall`, `unixReviewTime`),
`NAME.json` (2018) or `NAME.jsonl` (2023, `user_id`, `asin`, `rating`, `timestamp` in milliseconds), and, where it is
there, `meta_NAME` with titles, brands and categories; each as it is or packed by gzip, an object a line.
"""

import ast
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError

NAME = "amazon_reviews"
POSITIVE_RATING = 4
BLOCK = 100_000
MILLISECONDS_FROM = 1e11  # and no second so late is taken
ENDING = re.compile(r"\.jsonl?(\.gz)?$", re.IGNORECASE)
MOST_SHOWN = 60  # letters of a wrong value

EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("domain", pa.string()),
        ("time", pa.int64()),
        ("rating", pa.float64()),
    ]
)
ITEMS = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("brand", pa.string()), ("category", pa.string())])


def ingest_amazon_reviews(source: Path, out: Path) -> Path:
    """Write a log of all categories that the folder holds; gives the path of its declaration.

    Raises:
        InputError: there is no review file, a line is no object, or a review lacks its user, item, rating or time.
    """
    reviews, metas = _files(source)
    with new_log_folder(out, NAME) as temporary:
        with pq.ParquetWriter(temporary / "events.parquet", EVENTS) as writer:
            for name, file in reviews.items():
                for block in _blocks(_reviews(file, name)):
                    writer.write_table(pa.Table.from_pylist(block, EVENTS))
        if metas:
            seen: set[str] = set()
            with pq.ParquetWriter(temporary / "items.parquet", ITEMS) as writer:
                for file in metas:
                    for block in _blocks(_items(file, seen)):
                        writer.write_table(pa.Table.from_pylist(block, ITEMS))
        write_declaration(_declaration(list(reviews), has_items=bool(metas)), temporary)
    return out / DECLARATION


def _files(source: Path) -> tuple[dict[str, Path], list[Path]]:
    """Review files by category, and metadata files."""
    reviews: dict[str, Path] = {}
    metas: list[Path] = []
    found = sorted(file for file in source.glob("*") if ENDING.search(file.name)) if source.is_dir() else []
    for file in found:
        stem = ENDING.sub("", file.name)
        if stem.startswith("meta_"):
            metas.append(file)
            continue
        name = stem.removeprefix("reviews_").removesuffix("_5")
        if name in reviews:
            raise InputError(f"{file}: {reviews[name].name} has category {name!r} too; leave one of them in the folder")
        reviews[name] = file
    if not reviews:
        raise InputError(f"{source}: no review file (reviews_CATEGORY.json, CATEGORY.jsonl, also with .gz)")
    return dict(sorted(reviews.items())), metas


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers. Metadata of 2014 are Python's literals, not JSON."""
    number = 0
    try:
        with _opened(file) as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield number, _object(line, file, number)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{file}: not readable after line {number}: {error}; fetch the file again") from error


def _opened(file: Path) -> TextIOWrapper:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _object(line: str, file: Path, number: int) -> dict[str, Any]:
    value: object
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        try:
            value = ast.literal_eval(line)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise InputError(f"{file}, line {number}: not readable: {error}; correct or remove the line") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}, line {number}: is no JSON object; the file may have been cut off")
    return value


def _reviews(file: Path, name: str) -> Iterator[dict[str, Any]]:
    for number, review in _lines(file):
        user = _first(review, ("user_id", "reviewerID"), file, number)
        item = _first(review, ("parent_asin", "asin"), file, number)
        rating = _number(_first(review, ("rating", "overall"), file, number), "rating", file, number)
        given = _first(review, ("timestamp", "unixReviewTime"), file, number)
        time = _number(given, "time", file, number)
        # The files of 2023 count milliseconds.
        seconds = time // 1000 if time > MILLISECONDS_FROM else time
        if abs(seconds) > MILLISECONDS_FROM:
            raise InputError(f"{file}, line {number}: time {_short(given)} is neither in seconds nor in milliseconds")
        yield {"user_id": _text(user), "item_id": _text(item), "domain": name, "time": int(seconds), "rating": rating}


def _text(value: object) -> str:
    """A value as text that can be written: half a surrogate pair alone, which JSON can name, becomes U+FFFD."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _first(review: dict[str, Any], keys: Sequence[str], file: Path, number: int) -> object:
    for key in keys:
        if review.get(key) not in (None, ""):
            return review[key]
    raise InputError(f"{file}, line {number}: has neither {' nor '.join(map(repr, keys))}; is it a review file?")


def _number(value: object, what: str, file: Path, number: int) -> float:
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{file}, line {number}: {what} {_short(value)} is not a number")
    return found


def _items(file: Path, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Each item once: the first that is met."""
    for number, meta in _lines(file):
        item = _text(_first(meta, ("parent_asin", "asin"), file, number))
        if item in seen:
            continue
        seen.add(item)
        brand, categories = meta.get("brand") or meta.get("store"), meta.get("categories") or meta.get("category")
        while isinstance(categories, list):  # a list, or a list of paths; the end of the first is the narrowest
            categories = (categories[0] if isinstance(categories[0], list) else categories[-1]) if categories else None
        title = meta.get("title")
        yield {
            "item_id": item,
            "title": _text(title) if title else None,
            "brand": _text(brand) if brand else None,
            "category": _text(categories) if categories else None,
        }


def _blocks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _declaration(domains: Sequence[str], *, has_items: bool) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [
        {"name": "user_id", "side": "user", "kind": "id"},
        {"name": "history", "side": "user", "kind": "history", "scope": "own", "table": "item_id"},
        {"name": "other_history", "side": "user", "kind": "history", "scope": "other", "table": "item_id"},
        {"name": "item_id", "side": "item", "kind": "id"},
    ]
    content: dict[str, Any] = {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "time": "time",
            "positive": {"column": "rating", "at_least": POSITIVE_RATING},
        },
        "domains": {domain: {} for domain in domains},
        "fields": fields,
        "split": {"by": "time"},
        "ranking": {"negatives": "explicit"},
    }
    if has_items:
        content["tables"] = {"items": {"files": ["items.parquet"], "item": "item_id"}}
        fields += [
            {"name": "brand", "side": "item", "kind": "categorical", "source": "items"},
            {"name": "category", "side": "item", "kind": "categorical", "source": "items"},
            {"name": "words", "side": "item", "kind": "text", "source": "items", "column": "title"},
        ]
        content["title"] = {"name": "title", "side": "item", "kind": "categorical", "source": "items"}
    return content
