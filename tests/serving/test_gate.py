"""The bounded queue: what is decided of a late write, and how much a batch counts."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from isthmus.serving.gate import Gate, OverloadedError


def test_a_write_that_is_late_is_not_made_and_one_that_is_being_made_is_waited_for() -> None:
    release, kept = threading.Event(), list[str]()

    def write(decide: Callable[[], None], name: str, *, waits_first: bool) -> str:
        if waits_first:
            release.wait(10)
        decide()
        if not waits_first:
            release.wait(10)
        kept.append(name)
        return name

    async def scenario() -> None:
        gate = Gate(num_threads=2, queue=1, timeout_s=0.1)
        made = asyncio.create_task(gate.write(lambda decide: write(decide, "made", waits_first=False)))
        late = asyncio.create_task(gate.write(lambda decide: write(decide, "late", waits_first=True)))
        waiting = asyncio.create_task(gate.write(lambda decide: write(decide, "waiting", waits_first=True)))
        for task in (late, waiting):
            with pytest.raises(TimeoutError):
                await task
        assert not made.done()
        release.set()
        assert await made == "made"
        gate.close()
        assert gate.num_held == 0

    asyncio.run(scenario())
    assert kept == ["made"]


def test_a_batch_counts_in_the_queue_as_many_as_it_holds() -> None:
    release = threading.Event()

    async def scenario() -> None:
        gate = Gate(num_threads=1, queue=3, timeout_s=10.0)
        batch = asyncio.create_task(gate.run(lambda: release.wait(10), weight=100))  # also where it is more than fits
        await asyncio.sleep(0.05)
        assert gate.num_held == 100
        assert gate.is_full
        with pytest.raises(OverloadedError):
            await gate.run(lambda: None)
        release.set()
        assert await batch
        await gate.run(lambda: None, weight=2)
        gate.close()
        assert gate.num_held == 0

    asyncio.run(scenario())
