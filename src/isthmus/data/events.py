"""The log's positives as columns of numbers: what is text is numbered in the order of its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from isthmus.data.dataset import SPLITS
from isthmus.data.splits import Taken
from isthmus.data.tables import Connection, Source, Table, Value, declared_clock, open_source, reading
from isthmus.errors import InputError, did_you_mean
from isthmus.schema import EventLog, FieldSpec, Schema

MOST_NAMED = 5


@dataclass(frozen=True)
class Coded:
    """A text column: the number of each row's text in `values`, -1 where there is none."""

    codes: np.ndarray
    values: pa.Array


RawColumn = Coded | np.ndarray  # an array: 64-bit floating-point numbers, NaN where missing


@dataclass(frozen=True)
class EventTable:
    """All positives, or all labelled rows, in the order of (domain, user, time, item); repeats are still there.

    Attributes:
        taken: numbers of users and items in `users` and `items`, and of domains in the declaration.
        is_positive: of each row; all are where negatives are not in the log.
        given: each row's declared split, where the log says it.
        fields: the fields whose source is the log, the title among them.
        outcomes: by column, the numbers that statistics are means of.
        users, items: texts, ascending.
        user_values, item_values: the same as tables of `value` and `code`, for joins.
    """

    taken: Taken
    is_positive: np.ndarray
    given: np.ndarray | None
    fields: Mapping[FieldSpec, RawColumn]
    outcomes: Mapping[str, np.ndarray]
    users: pa.Array
    items: pa.Array
    user_values: Table
    item_values: Table

    def select(self, rows: np.ndarray) -> "EventTable":
        """The same with some of the rows; texts keep their numbers."""
        return replace(
            self,
            taken=self.taken.select(rows),
            is_positive=self.is_positive[rows],
            given=None if self.given is None else self.given[rows],
            fields={field: select_rows(column, rows) for field, column in self.fields.items()},
            outcomes={name: column[rows] for name, column in self.outcomes.items()},
        )


def select_rows(column: RawColumn, rows: np.ndarray) -> RawColumn:
    """Some rows of a column."""
    return Coded(column.codes[rows], column.values) if isinstance(column, Coded) else column[rows]


def read_events(connection: Connection, schema: Schema, folder: Path) -> EventTable:
    """Read the log that `schema` declares; file names are relative to `folder`.

    Raises:
        InputError: a file, a column or a value is not what the declaration says; names it and the remedy.
    """
    log = schema.events
    fields = [f for f in schema.fields if f.source == "events" and f.kind not in ("id", "history", "statistic")]
    if schema.title is not None and schema.title.source == "events":
        fields.append(schema.title)
    source = open_source(connection, log.files, folder, "events")
    clock = declared_clock(log)
    given_column = schema.split.column if schema.split.by == "given" else None
    positive_column = log.positive.column if log.positive else None
    needed = [log.user, log.item, log.domain, given_column, positive_column, *(f.column_name for f in fields)]
    needed += [*schema.outcome_columns, None if clock is None else clock.column]
    source = source.loaded([column for column in needed if column is not None])

    columns: dict[str, Value] = {}
    for name, column in (("user", log.user), ("item", log.item), ("domain", log.domain)):
        columns[name] = required_text(source, column, name)
    if clock is not None:
        columns["time"] = source.time(clock, "time")
    if given_column is not None:
        columns["split"] = _split_number(source, given_column)
    if log.positive is not None:
        columns["is_positive"] = _is_positive(source, log)
    for number, field in enumerate(fields):
        columns[f"field_{number}"] = field_column(source, field)
    for number, column in enumerate(schema.outcome_columns):
        columns[f"outcome_{number}"] = _outcome(source, column)
    columns["domain"] = domain_number(source, log.domain, schema, "domain")

    with reading(source.files):
        table = connection.create_table("events", source.table.select(**columns), temp=True)
    has_negatives = schema.ranking is not None and schema.ranking.negatives == "explicit"
    if log.positive is not None:
        positives = table.filter(table.is_positive)
        table = table if has_negatives else positives.drop("is_positive")
        if positives.limit(1).count().to_pyarrow().as_py() == 0:
            raise InputError(
                f"{source.files[0]}: no row is a positive by events.positive (column {log.positive.column!r}); "
                "correct the rule, or leave it out if every row is a positive"
            )
    texts = ["user", "item", *(f"field_{number}" for number, field in enumerate(fields) if field.kind != "number")]
    numbered, values = number_texts(connection, table, texts)
    first = [name for name in ("domain", "user", "time", "item") if name in numbered.columns]
    # Ordered by everything, so that of repeated rows the same one stays however the engine delivers them.
    rows = numbered.order_by(first + [name for name in numbered.columns if name not in first]).to_pyarrow()

    taken = Taken(
        to_numpy(rows["user"], np.int32),
        to_numpy(rows["item"], np.int32),
        to_numpy(rows["domain"], np.int16),
        _time(rows["time"]) if clock is not None else None,
    )
    return EventTable(
        taken=taken,
        is_positive=to_numpy(rows["is_positive"], np.bool_) if has_negatives else np.ones(len(rows), bool),
        given=to_numpy(rows["split"], np.int8) if given_column is not None else None,
        fields={
            field: raw_column(rows[f"field_{number}"], values.get(f"field_{number}"))
            for number, field in enumerate(fields)
        },
        outcomes={
            column: to_numpy(rows[f"outcome_{number}"], np.float64)
            for number, column in enumerate(schema.outcome_columns)
        },
        users=value_texts(values["user"]),
        items=value_texts(values["item"]),
        user_values=values["user"],
        item_values=values["item"],
    )


def required_text(source: Source, column: str, key: str) -> Value:
    """A text column without empty values."""
    value = source.text(column, key)
    source.refuse(
        lambda table: table[column].cast("string").nullif("").isnull(),
        column,
        key,
        "is empty; give the row its value or leave the row out",
    )
    return value


def domain_number(source: Source, column: str, schema: Schema, key: str) -> Value:
    """A column of domain names as the numbers of their declaration, unknown ones as the declared fallback's."""
    names = schema.domain_names
    if schema.unknown_domain == "error":
        value = source.text(column, key)
        unknown_rows = source.table.select(domain=value).filter(lambda t: ~t.domain.isin(names))
        with reading(source.files):
            found = unknown_rows.distinct().order_by("domain").limit(MOST_NAMED).to_pyarrow()["domain"].to_pylist()
        if found:
            hint = did_you_mean(found[0], names)
            source.refuse(
                lambda table: table[column].cast("string").isin(found),
                column,
                key,
                f"is not a declared domain{hint} (declared: {', '.join(names)}; unknown in the file: "
                f"{', '.join(found)}); declare it under 'domains', or name a fallback in 'unknown_domain'",
            )
    return source.text(column, key).cases(
        *((name, number) for number, name in enumerate(names)),
        else_=None if schema.unknown_domain == "error" else names.index(schema.unknown_domain),
    )


def field_column(source: Source, field: FieldSpec) -> Value:
    """A field's column: text, several values joined to one text, or a number."""
    key = f"fields.{field.name}.column"
    match field.kind:
        case "number":
            return source.number(field.column_name, key)
        case "multi_valued" | "sequence":
            return source.joined(field.column_name, key, field.separator)
        case _:
            return source.text(field.column_name, key)


def _outcome(source: Source, column: str) -> Value:
    """A column of numbers without empty values."""
    key = "fields.*.column of a statistic"
    value = source.number(column, key, remedy="give the row its value or leave the row out")
    source.refuse(
        lambda table: table[column].cast("string").nullif("").isnull(),
        column,
        key,
        "is empty; give the row its value or leave the row out",
    )
    return value


def number_texts(connection: Connection, table: Table, columns: Sequence[str]) -> tuple[Table, dict[str, Table]]:
    """Replace text columns by the numbers of their texts in ascending order; also each column's `value` and `code`."""
    values: dict[str, Table] = {}
    for column in columns:
        distinct = table.select(value=table[column]).filter(lambda t: t.value.notnull()).distinct()
        coded = distinct.mutate(code=ibis.row_number().over(order_by="value").cast("int32"))
        values[column] = connection.create_table(ibis.util.gen_name("values"), coded, temp=True)
        right = values[column].select(isthmus_value="value", isthmus_code="code")
        joined = table.left_join(right, table[column] == right.isthmus_value)
        table = joined.drop(column, "isthmus_value").rename({column: "isthmus_code"})
    return table, values


def value_texts(values: Table) -> pa.Array:
    """The texts of a table of `value` and `code`, in the order of their codes."""
    return values.order_by("code").to_pyarrow()["value"].combine_chunks()


def raw_column(rows: pa.ChunkedArray, values: Table | None) -> RawColumn:
    """A pulled column of numbers, or of codes with their texts."""
    if values is None:
        return to_numpy(rows, np.float64, missing=np.nan)
    return Coded(to_numpy(rows, np.int32, missing=-1), value_texts(values))


def to_numpy(rows: pa.ChunkedArray, dtype: type[np.generic], missing: int | float | None = None) -> np.ndarray:
    """A pulled column as an array of one type, `missing` where it has no value."""
    if missing is not None:
        rows = rows.fill_null(missing)
    assert rows.null_count == 0
    values: np.ndarray = rows.to_numpy().astype(dtype)
    return values


def _time(rows: pa.ChunkedArray) -> np.ndarray:
    time: np.ndarray = rows.to_numpy()
    is_whole = time.dtype.kind in "iu" or bool((time == np.floor(time)).all())
    return time.astype(np.int64 if is_whole else np.float64)


def _split_number(source: Source, column: str) -> Value:
    value = source.text(column, "split.column")
    source.refuse(
        lambda table: ~table[column].cast("string").fill_null("").isin(SPLITS),
        column,
        "split.column",
        f"is not a split; allowed are {', '.join(SPLITS)}",
    )
    return value.cases(*((name, number) for number, name in enumerate(SPLITS)))


def _is_positive(source: Source, log: EventLog) -> Value:
    assert log.positive is not None
    column, key = log.positive.column, "positive.column"
    source.require(column, key)
    source.refuse(
        lambda table: table[column].cast("string").nullif("").isnull(),
        column,
        key,
        "is empty, so whether the row is a positive is unknown; fill it in or leave the row out",
    )
    if log.positive.values is not None:
        return source.text(column, key).isin(log.positive.values)
    if log.positive.at_least is None:
        label = source.number(
            column,
            key,
            remedy="0 and 1 are wanted, or say with 'at_least' or 'values' (values: ['yes']) which rows are positives",
        )
        source.refuse(
            lambda table: ~table[column].cast("float64").isin([0.0, 1.0]),
            column,
            key,
            "is no label; 0 and 1 are wanted, or say with 'at_least' or 'values' which rows are positives",
        )
        return label == 1
    return source.number(column, key, remedy="'at_least' compares numbers; correct it") >= log.positive.at_least
