"""A server as its users start it: `isthmus serve` in a process of its own, asked over loopback."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from time import sleep
from typing import Any

import httpx2
import pytest
import redis

START_S = 90
REDIS_START_S = 20


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(place: Path, log: Path, *options: str, token: str = "") -> Iterator[tuple[httpx2.Client, Any]]:
    """A client of a started server, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "isthmus", "serve", str(place), "--port", str(port), *options]
    environment = {**os.environ, "ISTHMUS_TOKEN": token, "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            for _ in range(10 * START_S):
                try:
                    client.get("/readyz")
                    break
                except httpx2.TransportError:
                    assert process.poll() is None, log.read_text()
                    sleep(0.1)
            yield client, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def redis_server(
    folder: Path, *options: str, port: int | None = None
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address of a Redis server of our own that keeps what it acknowledges in a folder, and its process."""
    # Debian's redis-tools has the server under another name: what it is called by decides what it is
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if program is None:
        pytest.skip("no Redis server is installed here")
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", *options]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(command, executable=program, stdout=log, stderr=log)
    try:
        with redis.Redis(port=port) as client:
            for _ in range(10 * REDIS_START_S):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert process.poll() is None, (folder / "redis.log").read_text()
                    sleep(0.1)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
