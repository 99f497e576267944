"""The logs of what was shown and of what came of it, and the path that the latter is posted to."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from fastapi import FastAPI

from isthmus.abtest.logs import FEEDBACK, IMPRESSIONS
from isthmus.errors import InputError
from isthmus.serving.bodies import FeedbackBody
from isthmus.serving.metrics import Metrics
from isthmus.serving.row_log import RowLog

LOG_EVERY_S = 5.0  # what a killed process may lose


def open_logs(folder: Path | None, metrics: Metrics) -> dict[str, RowLog]:
    """The log of each kind; none without a folder.

    Raises:
        InputError: the folder cannot be made, or no file in it.
    """
    if folder is None:
        return {}

    def count(kind: str, number: int) -> None:
        metrics.unlogged.labels(kind).inc(number)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix="."):  # a folder that is there may not be one to write in
            pass
        return {
            kind: RowLog(folder, kind, schema, on_lost=partial(count, kind))
            for kind, schema in (("impressions", IMPRESSIONS), ("feedback", FEEDBACK))
        }
    except OSError as error:
        raise InputError(f"--log-folder {folder}: cannot be written to ({error})") from error


def add_feedback(app: FastAPI, log: RowLog | None, clock: Callable[[], float]) -> None:
    """Add `POST /v1/feedback`."""

    @app.post("/v1/feedback")
    async def feedback(body: FeedbackBody) -> dict[str, int]:
        """Clicks and orders of items that an answer has shown, by its `request`; written within seconds."""
        if log is None:
            raise InputError("feedback is not kept here; start the service with --log-folder DIR")
        now = datetime.fromtimestamp(clock(), UTC)
        log.add([{"time": now, **one.model_dump()} for one in body.feedback])
        return {"taken": len(body.feedback)}
