"""Work in threads with a bounded queue: what does not fit is turned away at once, what takes too long is given up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Result = TypeVar("Result")


class OverloadedError(Exception):
    """The queue is full."""


class AbandonedError(Exception):
    """Nobody waits for this any more: nothing of it is to be kept."""


class Decision:
    """Whether a write is made or given up, decided once: what was answered as failed must not happen afterwards."""

    def __init__(self) -> None:
        self._lock, self._is_made, self._is_given_up = Lock(), False, False

    def make(self) -> None:
        """Called at the last moment at which nothing need be kept; raises AbandonedError where it was given up."""
        with self._lock:
            if self._is_given_up:
                raise AbandonedError
            self._is_made = True

    def give_up(self) -> bool:
        """Whether it was not made by now, and so will not be."""
        with self._lock:
            self._is_given_up = not self._is_made
            return self._is_given_up


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

    async def run(self, work: Callable[[], Result], *, weight: int = 1) -> Result:
        """What the work gives.

        Args:
            weight: how many pieces it counts as. It is let in while there is room for one, so that what weighs more
                than the queue has its turn too, and then keeps out others by all its weight.

        Raises:
            OverloadedError: too many wait already.
            TimeoutError: it took too long.
        """
        future = self._submit(work, weight)
        async with asyncio.timeout(self.timeout_s):
            return await asyncio.wrap_future(future)

    async def write(self, work: Callable[[Callable[[], None]], Result]) -> Result:
        """What the work gives, which calls what it is given just before it keeps anything.

        Once that was called, the outcome is waited for, however long it takes.

        Raises:
            OverloadedError: too many wait already.
            TimeoutError: it took too long, and keeps nothing.
        """
        decision = Decision()
        ended = asyncio.wrap_future(self._submit(lambda: work(decision.make), 1))
        done, _ = await asyncio.wait([ended], timeout=self.timeout_s)
        if not done and decision.give_up():
            ended.cancel()
            raise TimeoutError
        return await ended

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], Result], weight: int) -> Future[Result]:
        with self._lock:
            if self._num_held >= self.capacity:
                raise OverloadedError
            self._num_held += weight
        try:
            future = self._threads.submit(work)
        except RuntimeError:  # the threads are closing
            self._release(weight)
            raise
        future.add_done_callback(lambda _: self._release(weight))
        return future

    def _release(self, weight: int) -> None:
        with self._lock:
            self._num_held -= weight
