"""The process that serves: uvicorn with one worker or several, and a log of JSON lines.

What serving takes is imported where a worker begins: the supervisor of several workers serves nothing, and would hold
180 MB for nothing.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn

from isthmus.errors import InputError
from isthmus.serving.connections import Connection
from isthmus.serving.listening import address, listen
from isthmus.serving.serve_settings import ServeSettings
from isthmus.serving.supervisor import supervise

if TYPE_CHECKING:
    from isthmus.serving.edge import Edge

LOG = logging.getLogger("isthmus.serving")
METRICS = "PROMETHEUS_MULTIPROC_DIR"


class JSONLines(logging.Formatter):
    """One JSON object a line; `fields` of a record stand in it."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}))


def serve(
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    workers: int,
    on_listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until told to stop (SIGTERM or SIGINT); requests under way are ended first.

    Args:
        on_listening: hears the address once requests to it are answered.

    Raises:
        InputError: the bundle, the events or the logs cannot be opened, or the address cannot be used.
    """
    config = uvicorn.Config(
        partial(new_worker, settings),
        factory=True,
        workers=workers,
        http=partial(Connection, settings.connections, settings.timeout_s),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than proxies keep theirs: a request must not meet a connection being closed
        timeout_graceful_shutdown=max(1, round(2 * settings.timeout_s)),
    )
    if workers == 1:
        config.load()
    else:  # in a process that ends: what opening leaves in memory would stay with the supervisor, which serves nothing
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                process.submit(try_opening, settings).result()
            except BrokenProcessPool as error:
                raise InputError(f"{settings.place}: the process that opened it was killed ({error})") from error
    log_json()
    listening = listen(host, port, backlog=config.backlog)

    def tell() -> None:
        found = address(host, listening.getsockname()[1])
        LOG.info("listening", extra={"fields": {"address": found, "workers": workers}})
        on_listening(found)

    with listening:
        if workers > 1:
            supervise(config, listening, settings.place, tell, partial(forget_state, settings.shared_metrics))
        else:
            tell()
            uvicorn.Server(config).run(sockets=[listening])


def forget_state(shared_metrics: Path | None, worker: int | None) -> None:
    """Count no longer what a worker that is no more was at: the requests that it held, the drift that it saw."""
    if shared_metrics is not None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker, str(shared_metrics))  # type: ignore[no-untyped-call]


def try_opening(settings: ServeSettings) -> None:
    """Open all that a worker opens, to tell what is wrong before any starts; raises InputError."""
    os.environ.pop(METRICS, None)  # what is counted here is nobody's
    from isthmus.serving.app import new_app

    log_json()
    new_app(replace(settings, shared_metrics=None))


def new_worker(settings: ServeSettings) -> "Edge":
    """The application of one process; requests run side by side rather than the parts of one."""
    import torch

    from isthmus.serving.app import new_app

    log_json()
    torch.set_num_threads(1)
    faulthandler.enable(file=2)  # says where a process was that dies of a file that was cut short under it
    if (supervisor := parent_process()) is None:
        return new_app(settings)
    Thread(target=stop_after, args=(supervisor,), daemon=True).start()
    try:
        return new_app(settings)
    except InputError as error:
        LOG.error("worker cannot start", extra={"fields": {"error": str(error)}})
        sys.exit(2)  # and not uvicorn's code for it, by which one worker would end those that serve


def stop_after(supervisor: BaseProcess) -> None:
    """Stop in order once the supervisor is gone, killed perhaps: nobody else would, and the port would stay taken."""
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)


def log_json() -> None:
    """Let everything be logged as JSON lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
