"""Labelled rows for click models: the log's own, or its positives with negatives drawn beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from isthmus.data.dataset import SPLITS, Column, Lists, Split
from isthmus.data.events import EventTable
from isthmus.data.field_columns import take
from isthmus.data.negatives import sample_row_negatives
from isthmus.data.row_statistics import NO_ROWS_MEAN, row_statistics
from isthmus.data.splits import DROPPED, TRAIN, Taken
from isthmus.data.statistics import measure_spread
from isthmus.data.write import DatasetFiles
from isthmus.schema import Schema


@dataclass(frozen=True)
class LabelledRows:
    """The labelled rows of one split, in the order in which they are stored.

    Attributes:
        rows: vocabulary rows.
        source: the row of the log that each one's context is of: its own, or that of the positive it was drawn for.
        fold: of training rows where there is no clock, else -1.
        statistics: standardised values by field name.
    """

    rows: Taken
    label: Int[np.ndarray, " row"]
    source: Int[np.ndarray, " row"]
    fold: Int[np.ndarray, " row"] | None
    statistics: Mapping[str, Column]


def write_rows(files: DatasetFiles, folder: str, rows: Taken, user_number: Int[np.ndarray, " row"]) -> None:
    """Write who took, or was shown, what; `user_number` also tells those users apart whom training does not know."""
    files.array(f"{folder}/user", rows.user)
    if (rows.user == 0).any():
        files.array(f"{folder}/user_number", user_number)
    files.array(f"{folder}/item", rows.item)
    files.array(f"{folder}/domain", rows.domain)
    if rows.time is not None:
        files.array(f"{folder}/time", rows.time)


def folds(schema: Schema, labelled: EventTable, train: np.ndarray) -> Int[np.ndarray, " row"] | None:
    """The fold of every training (user, item, domain), -1 elsewhere; None where a clock says what a row may know."""
    if schema.ranking is None or labelled.taken.time is not None:
        return None
    pair = labelled.taken.pair()[train]
    distinct, number = np.unique(pair, return_inverse=True)
    drawn = np.random.default_rng([schema.ranking.seed, 1]).integers(schema.ranking.folds, size=len(distinct))
    result = np.full(len(train), -1, np.int8)
    result[train] = drawn[number]
    return result


def build_impressions(
    schema: Schema,
    labelled: EventTable,
    labelled_split: np.ndarray,
    positive_split: np.ndarray,
    rows: Taken,
    row_of_item: np.ndarray,
    fold: np.ndarray | None,
) -> dict[Split, LabelledRows]:
    """The labelled rows of each split.

    Args:
        labelled_split: of every row of the log that counts.
        positive_split: of the positives that retrieval knows, DROPPED elsewhere; negatives are drawn for these.
        rows: vocabulary rows of the log's rows.
    """
    assert schema.ranking is not None
    result: dict[Split, LabelledRows] = {}
    for number, name in enumerate(SPLITS):
        if schema.ranking.negatives == "explicit":
            source = np.flatnonzero(labelled_split == number)
            label, item = labelled.is_positive[source].astype(np.int8), rows.item[source]
        else:
            positives = np.flatnonzero(positive_split == number)
            drawn_for, drawn_item = _drawn(schema, labelled, positive_split, number, positives)
            source = np.concatenate([positives, drawn_for])
            label = np.repeat(np.array([1, 0], np.int8), [len(positives), len(drawn_for)])
            item = np.concatenate([rows.item[positives], row_of_item[drawn_item]])
        chosen = replace(rows.select(source), item=item)
        keys = (1 - label, item) if chosen.time is None else (1 - label, item, chosen.time)
        order = np.lexsort((*keys, chosen.user, chosen.domain))
        own_fold = None
        if fold is not None:
            own_fold = fold[source][order] if number == TRAIN else np.full(len(source), -1, np.int8)
        result[name] = LabelledRows(chosen.select(order), label[order], source[order], own_fold, {})
    return result


def _drawn(
    schema: Schema, labelled: EventTable, split: np.ndarray, number: int, positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For the positives of one split, the rows that negatives were drawn for and the item numbers drawn."""
    assert schema.ranking is not None
    settings = schema.ranking.negatives
    assert settings != "explicit"
    taken = labelled.taken
    known = taken.select((split != DROPPED) & (split <= number))
    sources, items = [], []
    for domain, name in enumerate(schema.domain_names):
        ours = positives[taken.domain[positives] == domain]
        if not len(ours):
            continue
        in_domain = taken.domain == domain
        drawn = sample_row_negatives(
            settings,
            taken.select(ours),
            known,
            taken.select(in_domain & (split == TRAIN)),
            everything=taken.select(in_domain),
            num_items=len(labelled.items),
            rng=np.random.default_rng([settings.seed, number, *name.encode()]),
        )
        row, place = np.nonzero(drawn >= 0)
        sources.append(ours[row])
        items.append(drawn[row, place])
    return np.concatenate(sources), np.concatenate(items)


def add_statistics(
    schema: Schema,
    parts: dict[Split, LabelledRows],
    of_side: Mapping[str, Column | Lists],
    of_event: Mapping[str, Column | Lists],
    outcomes: Mapping[str, np.ndarray],
    *,
    num_users: int,
    num_items: int,
) -> dict[str, dict[str, float]]:
    """Put the declared statistics into the parts, standardised on training rows; gives their means and deviations.

    Args:
        outcomes: the log's numbers that statistics are means of, by column; a row of them a row of the log.
    """
    declared = [field for field in schema.fields if field.kind == "statistic"]
    if not declared:
        return {}
    assert schema.ranking is not None
    every = list(parts.values())

    def column(of: Any) -> np.ndarray:
        return np.concatenate([np.asarray(of(part)) for part in every])

    is_training = np.repeat([name == "train" for name in parts], [len(part.label) for part in every])
    bounds = np.cumsum([0, *(len(part.label) for part in every)])
    numbers: dict[str, dict[str, float]] = {}
    found: dict[str, np.ndarray] = {}
    for field in declared:
        is_label = field.column is None
        assert field.of is not None

        def keys(of: str) -> np.ndarray:
            return column(lambda part: _key(schema, of, part, of_side, of_event, num_users, num_items)).astype(np.int64)

        values = row_statistics(
            keys(field.of),
            column(lambda part: part.rows.domain).astype(np.int64),
            column(lambda part, of=field.column: part.label if of is None else outcomes[of][part.source]).astype(float),
            None if every[0].rows.time is None else column(lambda part: part.rows.time),
            None if every[0].fold is None else column(lambda part: part.fold).astype(np.int64),
            is_training,
            scope=field.scope,
            value=field.value,
            num_domains=len(schema.domains),
            prior=schema.ranking.prior,
            unknown=NO_ROWS_MEAN if is_label else np.nan,
            other=keys(schema.other_side(field.of)) if field.value == "adjusted_mean" else None,
        )
        spread = measure_spread(values, is_training)
        numbers[field.name] = {"mean": spread.mean, "std": spread.std}
        found[field.name] = spread.standardise(values)
    for number, name in enumerate(parts):
        own = {field: values[bounds[number] : bounds[number + 1]] for field, values in found.items()}
        parts[name] = replace(parts[name], statistics=own)
    return numbers


def _key(
    schema: Schema,
    of: str,
    part: LabelledRows,
    of_side: Mapping[str, Column | Lists],
    of_event: Mapping[str, Column | Lists],
    num_users: int,
    num_items: int,
) -> Column:
    """What a statistic is about, for each row: its user, its item, or its value in a field."""
    rows = part.rows
    if of == "user":
        return rows.user
    if of == "item":
        return rows.item
    field = next(f for f in schema.fields if f.name == of)
    if field.side in ("context", "row"):
        stored = of_event[field.name]
        assert isinstance(stored, np.ndarray)
        of_row: Column = stored[part.source]
        return of_row
    stored = of_side[field.name]
    assert isinstance(stored, np.ndarray)
    row, num_rows = (rows.user, num_users) if field.side == "user" else (rows.item, num_items)
    is_by_domain = field.source != "events" and schema.tables[field.source].domain is not None
    value: Column = stored[row.astype(np.int64) + (rows.domain.astype(np.int64) * num_rows if is_by_domain else 0)]
    return value


def write_impressions(
    files: DatasetFiles,
    schema: Schema,
    parts: Mapping[Split, LabelledRows],
    of_event: Mapping[str, Column | Lists],
    outcomes: Mapping[str, np.ndarray],
    user_number: Int[np.ndarray, " row"],
) -> dict[str, Any]:
    """Write the labelled rows; gives their counts by split and domain.

    Args:
        user_number: of every row of the log that counts.
    """
    counts: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        files.array(f"impressions/train/outcomes/{name}", outcome[parts["train"].source])
    for split, part in parts.items():
        folder = f"impressions/{split}"
        write_rows(files, folder, part.rows, user_number[part.source])
        files.array(f"{folder}/label", part.label)
        if part.fold is not None:
            files.array(f"{folder}/fold", part.fold)
        for name, column in of_event.items():
            files.column(f"{folder}/{name}", take(column, part.source))
        for name, values in part.statistics.items():
            files.array(f"{folder}/{name}", values)
        counts[split] = {
            name: {
                "rows": int((part.rows.domain == number).sum()),
                "positives": int(part.label[part.rows.domain == number].sum()),
            }
            for number, name in enumerate(schema.domain_names)
        }
    return counts
