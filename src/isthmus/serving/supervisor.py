"""Several workers: started, replaced when they die, and given up where they cannot start; nothing is served here."""

import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import socket
from time import monotonic, time

from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from isthmus.errors import InputError
from isthmus.serving.place import bundle_at, unfinished

LOG = logging.getLogger("isthmus.serving")
LOOK_EVERY_S = 0.5
MOST_DEATHS = 5  # of workers that never served, one after the other
PAUSE_S = 30.0  # after as many, while others serve


def supervise(
    config: Config, listening: socket, place: Path, on_ready: Callable[[], None], on_gone: Callable[[int | None], None]
) -> None:
    """Keep workers alive until told to stop.

    Args:
        place: what they serve, to say what may have killed them.
        on_ready: called once when the first worker serves.
        on_gone: hears of each worker's process that is no more, however it ended.

    Raises:
        InputError: workers die at their start, time and again, and none serves.
    """
    group = Multiprocess(config, sockets=[listening])
    group.init_processes()
    begun = {process.pid: time() for process in group.processes}
    ready: set[int | None] = set()
    is_told, num_deaths, paused_until, ended = False, 0, 0.0, ""
    while not group.should_exit.wait(LOOK_EVERY_S):
        group.handle_signals()
        serving = [process.pid for process in group.processes if process.pid in ready and process.process.is_alive()]
        if monotonic() < paused_until and serving:
            continue
        before = list(group.processes)
        group.keep_subprocess_alive()
        for process in before:
            if process.exitcode is not None:
                ended = _tell_of_death(process, place, begun.get(process.pid, 0.0))
                num_deaths += process.pid not in ready
        for pid in begun.keys() - {process.pid for process in group.processes}:
            del begun[pid]
            on_gone(pid)
        for process in group.processes:
            begun.setdefault(process.pid, time())
            if process.pid not in ready and process.exitcode is None and process.is_ready(timeout=1):
                ready.add(process.pid)
                num_deaths = 0
        ready &= {process.pid for process in group.processes if process.exitcode is None}
        if ready and not is_told:
            is_told = True
            on_ready()
        if num_deaths >= MOST_DEATHS and not ready:
            break
        if num_deaths >= MOST_DEATHS:
            paused_until = monotonic() + PAUSE_S
    cannot_start = any(process.exitcode == STARTUP_FAILURE for process in group.processes)
    group.terminate_all()
    group.join_all()
    if cannot_start or (num_deaths >= MOST_DEATHS and not ready):
        raise InputError(f"workers cannot start ({ended}); the lines before this one say why")


def _tell_of_death(process: Process, place: Path, begun: float) -> str:
    """Log how a worker ended; gives it in words."""
    code = process.exitcode or 0
    how = f"exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    fields: dict[str, object] = {"worker": process.pid, "ended": how}
    message = "worker died"
    if how == "SIGBUS":
        message = "worker died reading a file of the bundle that was changed in place"
        fields["files"] = _changed_since(place, begun)[:5]
    LOG.error(message, extra={"fields": fields})
    return how


def _changed_since(place: Path, begun: float) -> list[str]:
    """Files of the bundle that are not as long as they were written, or were written to since then."""
    try:
        folder = bundle_at(place)
        changed = unfinished(folder)
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        told = {name.split(":")[0] for name in changed}
        names = [file.relative_to(folder).as_posix() for file in files if file.stat().st_mtime > begun]
        return changed + [f"{name}: written since" for name in names if name not in told]
    except (InputError, OSError):
        return [f"{place}: no longer a bundle"]
