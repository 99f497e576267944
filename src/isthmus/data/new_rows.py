"""Rows to score: a file in the log's own columns, without labels, read as a dataset's rows are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from isthmus.data.dataset import Column, Dataset, Events, Lists, read_manifest
from isthmus.data.events import Coded, domain_number, field_column, required_text, to_numpy
from isthmus.data.feature_tables import Lines
from isthmus.data.field_columns import encode
from isthmus.data.row_statistics import NO_ROWS_MEAN, row_statistics
from isthmus.data.statistics import Spread
from isthmus.data.tables import Value, connect, declared_clock, open_source, reading
from isthmus.data.vocabularies import Vocabulary
from isthmus.errors import InputError
from isthmus.schema import FieldSpec


@dataclass(frozen=True)
class NewRows:
    """Rows of a file, sorted by domain.

    Attributes:
        events: what a reader of features takes; an unknown user, item or value is row 0.
        place: where each row stands in the file, from 0.
        texts: the file's user, item and domain columns, in the file's order.
    """

    events: Events
    place: Column
    texts: pa.Table


def read_new_rows(dataset: Dataset, file: Path) -> NewRows:
    """Read a Parquet, CSV or TSV file with the log's columns of user, item, domain, time and row-wise fields.

    Raises:
        InputError: the file or a column is missing, a domain is unknown, or a value is not what its field is; names the
            row and the remedy.
    """
    schema = dataset.schema
    fields = [f for f in schema.fields if f.side in ("context", "row") and f.kind != "statistic"]
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a Parquet, CSV or TSV file of rows to score")
    with connect() as connection:
        source = open_source(connection, (file.name,), file.parent, "rows")
        log = schema.events
        columns: dict[str, Value] = {}
        for name, column in (("user", log.user), ("item", log.item), ("domain_name", log.domain)):
            columns[name] = required_text(source, column, name.removesuffix("_name"))
        columns["domain"] = domain_number(source, log.domain, schema, "domain")
        if (clock := declared_clock(log)) is not None:
            columns["time"] = source.time(clock, "time")
        columns |= {f"field_{number}": field_column(source, field) for number, field in enumerate(fields)}
        with reading(source.files):
            table = source.table.select(**columns).to_pyarrow()
    domain = to_numpy(table["domain"], np.int16)
    place = np.argsort(domain, kind="stable")
    vocabularies = {f.vocabulary_name: None for f in fields if f.kind != "number"} | {"user": None, "item": None}
    known = {name: Vocabulary(pa.array(dataset.vocabulary(name), pa.string())) for name in vocabularies}
    manifest = read_manifest(dataset.path)
    context: dict[str, Column | Lists] = {}
    for number, field in enumerate(fields):
        column = table[f"field_{number}"].take(place)
        context[field.name] = _encoded(field, column, known, manifest["numbers"].get(field.name), file)
    events = Events(
        user_row=known["user"].rows(table["user"].combine_chunks())[place],
        item_row=known["item"].rows(table["item"].combine_chunks())[place],
        domain=domain[place],
        time=table["time"].to_numpy()[place] if log.time is not None else None,
        context=context,
        candidates=None,
        fold=np.full(len(place), -1, np.int8) if log.time is None else None,
    )
    for field in schema.fields:
        if field.kind == "statistic":
            spread = manifest["numbers"][field.name]
            values = statistic_of_new_rows(dataset, events, field)
            context[field.name] = Spread(spread["mean"], spread["std"]).standardise(values)
    return NewRows(events, place, table.select(["user", "item", "domain_name"]))


def statistic_of_new_rows(dataset: Dataset, events: Events, field: FieldSpec) -> Column:
    """What the training rows say of new ones; with a clock, only those before each."""
    assert dataset.impressions is not None
    assert dataset.schema.ranking is not None
    assert field.of is not None
    train = dataset.impressions["train"]
    num_train = train.num_rows

    def both(of_train: Column, of_new: Column) -> Column:
        return np.concatenate([np.asarray(of_train), np.asarray(of_new)])

    outcome = train.label if field.column is None else train.outcomes[field.column]
    assert outcome is not None
    time = None if train.time is None or events.time is None else both(train.time, events.time)

    def keys(of: str) -> Column:
        return both(dataset.keys(train, of), dataset.keys(events, of)).astype(np.int64)

    values: Column = row_statistics(
        keys(field.of),
        both(train.domain, events.domain).astype(np.int64),
        both(outcome, np.zeros(events.num_rows)).astype(np.float64),
        time,
        None if train.fold is None or events.fold is None else both(train.fold, events.fold).astype(np.int64),
        np.arange(num_train + events.num_rows) < num_train,
        scope=field.scope,
        value=field.value,
        num_domains=dataset.num_domains,
        prior=dataset.schema.ranking.prior,
        unknown=NO_ROWS_MEAN if field.column is None else np.nan,
        other=keys(dataset.schema.other_side(field.of)) if field.value == "adjusted_mean" else None,
    )
    return values[num_train:]


def _encoded(
    field: FieldSpec,
    column: pa.ChunkedArray,
    vocabularies: dict[str, Vocabulary],
    spread: dict[str, float] | None,
    file: Path,
) -> Column | Lists:
    if field.kind == "number":
        assert spread is not None
        return Spread(spread["mean"], spread["std"]).standardise(to_numpy(column, np.float64, missing=np.nan))
    coded = column.combine_chunks().dictionary_encode()
    raw = Coded(coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32), coded.dictionary)
    lines = Lines(field, raw, np.arange(len(column)), np.zeros(len(column), bool))
    return encode(lines, vocabularies, file)[0]
