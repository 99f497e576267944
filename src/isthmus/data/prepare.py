"""From logs and their declaration to a dataset folder."""

import warnings
from pathlib import Path
from typing import Any, assert_never

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
from isthmus.data.impressions import add_statistics, build_impressions, folds, write_impressions, write_rows
from isthmus.data.read_schema import read_schema
from isthmus.data.splits import (
    DROPPED,
    TRAIN,
    VALID,
    Taken,
    carve_validation,
    drop_repeats,
    drop_taken_before,
    split_at_random,
    split_by_time,
    split_cold_users,
    split_last_out,
)
from isthmus.data.statistics import count_items
from isthmus.data.tables import Connection, connect
from isthmus.data.vocabularies import Vocabulary, number_of_code, row_of_code
from isthmus.data.write import DatasetFiles, files_by_manifest, new_folder
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
    with new_folder(out, written=dataset_files) as folder, connect() as connection:
        _write(connection, schema, log, folder)
    return Dataset.open(out)


def dataset_files(folder: Path) -> frozenset[str]:
    """The files of a dataset, of any format; none where the folder is no dataset."""
    return files_by_manifest(
        folder, lambda manifest: "kind" not in manifest and {"schema", "schema_hash", "vocabularies"} <= set(manifest)
    )


def _write(connection: Connection, schema: Schema, log: Path, folder: Path) -> None:
    everything = read_events(connection, schema, log.parent)
    labelled = everything.select(drop_repeats(everything.taken, everything.given, everything.is_positive))
    labelled_split = split_rows(schema, labelled, log)
    split = positive_split(schema, labelled, labelled_split, log)
    positive = np.flatnonzero(split != DROPPED)  # of the labelled rows, retrieval's events

    train = labelled_split == TRAIN
    row_of_user = row_of_code(labelled.taken.user[train], len(labelled.users))
    row_of_item = row_of_code(labelled.taken.item[train], len(labelled.items))
    rows = Taken(
        row_of_user[labelled.taken.user], row_of_item[labelled.taken.item], labelled.taken.domain, labelled.taken.time
    )
    user_number = number_of_code(row_of_user)[labelled.taken.user]
    num_items, num_domains = int(row_of_item.max()) + 1, len(schema.domains)
    taken = split == TRAIN
    item_count = count_items(rows.item[taken], rows.domain[taken], num_items=num_items, num_domains=num_domains)
    events, event_rows = labelled.select(positive), rows.select(positive)
    candidates = build_candidates(
        connection, schema, log.parent, events, split[positive], event_rows.item, row_of_item, item_count
    )

    users = Vocabulary(labelled.users.filter(pa.array(row_of_user > 0)))
    items = Vocabulary(labelled.items.filter(pa.array(row_of_item > 0)))
    sides = {
        "user": Side(labelled.user_values, row_of_user, rows.user[train]),
        "item": Side(labelled.item_values, row_of_item, rows.item[train]),
    }
    lines, title = all_lines(connection, schema, log.parent, labelled, train, sides)
    vocabularies = build_vocabularies(lines, {"user": users, "item": items})

    files = DatasetFiles(folder)
    for name, vocabulary in vocabularies.items():
        files.vocabulary(name, vocabulary.values)
    of_event: dict[str, Column | Lists] = {}
    of_side: dict[str, Column | Lists] = {}
    numbers: dict[str, dict[str, float]] = {}
    for line in lines:
        column, spread = encode(line, vocabularies, log)
        if spread is not None:
            numbers[line.field.name] = {"mean": spread.mean, "std": spread.std}
        if line.field.side in ("context", "row"):
            of_event[line.field.name] = column
        else:
            of_side[line.field.name] = column
            files.column(f"fields/{line.field.name}", column)
    if title is not None:
        files.array("titles", encode_titles(title))
    context = {field.name for field in schema.fields if field.side == "context"}
    for number, split_name in enumerate(SPLITS):
        ours = np.flatnonzero(split == number)
        order = by_domain_user_time(rows.select(ours))
        chosen = rows.select(ours[order])
        write_rows(files, f"events/{split_name}", chosen, user_number[ours[order]])
        for name in sorted(context):
            files.column(f"events/{split_name}/{name}", take(of_event[name], ours[order]))
        if split_name in candidates:
            files.array(f"events/{split_name}/candidates", candidates[split_name][order])
    fold = folds(schema, labelled, train)
    history = build_history(event_rows, split[positive], users.size, None if fold is None else fold[positive])
    files.array("history/offsets", history.offsets)
    files.array("history/train_end", history.train_end)
    files.array("history/item", history.item_row)
    files.array("history/domain", history.domain)
    if history.time is not None:
        files.array("history/time", history.time)
    if history.fold is not None:
        files.array("history/fold", history.fold)
    files.array("statistics/item_count", item_count)
    impressions: dict[str, Any] = {}
    if schema.ranking is not None:
        parts = build_impressions(schema, labelled, labelled_split, split, rows, row_of_item, fold)
        numbers |= add_statistics(
            schema, parts, of_side, of_event, labelled.outcomes, num_users=users.size, num_items=num_items
        )
        impressions = write_impressions(files, schema, parts, of_event, labelled.outcomes, user_number)
    is_positive = everything.is_positive
    files.manifest(
        {
            "format": FORMAT,
            "schema": schema.model_dump(mode="json"),
            "schema_hash": schema.hash(),
            "vocabularies": {name: vocabulary.size for name, vocabulary in vocabularies.items()},
            "numbers": numbers,
            "counts": count_log(
                schema,
                everything.taken.select(is_positive),
                labelled.taken.select(labelled.is_positive),
                events.taken,
                split[positive],
                event_rows.item,
            ),
            "impressions": impressions,
        }
    )


def by_domain_user_time(rows: Taken) -> Int[np.ndarray, " row"]:
    """The order in which a split's events are stored."""
    keys = (rows.item,) if rows.time is None else (rows.item, rows.time)
    return np.lexsort((*keys, rows.user, rows.domain))


def split_rows(schema: Schema, events: EventTable, log: Path) -> Int[np.ndarray, " row"]:
    """The split of each row of the log.

    Raises:
        InputError: a split would be empty, or one that asks for positives is declared over rows of both labels.
    """
    taken = events.taken
    has_negatives = not bool(events.is_positive.all())
    if taken.time is not None and schema.split.by in ("random", "cold_users"):
        how = "at random" if schema.split.by == "random" else "by users"
        warnings.warn(
            f"{log}: split: {how} on a log with a clock, training knows what came after held-out rows; by 'time' it "
            "does not",
            stacklevel=4,
        )
    try:
        match schema.split.by:
            case "time":
                assert taken.time is not None
                return split_by_time(taken.time, valid=schema.split.valid, test=schema.split.test)
            case "random":
                valid, test, seed = schema.split.valid, schema.split.test, schema.split.seed
                return split_at_random(taken, schema.domain_names, valid=valid, test=test, seed=seed)
            case "cold_users":
                return split_cold_users(
                    taken,
                    domain=schema.domain_number(schema.split.domain),
                    source=schema.domain_number(schema.split.source),
                    min_rows=schema.split.min_rows,
                    valid=schema.split.valid,
                    test=schema.split.test,
                    seed=schema.split.seed,
                )
            case "last_out":
                if has_negatives:
                    raise ValueError("'last_out' holds out positives alone; with explicit negatives take another split")
                return split_last_out(taken, seed=schema.split.seed)
            case "given":
                assert events.given is not None
                split = events.given
                if (split == VALID).any():
                    return split
                if has_negatives:
                    raise ValueError("no row says 'valid'; with explicit negatives the log must say which rows are")
                return carve_validation(taken, split, users=schema.split.valid_users, seed=schema.split.seed)
            case other:
                assert_never(other)
    except ValueError as error:
        raise InputError(f"{log}: split: {error}; give more events or another split") from error


def positive_split(
    schema: Schema, labelled: EventTable, split: Int[np.ndarray, " row"], log: Path
) -> Int[np.ndarray, " row"]:
    """The split of each positive; DROPPED for negatives, and for repeats that may not be asked for.

    Raises:
        InputError: a domain has no training positive, or no training negative although they should be in the log.
    """
    is_positive = labelled.is_positive
    result = np.full(len(split), DROPPED, np.int8)
    result[is_positive] = drop_taken_before(labelled.taken.select(is_positive), split[is_positive])
    for number, name in enumerate(schema.domain_names):
        ours = labelled.taken.domain == number
        if not (ours & (result == TRAIN)).any():
            raise InputError(
                f"{log}: domains.{name}: no training positive; give the domain events, change the split, or remove it "
                f"(its events in the log: {int((ours & is_positive).sum())})"
            )
        in_log = schema.ranking is not None and schema.ranking.negatives == "explicit"
        if in_log and not (ours & ~is_positive & (split == TRAIN)).any():
            raise InputError(
                f"{log}: domains.{name}: no training row is a negative, so its clicks cannot be told from anything; "
                "give the log rows that are not positive by events.positive, draw negatives with ranking.negatives, or "
                "remove the domain"
            )
    return result
