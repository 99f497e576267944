"""Pairs of Amazon categories with users in both: purchases alone, so negatives are drawn.

`grocery_kitchen`: `events.parquet` (user, asin, domain, unix timestamp) and `titles.parquet` (asin, title).
`movie_book`: `events.parquet` (user, position in time order, asin, domain) and `movie_titles.parquet`.
`kg_books_movies`: RecBole's atomic files `NAME.inter.tsv` and `NAME.link.tsv`, or `NAME.inter` and `NAME.link`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError, joined_names

PER_POSITIVE = 5


def ingest_grocery_kitchen(source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None) -> Path:
    """Write a log with a clock: split by time, negatives drawn at the positive's time unless said otherwise."""
    events = _events(source, "timestamp")
    titles = _titles(source / "titles.parquet")
    drawn = negatives or {"draw": "time_window", "per_positive": PER_POSITIVE}
    content = _declaration("amazon_grocery_kitchen", _domains(events), {"by": "time"}, drawn, time="time")
    return _write(out, events, titles, content)


def ingest_movie_book(source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None) -> Path:
    """Write a log whose time is a user's own order, no common clock: users' last purchases are held out.

    Negatives are items of other positives of the same split: a third of the last purchases of Book are items that
    training never saw, and negatives that all are known would tell them by that alone.
    """
    events = _events(source, "position")
    titles = _titles(source / "movie_titles.parquet")
    drawn = negatives or {"draw": "same_split", "per_positive": PER_POSITIVE}
    content = _declaration("amazon_movie_book", _domains(events), {"by": "last_out"}, drawn, time="time")
    return _write(out, events, titles, content)


def ingest_kg_books_movies(source: Path, out: Path, *, negatives: Mapping[str, Any] | None = None) -> Path:
    """Write a log without a clock, whose titles are the names of the items' DBpedia entities."""
    events, titles = [], []
    for name in ("Books", "Movies_and_TV"):
        inter = _atomic(source, f"{name}.inter", ("user_id", "item_id"))
        link = _atomic(source, f"{name}.link", ("item_id", "entity_id"))
        events.append(
            pa.table({"user_id": inter["user_id"], "item_id": inter["item_id"], "domain": _repeat(name, len(inter))})
        )
        entity = pc.replace_substring_regex(link["entity_id"], "^.*[:/]", "")
        titles.append(pa.table({"item_id": link["item_id"], "title": pc.replace_substring(entity, "_", " ")}))
    table = pa.concat_tables(events)
    drawn = negatives or {"draw": "popularity", "per_positive": PER_POSITIVE}
    split = {"by": "random"}
    content = _declaration("amazon_kg_books_movies", _domains(table), split, drawn, time=None)
    return _write(out, table, pa.concat_tables(titles), content)


def _events(source: Path, order: str) -> pa.Table:
    table = _read(source / "events.parquet")
    time = next((name for name in (order, "time", "unixReviewTime") if name in table.column_names), None)
    if time is None or (missing := {"user", "asin", "domain"} - set(table.column_names)):
        missing = {"user", "asin", "domain", order} - set(table.column_names)
        raise InputError(f"{source / 'events.parquet'}: no column {sorted(missing)[0]!r}")
    return pa.table(
        {
            "user_id": table["user"].cast(pa.string()),
            "item_id": table["asin"].cast(pa.string()),
            "domain": table["domain"].cast(pa.string()),
            "time": table[time].cast(pa.int64()),
        }
    )


def _titles(file: Path) -> pa.Table:
    table = _read(file)
    if missing := {"asin", "title"} - set(table.column_names):
        raise InputError(f"{file}: no column {sorted(missing)[0]!r}")
    table = pa.table({"item_id": table["asin"].cast(pa.string()), "title": table["title"].cast(pa.string())})
    return table.group_by("item_id").aggregate([("title", "min")]).rename_columns(["item_id", "title"])


def _read(file: Path) -> pa.Table:
    if not file.is_file():
        raise InputError(f"{file}: missing; give the folder that holds it")
    try:
        return pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: not readable as Parquet: {error}") from error


def _atomic(source: Path, name: str, wanted: Sequence[str]) -> pa.Table:
    found = [source / f"{name}{ending}" for ending in ("", ".tsv") if (source / f"{name}{ending}").is_file()]
    if not found:
        raise InputError(f"{source / name}: missing; RecBole's atomic files of both categories are wanted")
    options = pacsv.ConvertOptions(column_types={f"{column}:token": pa.string() for column in wanted})
    table = pacsv.read_csv(
        found[0], parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False), convert_options=options
    )
    table = table.rename_columns([column.split(":")[0] for column in table.column_names])
    if missing := set(wanted) - set(table.column_names):
        raise InputError(f"{found[0]}: no column {sorted(missing)[0]!r}; it has {joined_names(table.column_names)}")
    return table


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
    name: str, domains: Sequence[str], split: Mapping[str, Any], negatives: Mapping[str, Any], *, time: str | None
) -> dict[str, Any]:
    events: dict[str, Any] = {"files": ["events.parquet"], "user": "user_id", "item": "item_id", "domain": "domain"}
    if time is not None:
        events["time"] = time
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
        "ranking": {"negatives": dict(negatives)},
        "title": {"name": "title", "side": "item", "kind": "categorical", "source": "titles"},
    }
