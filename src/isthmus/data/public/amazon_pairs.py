"""Pairs of Amazon categories with users in both: purchases alone, so negatives are drawn.

`grocery_kitchen`: `events.parquet` (user, asin, domain, unix timestamp) and `titles.parquet` (asin, title).
`movie_book`: `events.parquet` (user, position in time order, asin, domain) and `movie_titles.parquet`.
`kg_books_movies`: RecBole's atomic files `NAME.inter.tsv` and `NAME.link.tsv`, or `NAME.inter` and `NAME.link`. A row
is an interaction: its `rating` is not read, its `timestamp` is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from isthmus.data.public.arrow_columns import cast_column, identifiers, read_parquet, seconds
from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError, joined_names

PER_POSITIVE = 5
# Of an entity's address or its short form: the host with a folder, or the name before the first colon.
PREFIX = r"^(https?://[^/]+/([^/]+/)?|[A-Za-z][A-Za-z0-9.-]*:)"


def ingest_grocery_kitchen(
    source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None, seed: int = 0
) -> Path:
    """Write a log with a clock: split by time, negatives drawn at the positive's time unless said otherwise.

    Args:
        seed: of the negatives, unless `negatives` says how they are drawn.

    Raises:
        InputError: a file or a column is missing or not readable, or a row lacks its user, item, domain or time.
    """
    events = _events(source, "timestamp")
    titles = _titles(source / "titles.parquet")
    drawn = negatives or _drawn("time_window", seed)
    content = _declaration("amazon_grocery_kitchen", _domains(events), {"by": "time"}, drawn, time="time")
    return _write(out, events, titles, content)


def ingest_movie_book(source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None, seed: int = 0) -> Path:
    """Write a log whose time is a user's own order, no common clock: users' last purchases are held out.

    Negatives are items of other positives of the same split: a third of the last purchases of Book are items that
    training never saw, and negatives that all are known would tell them by that alone.

    Args:
        seed: of the negatives, unless `negatives` says how they are drawn.

    Raises:
        InputError: as of `ingest_grocery_kitchen`.
    """
    events = _events(source, "position")
    titles = _titles(source / "movie_titles.parquet")
    drawn = negatives or _drawn("same_split", seed)
    content = _declaration("amazon_movie_book", _domains(events), {"by": "last_out"}, drawn, time="time")
    return _write(out, events, titles, content)


def ingest_kg_books_movies(
    source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None, seed: int = 0
) -> Path:
    """Write a log whose titles are the names of the items' DBpedia entities.

    The published files have no clock: rows are split at random, negatives drawn by popularity. Where both `.inter`
    files have a `timestamp` there is one: both go by time then, as of `ingest_grocery_kitchen`.

    Args:
        seed: of the negatives, unless `negatives` says how they are drawn, and, without a clock, of the split and of
            the folds that histories are made of.

    Raises:
        InputError: a file or a column is missing or not readable, a file has no row, or one alone has times.
    """
    events, titles = [], []
    for name in ("Books", "Movies_and_TV"):
        file, inter = _atomic(source, f"{name}.inter", ("user_id", "item_id"))
        rows = {
            "user_id": identifiers(inter, "user_id", file),
            "item_id": identifiers(inter, "item_id", file),
            "domain": _repeat(name, len(inter)),
        }
        if "timestamp" in inter.column_names:
            rows["time"] = seconds(inter["timestamp"], "timestamp", file)
        events.append(pa.table(rows))
        _, link = _atomic(source, f"{name}.link", ("item_id", "entity_id"))
        entity = pc.replace_substring_regex(link["entity_id"], PREFIX, "")
        title = pc.utf8_trim_whitespace(pc.replace_substring(entity, "_", " "))
        titles.append(pa.table({"item_id": link["item_id"], "title": title}))
    have_time = ["time" in one.column_names for one in events]
    if any(have_time) != all(have_time):
        raise InputError(
            f"{source}: only one of the two .inter files has a column 'timestamp'; give it to both or none"
        )
    table = pa.concat_tables(events)
    split = {"by": "time"} if all(have_time) else {"by": "random", "seed": seed}
    drawn = negatives or _drawn("time_window" if all(have_time) else "popularity", seed)
    time, folds_seed = ("time", None) if all(have_time) else (None, seed)
    content = _declaration("amazon_kg_books_movies", _domains(table), split, drawn, time=time, folds_seed=folds_seed)
    return _write(out, table, pa.concat_tables(titles), content)


def _events(source: Path, order: str) -> pa.Table:
    file = source / "events.parquet"
    table = read_parquet(file, ("user", "asin", "domain"))
    time = next((name for name in (order, "time", "unixReviewTime") if name in table.column_names), None)
    if time is None:
        raise InputError(f"{file}: no column {order!r}; it has {joined_names(table.column_names)}")
    return pa.table(
        {
            "user_id": identifiers(table, "user", file),
            "item_id": identifiers(table, "asin", file),
            "domain": identifiers(table, "domain", file),
            "time": seconds(table[time], time, file),
        }
    )


def _titles(file: Path) -> pa.Table:
    table = read_parquet(file, ("asin", "title"))
    columns = [cast_column(table[name], pa.string(), name, file, "is no text") for name in ("asin", "title")]
    table = pa.table(columns, ["item_id", "title"])
    return table.group_by("item_id").aggregate([("title", "min")]).rename_columns(["item_id", "title"])


def _atomic(source: Path, name: str, wanted: Sequence[str]) -> tuple[Path, pa.Table]:
    """An atomic file and its rows, columns without their types: times as numbers, all else as text."""
    found = [source / f"{name}{ending}" for ending in ("", ".tsv") if (source / f"{name}{ending}").is_file()]
    if not found:
        raise InputError(f"{source / name}: missing; RecBole's atomic files of both categories are wanted")
    file = found[0]
    try:
        with file.open("rb") as opened:
            header = opened.readline().decode("utf-8-sig").rstrip("\r\n").split("\t")
        types = {column: pa.float64() if _untyped(column) == "timestamp" else pa.string() for column in header}
        table = pacsv.read_csv(
            file,
            read_options=pacsv.ReadOptions(use_threads=False),  # with threads, errors would not name the row
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(column_types=types),
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: not readable as UTF-8 text of columns joined by tabs, the header being row 1: {error}"
        ) from error
    names = [_untyped(column) for column in table.column_names]
    if missing := [column for column in wanted if names.count(column) != 1]:
        raise InputError(f"{file}: not one column {missing[0]!r}; it has {joined_names(table.column_names)}")
    if not len(table):
        raise InputError(f"{file}: has a header and no row; fetch the file again")
    return file, table.rename_columns(names)


def _untyped(column: str) -> str:
    return column.split(":")[0]


def _drawn(draw: str, seed: int) -> dict[str, Any]:
    return {"draw": draw, "per_positive": PER_POSITIVE, "seed": seed}


def _domains(events: pa.Table) -> list[str]:
    names: list[str] = sorted(pc.unique(events["domain"]).to_pylist())
    return names


def _repeat(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), count)


def _write(out: Path, events: pa.Table, titles: pa.Table, content: Mapping[str, Any]) -> Path:
    with new_log_folder(out, content["name"]) as temporary:
        pq.write_table(events, temporary / "events.parquet")
        pq.write_table(titles, temporary / "titles.parquet")
        write_declaration(content, temporary)
    return out / DECLARATION


def _declaration(
    name: str,
    domains: Sequence[str],
    split: Mapping[str, Any],
    negatives: Mapping[str, Any],
    *,
    time: str | None,
    folds_seed: int | None = None,
) -> dict[str, Any]:
    events: dict[str, Any] = {"files": ["events.parquet"], "user": "user_id", "item": "item_id", "domain": "domain"}
    if time is not None:
        events["time"] = time
    folds = {} if folds_seed is None else {"seed": folds_seed}
    return {
        "name": name,
        "events": events,
        "domains": {domain: {} for domain in domains},
        "tables": {"titles": {"files": ["titles.parquet"], "item": "item_id"}},
        "fields": [
            {"name": "user_id", "side": "user", "kind": "id"},
            {"name": "history", "side": "user", "kind": "history", "scope": "own", "table": "item_id"},
            {"name": "other_history", "side": "user", "kind": "history", "scope": "other", "table": "item_id"},
            {"name": "item_id", "side": "item", "kind": "id"},
            {"name": "words", "side": "item", "kind": "text", "source": "titles", "column": "title"},
        ],
        "split": dict(split),
        "ranking": {"negatives": dict(negatives), **folds},
        "title": {"name": "title", "side": "item", "kind": "categorical", "source": "titles"},
    }
