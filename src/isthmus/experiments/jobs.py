"""Runs side by side, each kept when it is finished, so that an interrupted reproduction goes on where it stopped."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from isthmus.allocator import keep_freed_memory


@runtime_checkable
class KeptJob(Protocol):
    """Something to run once; finished when its file is there. `run` writes the file and gives the result in short."""

    @property
    def file(self) -> Path: ...

    def run(self) -> str: ...


def begin_worker(parent: int) -> None:
    """Compute on one core, and end when the process that asked for it is gone: nobody would take the result."""
    torch.set_num_threads(1)
    keep_freed_memory()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_jobs(jobs: Sequence[KeptJob], num_processes: int | None, say: Callable[[str], None]) -> None:
    """Run what is not finished yet, side by side, each on one core.

    Args:
        num_processes: how many at once; None: one for each core that this process may use.
    """
    open_jobs = [job for job in jobs if not job.file.is_file()]
    if len(open_jobs) < len(jobs):
        say(f"{len(jobs) - len(open_jobs)} of {len(jobs)} runs are finished already")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        num_processes or num_cores(), mp_context=context, initializer=begin_worker, initargs=(os.getpid(),)
    ) as pool:
        waiting = {pool.submit(job.run): job for job in open_jobs}
        for number, done in enumerate(as_completed(waiting), start=1):
            say(f"[{number}/{len(open_jobs)}] {waiting[done]}: {done.result()}")


def num_cores() -> int:
    """How many cores this process may use: a container or `taskset` may leave it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
