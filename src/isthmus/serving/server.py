"""The process that serves: uvicorn with one worker or several, and a log of JSON lines.

What serving takes is imported where a worker begins: the supervisor of several workers serves nothing, and would hold
180 MB for nothing.
"""

import json
import logging
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from socket import AF_INET, AF_INET6, create_server
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess

from isthmus.errors import InputError
from isthmus.serving.serve_settings import ServeSettings

if TYPE_CHECKING:
    from isthmus.serving.edge import Edge


class JSONLines(logging.Formatter):
    """One JSON object a line; `fields` of a record stand in it."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}))


def serve(settings: ServeSettings, *, host: str, port: int, workers: int) -> None:
    """Serve until told to stop (SIGTERM or SIGINT); requests under way are ended first.

    Raises:
        InputError: the bundle or the events cannot be opened, or the address cannot be used.
    """
    if workers == 1:
        try_opening(settings)
    else:  # in a process that ends: what opening leaves in memory would stay with the supervisor, which serves nothing
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(try_opening, settings).result()
    config = uvicorn.Config(
        partial(new_worker, settings),
        factory=True,
        workers=workers,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than proxies keep theirs: a request must not meet a connection being closed
        timeout_graceful_shutdown=max(1, round(2 * settings.timeout_s)),
    )
    log_json()
    try:
        listening = create_server((host, port), family=AF_INET6 if ":" in host else AF_INET, backlog=config.backlog)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error})") from error
    address = f"http://{host}:{listening.getsockname()[1]}"
    logging.getLogger("isthmus.serving").info("listening", extra={"fields": {"address": address, "workers": workers}})
    with listening:
        if workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


def try_opening(settings: ServeSettings) -> None:
    """Tell what is wrong with the bundle before any worker starts; raises InputError."""
    from isthmus.serving.place import bundle_at
    from isthmus.serving.service import open_service

    open_service(bundle_at(settings.place), check=settings.check, engine=settings.engine)


def new_worker(settings: ServeSettings) -> "Edge":
    """The application of one process; requests run side by side rather than the parts of one."""
    import torch

    from isthmus.serving.app import new_app

    log_json()
    torch.set_num_threads(1)
    if (supervisor := parent_process()) is not None:
        Thread(target=stop_after, args=(supervisor,), daemon=True).start()
    return new_app(settings)


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
