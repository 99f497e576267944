"""Results as Parquet: a line a judged row, and what they mean beside them.

PyArrow is loaded when a file is read or written: 30 MiB that a process has no use for as long as it trains.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from isthmus.files import new_file


def write_columns(columns: Mapping[str, Tensor], meaning: Mapping[str, str], file: Path) -> None:
    """Write columns of equal length and what they mean; the file is whole or as it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(column.numpy()) for name, column in columns.items()}, metadata=dict(meaning))
    with new_file(file) as partial:
        pq.write_table(table, partial)


def read_columns(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The columns, all of numbers, and their meaning."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    columns = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table.column_names}
    return columns, _in_text(table.schema.metadata)


def read_meaning(file: Path) -> dict[str, str]:
    """What a file's columns mean, without the columns; raises ValueError or OSError where it is no Parquet."""
    import pyarrow.parquet as pq

    return _in_text(pq.read_schema(file).metadata)


def _in_text(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in (metadata or {}).items()}
