"""From logs and their declaration to a dataset folder."""

from pathlib import Path
from typing import assert_never

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from isthmus.data.candidate_lists import build_candidates
from isthmus.data.counts import count_log
from isthmus.data.dataset import FORMAT, SPLITS, Column, Dataset, Lists
from isthmus.data.events import EventTable, read_events
from isthmus.data.feature_tables import Side, all_lines
from isthmus.data.field_columns import build_vocabularies, encode, encode_titles, take
from isthmus.data.history import build_history
from isthmus.data.read_schema import read_schema
from isthmus.data.splits import (
    DROPPED,
    TRAIN,
    Taken,
    carve_validation,
    drop_repeats,
    drop_taken_before,
    split_by_time,
    split_last_out,
)
from isthmus.data.statistics import count_items
from isthmus.data.tables import Connection, connect
from isthmus.data.vocabularies import Vocabulary, row_of_code
from isthmus.data.write import DatasetFiles, new_folder
from isthmus.errors import InputError
from isthmus.schema import Schema


def prepare(log: Path, out: Path) -> Dataset:
    """Make the dataset that a YAML file declares, and open it.

    The same input and declaration give the same bytes. `out` appears complete or not at all; an earlier dataset there
    is replaced at the end.

    Raises:
        InputError: a file, a column or a value does not fit its declaration, `out` holds something else than a
            dataset, or the disk is full; the message names it and the remedy.
    """
    schema = read_schema(log)
    with (
        new_folder(out, may_replace=lambda folder: (folder / "manifest.json").is_file()) as folder,
        connect() as connection,
    ):
        _write(connection, schema, log, folder)
    return Dataset.open(out)


def _write(connection: Connection, schema: Schema, log: Path, folder: Path) -> None:
    everything = read_events(connection, schema, log.parent)
    distinct = everything.select(drop_repeats(everything.taken, everything.given))
    split = split_events(schema, distinct, log)
    events, split = distinct.select(split != DROPPED), split[split != DROPPED]

    train = split == TRAIN
    row_of_user = row_of_code(events.taken.user[train], len(events.users))
    row_of_item = row_of_code(events.taken.item[train], len(events.items))
    rows = Taken(row_of_user[events.taken.user], row_of_item[events.taken.item], events.taken.domain, events.taken.time)
    num_items, num_domains = int(row_of_item.max()) + 1, len(schema.domains)
    item_count = count_items(rows.item[train], rows.domain[train], num_items=num_items, num_domains=num_domains)
    candidates = build_candidates(connection, schema, log.parent, events, split, rows.item, row_of_item, item_count)

    users = Vocabulary(events.users.filter(pa.array(row_of_user > 0)))
    items = Vocabulary(events.items.filter(pa.array(row_of_item > 0)))
    sides = {
        "user": Side(events.user_values, row_of_user, rows.user[train]),
        "item": Side(events.item_values, row_of_item, rows.item[train]),
    }
    lines, title = all_lines(connection, schema, log.parent, events, train, sides)
    vocabularies = build_vocabularies(lines, {"user": users, "item": items})

    files = DatasetFiles(folder)
    for name, vocabulary in vocabularies.items():
        files.vocabulary(name, vocabulary.values)
    context: dict[str, Column | Lists] = {}
    numbers: dict[str, dict[str, float]] = {}
    for line in lines:
        column, spread = encode(line, vocabularies, log)
        if spread is not None:
            numbers[line.field.name] = {"mean": spread.mean, "std": spread.std}
        if line.field.side == "context":
            context[line.field.name] = column
        else:
            files.column(f"fields/{line.field.name}", column)
    if title is not None:
        files.array("titles", encode_titles(title))
    for number, split_name in enumerate(SPLITS):
        ours = np.flatnonzero(split == number)
        order = by_domain_user_time(rows.select(ours))
        chosen = rows.select(ours[order])
        files.array(f"events/{split_name}/user", chosen.user)
        files.array(f"events/{split_name}/item", chosen.item)
        files.array(f"events/{split_name}/domain", chosen.domain)
        if chosen.time is not None:
            files.array(f"events/{split_name}/time", chosen.time)
        for name, column in context.items():
            files.column(f"events/{split_name}/{name}", take(column, ours[order]))
        if split_name in candidates:
            files.array(f"events/{split_name}/candidates", candidates[split_name][order])
    history = build_history(rows, split, users.size)
    files.array("history/offsets", history.offsets)
    files.array("history/train_end", history.train_end)
    files.array("history/item", history.item_row)
    files.array("history/domain", history.domain)
    if history.time is not None:
        files.array("history/time", history.time)
    files.array("statistics/item_count", item_count)
    files.manifest(
        {
            "format": FORMAT,
            "schema": schema.model_dump(mode="json"),
            "schema_hash": schema.hash(),
            "vocabularies": {name: vocabulary.size for name, vocabulary in vocabularies.items()},
            "numbers": numbers,
            "counts": count_log(schema, everything.taken, distinct.taken, events.taken, split, rows.item),
        }
    )


def by_domain_user_time(rows: Taken) -> Int[np.ndarray, " row"]:
    """The order in which a split's events are stored."""
    keys = (rows.item,) if rows.time is None else (rows.item, rows.time)
    return np.lexsort((*keys, rows.user, rows.domain))


def split_events(schema: Schema, events: EventTable, log: Path) -> Int[np.ndarray, " row"]:
    """The split of each positive, DROPPED for repeats that may not be asked for.

    Raises:
        InputError: a split or a domain's training part would be empty.
    """
    taken = events.taken
    match schema.split.by:
        case "time":
            assert taken.time is not None
            try:
                split = split_by_time(taken.time, valid=schema.split.valid, test=schema.split.test)
            except ValueError as error:
                raise InputError(f"{log}: split: {error}; give more events or another split") from error
        case "last_out":
            split = split_last_out(taken, seed=schema.split.seed)
        case "given":
            assert events.given is not None
            split = events.given
            if not (split == 1).any():
                split = carve_validation(taken, split, users=schema.split.valid_users, seed=schema.split.seed)
        case other:
            assert_never(other)
    split = drop_taken_before(taken, split)
    for number, name in enumerate(schema.domain_names):
        if not ((taken.domain == number) & (split == TRAIN)).any():
            raise InputError(
                f"{log}: domains.{name}: no training positive; give the domain events, change the split, or remove it "
                f"(its events in the log: {int((taken.domain == number).sum())})"
            )
    return split
