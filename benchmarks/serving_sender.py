"""A started server, and what sends it requests from another core."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket
from time import perf_counter, sleep

import numpy as np
from benchmarks.serving import connect

SERVER_CORE, SENDER_CORE = 0, 1
HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "


@dataclass
class Outcome:
    """Answers by status, latencies of those that are 200, and the bundles that answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    bundles: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    elapsed: float = 0.0

    @property
    def goodput(self) -> float:
        return self.statuses[200] / self.elapsed

    def percentile(self, share: float) -> float:
        return 1000 * float(np.percentile(self.seconds, share))


@contextmanager
def serving(
    place: Path, options: Sequence[str], *, pinned: bool = False
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A server that answers, and its port; `pinned` gives it one core and this process another."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "isthmus", "serve", str(place), "--port", str(port), *options]
    if pinned:
        command = ["taskset", "-c", str(SERVER_CORE), *command]
        os.sched_setaffinity(0, {SENDER_CORE})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        connection = connect(port, process)
        for _ in range(600):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            sleep(0.1)
        connection.close()
        yield process, port
    finally:
        process.terminate()
        process.wait()
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


class Asker:
    """One connection, one request after the other, at the least cost to the sender: a request is one packet."""

    def __init__(self, port: int) -> None:
        self.socket = create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def ask(self, body: bytes) -> bytes:
        """Send a body; gives the content of the answer, which must be 200."""
        self.socket.sendall(HEAD + str(len(body)).encode() + b"\r\n\r\n" + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, content = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(content) < length:
            content += self._receive()
        assert head[9:12] == b"200", answer
        return content

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> bytes:
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError("the server has closed the connection")
        return part


class Sender:
    """One connection that is kept open; sends a body and reads the answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes, outcome: Outcome) -> None:
        started = perf_counter()
        try:
            if self.reader is None or self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(HEAD + str(len(body)).encode() + b"\r\n\r\n" + body)
            answer = await self.reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            content = await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            outcome.lost += 1
            self.reader = self.writer = None
            return
        status = int(answer[9:12])
        outcome.statuses[status] += 1
        if status == 200:
            outcome.seconds.append(perf_counter() - started)
            outcome.bundles[content.split(b'"bundle":')[1].split(b'"')[1].decode()] += 1

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


async def closed_loop(
    port: int, bodies: Sequence[bytes], *, connections: int, seconds: float = 1e9, count: int = sys.maxsize
) -> Outcome:
    """Each connection asks again as soon as it has its answer."""
    outcome, started, sent = Outcome(), perf_counter(), 0

    async def ask() -> None:
        nonlocal sent
        sender = Sender(port)
        while sent < count and perf_counter() - started < seconds:
            sent += 1
            await sender.ask(bodies[sent % len(bodies)], outcome)
        sender.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    outcome.elapsed = perf_counter() - started
    return outcome


async def open_loop(port: int, bodies: Sequence[bytes], *, rate: float, seconds: float) -> Outcome:
    """Sends at a rate whatever comes back, each on a connection that is free, or a new one."""
    outcome, free, tasks, number = Outcome(), [], set(), 0
    started = perf_counter()

    async def ask(sender: Sender, body: bytes) -> None:
        await sender.ask(body, outcome)
        free.append(sender)

    while (now := perf_counter() - started) < seconds:
        while number < now * rate:
            sender = free.pop() if free else Sender(port)
            task = asyncio.create_task(ask(sender, bodies[number % len(bodies)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(0.001)
    outcome.elapsed = perf_counter() - started
    answered = outcome.statuses[200]
    await asyncio.gather(*tasks)
    outcome.elapsed *= outcome.statuses[200] / max(1, answered)  # what came late does not count for more a second
    for sender in free:
        sender.close()
    return outcome


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, in nanoseconds' resolution."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_of(pid: int) -> tuple[float, float]:
    """PSS and private memory of a process and its children, in MB."""
    pss = private = 0
    for one in [pid, *children(pid)]:
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Pss":
                pss += int(value.split()[0])
            elif name in ("Private_Dirty", "Private_Clean"):
                private += int(value.split()[0])
    return pss / 1e3, private / 1e3


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found
