"""A first declaration of a log, guessed from its columns, with the doubts said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from isthmus.data.tables import ISO_EXAMPLE, ISO_TIME, PER_SECOND, SECONDS_LIMIT, Source, connect, open_source, reading
from isthmus.errors import joined_names

# What columns are commonly called, the likeliest first.
USER_NAMES = (
    "user",
    "userid",
    "uid",
    "customer",
    "customerid",
    "member",
    "memberid",
    "visitor",
    "visitorid",
    "reviewerid",
)
ITEM_NAMES = (
    "item", "itemid", "iid", "product", "productid", "asin", "sku", "article", "articleid", "movieid", "videoid",
    "newsid", "adid", "goodsid", "contentid",
)  # fmt: skip
DOMAIN_NAMES = (
    "domain", "domainid", "market", "scenario", "scene", "marketplace", "country", "store", "shop", "site", "app",
    "channel", "tab", "platform", "region",
)  # fmt: skip
TIME_NAMES = (
    "time", "timestamp", "ts", "unixtime", "eventtime", "timems", "tsms", "timestampms", "tsus", "eventts",
    "datetime", "date", "createdat", "unixreviewtime",
)  # fmt: skip
LABEL_NAMES = (
    "label", "click", "clicked", "isclick", "purchase", "purchased", "bought", "isbuy", "ordered", "conversion",
    "converted", "liked", "rating", "overall", "score",
)  # fmt: skip
SPLIT_NAMES = ("split", "fold", "set")
SEPARATORS = ("|", ";", ",")

SAMPLE_ROWS = 200_000
MOST_DOMAINS = 200
FEW_VALUES = 50


@dataclass(frozen=True)
class Guess:
    """What is seen of a column in the sample."""

    name: str
    is_number: bool
    is_float: bool
    is_list: bool
    distinct: int
    missing: int
    largest: float | None
    is_moment: bool  # a timestamp, a date, or text in ISO 8601
    values: tuple[str, ...]  # a few, ascending


def draft_schema(log_files: Sequence[Path], *, folder: Path | None = None) -> tuple[str, list[str]]:
    """A YAML declaration of a log and the doubts about it, which also stand in the YAML as comments.

    Columns are told by their names, their types and what they depend on: one whose value the item determines is a
    field of the item. Looked at are the first SAMPLE_ROWS rows.

    Args:
        folder: where the YAML will lie; files in it are named relative to it, all others in full.

    Raises:
        InputError: a file is missing, empty or not readable.
    """
    names = [_name_of(file.resolve(), folder) for file in log_files]
    with connect() as connection:
        source = open_source(connection, [str(file.resolve()) for file in log_files], Path("/"), "events")
        with reading(source.files):
            sample = connection.create_table("sample", source.table.limit(SAMPLE_ROWS), temp=True)
        source = replace(source, table=sample)
        content, doubts = _draft(source, names, _plain(log_files[0].stem) or "log")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    head = "".join(f"# Doubt: {doubt}\n" for doubt in doubts)
    return f"# Drafted from {', '.join(names)}; read it before it is used.\n{head}{text}", doubts


def _draft(source: Source, files: list[str], name: str) -> tuple[dict[str, Any], list[str]]:
    guesses: dict[str, Guess] = {column: _look(source, column) for column in source.table.columns}
    doubts: list[str] = []

    def find(role: str, known: Sequence[str], taken: Sequence[str | None]) -> str | None:
        columns = [column for column in guesses if column not in taken]
        for name in known:
            for column in columns:
                if _plain(column) == name:
                    return column
        near = [column for column in columns if any(len(name) > 3 and name in _plain(column) for name in known)]
        if near:
            doubts.append(f"events.{role}: {near[0]!r} is a guess by its name")
        return near[0] if near else None

    user = find("user", USER_NAMES, [])
    item = find("item", ITEM_NAMES, [user])
    time = find("time", TIME_NAMES, [user, item]) or _first_moment(guesses, [user, item], doubts)
    label = find("positive", LABEL_NAMES, [user, item, time])
    split = find("split", SPLIT_NAMES, [user, item, time, label])
    domain = find("domain", DOMAIN_NAMES, [user, item, time, label, split])
    for role, column in (("user", user), ("item", item), ("domain", domain)):
        if column is None:
            doubts.append(f"events.{role}: no column looks like it; fill it in (columns: {joined_names(guesses)})")

    content: dict[str, Any] = {"name": name}
    events: dict[str, Any] = {"files": files, "user": user or "FILL_IN", "item": item or "FILL_IN"}
    events["domain"] = domain or "FILL_IN"
    if time is not None and (clock := _clock(guesses[time], doubts)):
        events["time"] = clock
    if label is not None and (rule := _positive(guesses[label], doubts)):
        events["positive"] = rule
        doubts.append(
            "ranking: for a click model add 'ranking: {negatives: explicit}', by which all other rows are negatives; "
            "leave out fields that are known only after a row, such as what else its user did"
        )
    content["events"] = events
    content["domains"] = _domains(source, domain, doubts)
    used = {user, item, domain, time, label, split}
    fields = [
        {"name": "user_id", "side": "user", "kind": "id"},
        {"name": "history", "side": "user", "kind": "history", "scope": "all", "table": "history"},
        {"name": "item_id", "side": "item", "kind": "id"},
    ]
    for guess in guesses.values():
        if guess.name not in used:
            fields += _field(source, guess, user, item, doubts)
    content["fields"] = fields
    content["split"] = _split(source, split, "time" in events, doubts)
    content["candidates"] = {"sampled": 99, "seed": 0}
    return content, doubts


def _name_of(file: Path, folder: Path | None) -> str:
    if folder is not None and file.is_relative_to(folder.resolve()):
        return file.relative_to(folder.resolve()).as_posix()
    return file.as_posix()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _look(source: Source, column: str) -> Guess:
    value = source.table[column]
    is_list = value.type().is_array()
    is_text = value.type().is_string()
    text = value.cast("string").nullif("") if not is_list else value.cast("array<string>").join("|").nullif("")
    number = (
        text.try_cast("float64")
        if is_text
        else None
        if is_list or not value.type().is_numeric()
        else value.cast("float64")
    )
    is_typed_moment = value.type().is_timestamp() or value.type().is_date()
    measured = {"rows": source.table.count(), "distinct": text.nunique(), "missing": text.isnull().sum()}
    if number is not None:
        measured |= {"numbers": number.notnull().sum(), "largest": number.max()}
    if is_text:
        measured["moments"] = text.re_search(ISO_TIME).sum()
    with reading(source.files):
        found = source.table.aggregate(**measured).to_pyarrow().to_pylist()[0]
        values = source.table.select(text=text).filter(lambda t: t["text"].notnull()).distinct()
        first = values.order_by("text").limit(FEW_VALUES).to_pyarrow()["text"].to_pylist()
    given = found["rows"] - found["missing"]
    return Guess(
        name=column,
        is_number=number is not None and given > 0 and found["numbers"] == given,
        is_float=value.type().is_floating(),
        is_list=is_list,
        distinct=found["distinct"],
        missing=found["missing"],
        largest=found.get("largest"),
        is_moment=is_typed_moment or (is_text and given > 0 and found["moments"] == given),
        values=tuple(first),
    )


def _first_moment(guesses: dict[str, Guess], taken: Sequence[str | None], doubts: list[str]) -> str | None:
    """A column that holds times, where none is called like one."""
    found = [guess.name for guess in guesses.values() if guess.is_moment and guess.name not in taken]
    if found:
        doubts.append(f"events.time: {found[0]!r} is a guess by its values")
    return found[0] if found else None


def _clock(guess: Guess, doubts: list[str]) -> str | dict[str, str] | None:
    if guess.is_moment:
        return guess.name
    if not guess.is_number:
        doubts.append(
            f"events.time: {guess.name!r} is no number and not ISO 8601 such as {ISO_EXAMPLE} in all rows; rewrite it, "
            "then declare it"
        )
        return None
    largest = guess.largest or 0.0
    if largest <= SECONDS_LIMIT:
        return guess.name
    for unit, words in (("ms", "milliseconds"), ("us", "microseconds")):
        if largest <= SECONDS_LIMIT * PER_SECOND[unit]:
            doubts.append(f"events.time: {guess.name!r} looks like {words}, so the unit is {unit}")
            return {"column": guess.name, "unit": unit}
    doubts.append(f"events.time: {guess.name!r} is finer than microseconds; divide it, then declare it")
    return None


def _positive(guess: Guess, doubts: list[str]) -> dict[str, Any] | None:
    if not guess.is_number:
        doubts.append(f"events.positive: {guess.name!r} is no number; say which values are positives")
        return None
    largest = guess.largest or 0.0
    if largest <= 1:
        return {"column": guess.name, "at_least": 1}
    at_least = 4 if largest <= 5 else largest * 0.8
    doubts.append(
        f"events.positive: {guess.name!r} goes up to {largest:g}; {at_least:g} or more is taken as a positive"
    )
    return {"column": guess.name, "at_least": at_least}


def _domains(source: Source, column: str | None, doubts: list[str]) -> dict[str, dict[str, Any]]:
    if column is None:
        return {"FILL_IN": {}}
    text = source.text(column, "domain")
    found = source.table.select(name=text).filter(lambda t: t["name"].notnull()).distinct().order_by("name")
    names = found.limit(MOST_DOMAINS + 1).to_pyarrow()["name"].to_pylist()
    if len(names) > MOST_DOMAINS:
        doubts.append(f"events.domain: {column!r} has more than {MOST_DOMAINS} values; is it the domain?")
        names = names[:MOST_DOMAINS]
    if len(names) == 1:
        doubts.append(f"domains: {column!r} holds one value only, {names[0]!r}")
    return {name: {} for name in names}


def _split(source: Source, column: str | None, has_time: bool, doubts: list[str]) -> dict[str, Any]:
    if column is not None:
        values = source.table.select(value=source.text(column, "split")).distinct().to_pyarrow()["value"].to_pylist()
        if set(values) <= {"train", "valid", "test"} and "test" in values:
            return {"by": "given", "column": column}
        doubts.append(f"split: {column!r} does not say train, valid and test, so it is not used")
    if has_time:
        return {"by": "time", "valid": 0.1, "test": 0.1}
    doubts.append("split: there is no clock, so a random positive of each user is held out; a split by time is better")
    return {"by": "last_out", "seed": 0}


def _field(source: Source, guess: Guess, user: str | None, item: str | None, doubts: list[str]) -> list[dict[str, Any]]:
    side = _side(source, guess, user, item)
    if guess.distinct <= 1:
        doubts.append(f"fields: {guess.name!r} is left out, it holds {guess.distinct} value")
        return []
    if guess.is_moment:
        doubts.append(f"fields: {guess.name!r} is left out, it holds times; an age in days, as a number, could be one")
        return []
    field: dict[str, Any] = {"name": guess.name, "side": side}
    separator = _separator(guess)
    if guess.is_list or separator is not None:
        field["kind"] = "multi_valued"
        if separator not in (None, "|"):
            field["separator"] = separator
        doubts.append(f"fields.{guess.name}: taken as multi_valued; in order of time it would be a sequence")
    elif guess.is_float or (guess.is_number and guess.distinct > FEW_VALUES):
        field["kind"] = "number"
        if guess.missing:
            field["missing"] = "mean"
            doubts.append(f"fields.{guess.name}: {guess.missing} values are missing; they count as the mean")
    elif not guess.is_number and any(" " in value for value in guess.values) and guess.distinct > FEW_VALUES:
        doubts.append(f"fields: {guess.name!r} is left out, it looks like free text; it could be the 'title'")
        return []
    else:
        field["kind"] = "categorical"
        if guess.is_number:
            doubts.append(f"fields.{guess.name}: numbers of {guess.distinct} values, taken as categories")
    if _plain(guess.name) in ("user", "item", "domain", "time", "candidates"):
        field = {"name": f"{guess.name}_value", "column": guess.name, **{k: v for k, v in field.items() if k != "name"}}
    return [field]


def _side(source: Source, guess: Guess, user: str | None, item: str | None) -> Literal["user", "item", "context"]:
    """The item's or the user's, where each of them has one value only; else the event's."""
    for side, column in (("item", item), ("user", user)):
        if column is None:
            continue
        with reading(source.files):
            pairs = source.table.select(column, guess.name).distinct().count().to_pyarrow().as_py()
            distinct = source.table.select(column).distinct().count().to_pyarrow().as_py()
        if pairs == distinct:
            return "item" if side == "item" else "user"
    return "context"


def _separator(guess: Guess) -> str | None:
    for separator in SEPARATORS:
        holding = sum(separator in value and " " not in value for value in guess.values)
        if holding * 2 > len(guess.values):
            return separator
    return None
