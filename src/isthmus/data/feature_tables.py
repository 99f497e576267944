"""Where the values of a field come from: the log's rows, or a feature table's, for each user, item or event."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from isthmus.data.dataset import Column
from isthmus.data.events import (
    EventTable,
    RawColumn,
    domain_number,
    field_column,
    number_texts,
    raw_column,
    required_text,
    to_numpy,
)
from isthmus.data.splits import Taken
from isthmus.data.tables import Connection, Source, Table, open_source, reading
from isthmus.errors import InputError
from isthmus.schema import FieldSpec, Schema


@dataclass(frozen=True)
class Lines:
    """A field's value for each line of its stored column.

    Attributes:
        raw: values as they were read.
        place: each line's row in `raw`, -1 where it has none.
        is_training: lines that training rows use; vocabularies and statistics see no others.
    """

    field: FieldSpec
    raw: RawColumn
    place: Int[np.ndarray, " line"]
    is_training: Bool[np.ndarray, " line"]


@dataclass(frozen=True)
class Side:
    """Users or items: the vocabulary row of each number of the log's texts, and who occurs where in training.

    Attributes:
        values: the log's texts as a table of `value` and `code`.
        row_of_code: vocabulary row of each code.
        train_row: vocabulary row of each training event.
    """

    values: Table
    row_of_code: Int[np.ndarray, " code"]
    train_row: Int[np.ndarray, " train"]

    @property
    def num_rows(self) -> int:
        return int(self.row_of_code.max()) + 1


def context_lines(schema: Schema, events: EventTable, is_train: Bool[np.ndarray, " row"]) -> list[Lines]:
    """The context fields, a line an event."""
    everywhere = np.arange(len(is_train))
    return [
        Lines(field, events.fields[field], everywhere, is_train & _in_domains(schema, field, events.taken.domain))
        for field in schema.fields
        if field.side in ("context", "row") and field.kind != "statistic"
    ]


def latest_lines(schema: Schema, field: FieldSpec, events: EventTable, side: Side, train: Column) -> Lines:
    """A user or item field that the log holds: of each user or item the value of its latest training row.

    Args:
        train: the training rows of `events`.
    """
    ours = _in_domains(schema, field, events.taken.domain[train])
    rows, row = train[ours], side.train_row[ours]
    order = np.argsort(row, kind="stable") if events.taken.time is None else np.lexsort((events.taken.time[rows], row))
    place = np.full(side.num_rows, -1, np.int64)
    ordered = row[order]
    is_last = np.concatenate([ordered[1:] != ordered[:-1], [True]])[: len(ordered)]
    place[ordered[is_last]] = rows[order[is_last]]
    return Lines(field, events.fields[field], place, place >= 0)


def table_lines(
    connection: Connection,
    schema: Schema,
    name: str,
    fields: Sequence[FieldSpec],
    folder: Path,
    side: Side,
    train: Taken,
) -> list[Lines]:
    """The fields of one feature table, a line a vocabulary row, in a block a domain where the table has domains.

    Args:
        train: users, items and domains of the training events.

    Raises:
        InputError: a column or a value does not fit, or a user or item (and domain) has two rows.
    """
    declared = schema.tables[name]
    key_column, key = (declared.user, "user") if declared.user is not None else (declared.item, "item")
    assert key_column is not None
    source = open_source(connection, declared.files, folder, f"tables.{name}")
    needed = [key_column, declared.domain, *(field.column_name for field in fields)]
    source = source.loaded([column for column in needed if column is not None])
    columns = {"key": required_text(source, key_column, key)}
    if declared.domain is not None:
        required_text(source, declared.domain, "domain")
        columns["domain"] = domain_number(source, declared.domain, schema, "domain")
    columns |= {f"field_{number}": field_column(source, field) for number, field in enumerate(fields)}
    with reading(source.files):
        table = connection.create_table(f"table_{name}", source.table.select(**columns), temp=True)
    _refuse_second_rows(source, table, [column for column in ("key", "domain") if column in columns], key_column)

    joined = table.inner_join(side.values, table.key == side.values.value).drop("key", "value")
    texts = [f"field_{number}" for number, field in enumerate(fields) if field.kind != "number"]
    numbered, values = number_texts(connection, joined, texts)
    rows = numbered.to_pyarrow()
    line = side.row_of_code[to_numpy(rows["code"], np.int64)].astype(np.int64)
    is_known = line > 0
    if not is_known.any():
        example = source.table.select(key=columns["key"]).limit(1).to_pyarrow()["key"][0].as_py()
        warnings.warn(
            f"{source.files[0]}: column {key_column!r} (tables.{name}) has no {key} of training, its first value is "
            f"{example!r}; are its ids written as the log's are?",
            stacklevel=2,
        )
    occurs = np.zeros((len(schema.domains), side.num_rows), bool)
    occurs[train.domain, side.train_row] = True
    num_lines = side.num_rows
    if declared.domain is not None:
        line += to_numpy(rows["domain"], np.int64) * side.num_rows
        num_lines *= len(schema.domains)
    place = np.full(num_lines, -1, np.int64)
    place[line[is_known]] = np.flatnonzero(is_known)
    result = []
    for number, field in enumerate(fields):
        ours = occurs & _in_domains(schema, field, np.arange(len(schema.domains)))[:, None]
        is_training = ours.any(axis=0) if declared.domain is None else ours.reshape(-1)
        raw = raw_column(rows[f"field_{number}"], values.get(f"field_{number}"))
        result.append(Lines(field, raw, place, is_training))
    return result


def all_lines(
    connection: Connection,
    schema: Schema,
    folder: Path,
    events: EventTable,
    is_train: Bool[np.ndarray, " row"],
    sides: Mapping[str, Side],
) -> tuple[list[Lines], Lines | None]:
    """Every field that is stored as a column, in the order of the declaration's sources, and the items' titles."""
    train = np.flatnonzero(is_train)
    lines = context_lines(schema, events, is_train)
    stored = [f for f in schema.fields if f.side in ("user", "item") and f.kind not in ("id", "history")]
    wanted = stored if schema.title is None else [*stored, schema.title]
    lines += [latest_lines(schema, f, events, sides[f.side], train) for f in wanted if f.source == "events"]
    taken = events.taken.select(train)
    for name, declared in schema.tables.items():
        if fields := [field for field in wanted if field.source == name]:
            side = sides["user" if declared.user is not None else "item"]
            lines += table_lines(connection, schema, name, fields, folder, side, taken)
    if schema.title is None:
        return lines, None
    # The title stands last among the lines of its source; a field that is declared alike comes before it.
    place = max(number for number, line in enumerate(lines) if line.field is schema.title)
    return lines[:place] + lines[place + 1 :], lines[place]


def _in_domains(schema: Schema, field: FieldSpec, domain: Column) -> Bool[np.ndarray, " row"]:
    names = schema.domain_names if field.domains is None else field.domains
    return np.isin(domain, [schema.domain_names.index(name) for name in names])


def _refuse_second_rows(source: Source, table: Table, keys: Sequence[str], column: str) -> None:
    counted = table.group_by(list(keys)).aggregate(count=table.count())
    found = counted.filter(counted["count"] > 1).order_by(list(keys)).limit(1).to_pyarrow().to_pylist()
    if found:
        raise InputError(
            f"{source.files[0]}: column {column!r} ({source.key}): {found[0]['key']!r} stands in {found[0]['count']} "
            f"rows, one is wanted{' for each domain' if 'domain' in keys else ''}; remove the others"
        )
