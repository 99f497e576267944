"""Work in threads with a bounded queue: what does not fit is turned away at once, what takes too long is given up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

Result = TypeVar("Result")


class OverloadedError(Exception):
    """The queue is full."""


class Gate:
    """Runs blocking work beside the event loop.

    Args:
        num_threads: how many pieces run at a time.
        queue: how many more may wait.
        timeout_s: how long a caller waits; work that has begun then runs to its end, unheard.
    """

    def __init__(self, *, num_threads: int, queue: int, timeout_s: float) -> None:
        self.capacity, self.timeout_s = num_threads + queue, timeout_s
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="isthmus")
        self._lock, self._num_held = Lock(), 0

    @property
    def is_full(self) -> bool:
        """Whether the next piece will be turned away."""
        return self._num_held >= self.capacity

    @property
    def num_held(self) -> int:
        """Pieces that run or wait."""
        return self._num_held

    async def run(self, work: Callable[[], Result]) -> Result:
        """What the work gives.

        Raises:
            OverloadedError: too many wait already.
            TimeoutError: it took too long.
        """
        with self._lock:
            if self._num_held >= self.capacity:
                raise OverloadedError
            self._num_held += 1
        try:
            future = self._threads.submit(work)
        except RuntimeError:  # the threads are closing
            self._release()
            raise
        future.add_done_callback(self._release)
        async with asyncio.timeout(self.timeout_s):
            return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _release(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._num_held -= 1
