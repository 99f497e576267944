"""The logs that an analysis of an experiment reads: what was shown, and what came of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.errors import InputError, joined_names

TIME = pa.timestamp("us", tz="UTC")
IMPRESSIONS = pa.schema(
    [
        pa.field("time", TIME),
        pa.field("request", pa.string()),
        pa.field("user", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("experiment", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("bundle", pa.string()),
        pa.field("item", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("score", pa.float64()),
        pa.field("ordered_by", pa.string()),
        pa.field("retrieval_score", pa.float64()),
        pa.field("price", pa.float64()),
    ]
)
FEEDBACK = pa.schema(
    [
        pa.field("time", TIME),
        pa.field("request", pa.string()),
        pa.field("item", pa.string()),
        pa.field("kind", pa.string()),
    ]
)
KINDS = ("click", "order")
KEY = ["request", "item"]


def read_impressions(folder: Path) -> pa.Table:
    """Every impression in the order of time, with `click` and `order`: whether such feedback named it.

    Feedback that came twice counts once; feedback of what was never shown is left out.

    Raises:
        InputError: the folder has no impressions, or a file is not one of these logs.
    """
    impressions = _read(folder, "impressions", IMPRESSIONS)
    if impressions is None:
        raise InputError(f"{folder}: no impressions-*.parquet; serve with --log-folder, then give that folder")
    feedback = _read(folder, "feedback", FEEDBACK)
    feedback = FEEDBACK.empty_table() if feedback is None else feedback
    for kind in KINDS:
        named = feedback.filter(pc.equal(feedback["kind"], kind)).group_by(KEY).aggregate([])  # each once
        joined = impressions.join(named.append_column(kind, pa.repeat(pa.scalar(True), len(named))), KEY)
        impressions = joined.set_column(len(joined.schema) - 1, kind, joined[kind].fill_null(False))
    return impressions.sort_by([("time", "ascending"), ("request", "ascending"), ("position", "ascending")])


def _read(folder: Path, name: str, schema: pa.Schema) -> pa.Table | None:
    tables = []
    for file in sorted(folder.glob(f"{name}-*.parquet")):
        try:
            table = pq.read_table(file, partitioning=None)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
        if table.schema.names != schema.names:
            raise InputError(
                f"{file}: has columns {joined_names(table.schema.names)}; expected {', '.join(schema.names)}"
            )
        tables.append(table.cast(schema))
    return pa.concat_tables(tables) if tables else None
