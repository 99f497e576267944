"""A log of rows in Parquet files, each whole when it is seen; what cannot be written waits."""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.files import new_file

LOG = logging.getLogger("isthmus.serving")
MOST_HELD = 200_000


class RowLog:
    """Rows of one kind, collected in memory and written to a new file at each flush.

    A file has its kind, the time, the process and a random part in its name, so that workers share a folder. Rows since
    the last flush are lost where the process is killed; those that could not be written are kept for the next flush.

    Args:
        on_lost: hears how many rows were dropped because more than `most_held` waited; the oldest go first.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        schema: pa.Schema,
        *,
        on_lost: Callable[[int], None] = lambda _: None,
        most_held: int = MOST_HELD,
    ) -> None:
        self.folder, self.kind, self.schema = folder, kind, schema
        self.on_lost, self.most_held = on_lost, most_held
        self._lock, self._writing = Lock(), Lock()
        self._rows: list[dict[str, Any]] = []
        self._num_left = 0  # rows that could not be written last time
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows in; a column that a row does not name is null."""
        with self._lock:
            self._rows.extend(rows)
            self._drop_oldest()

    def flush_if_many(self) -> None:
        """Write before the time has come where a quarter of what may wait has come since the last attempt."""
        if len(self._rows) - self._num_left >= self.most_held // 4:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in since the last time, if anything."""
        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
            if not rows:
                return
            name = f"{self.kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{uuid4().hex[:8]}.parquet"
            try:
                with new_file(self.folder / name) as temporary:
                    pq.write_table(pa.Table.from_pylist(rows, schema=self.schema), temporary)
                self._num_left = 0
            except OSError as error:
                with self._lock:
                    self._rows = rows + self._rows
                    self._drop_oldest()
                    self._num_left = len(self._rows)
                LOG.warning("rows not logged yet", extra={"fields": {"error": str(error), "kind": self.kind}})

    def _drop_oldest(self) -> None:
        if (too_many := len(self._rows) - self.most_held) > 0:
            del self._rows[:too_many]
            self.on_lost(too_many)
