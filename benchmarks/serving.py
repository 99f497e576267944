"""What a bundle costs to open and to ask, one request after the other.

    python -m benchmarks.serving BUNDLE [--requests 1000]

Users and domains are drawn among those that the bundle has a history of. The service is asked in this process, then as
`isthmus serve` on a loopback port; the CPU time is that of the serving process.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from time import perf_counter, sleep

import numpy as np

from isthmus.data.dataset import Dataset
from isthmus.files import markdown_table
from isthmus.serving.bundle_files import read_manifest
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import open_service

WARM_UP = 50
START_S = 120
Asked = tuple[str, str]  # user, domain


def main(words: Sequence[str] | None = None) -> int:
    """Print a table; gives the exit code."""
    parser = argparse.ArgumentParser(description="What a bundle costs to open and to ask.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    given = parser.parse_args(words)
    rows = measure(given.bundle, given.requests)
    print(markdown_table(["what", "value"], rows))
    return 0


def measure(bundle: Path, num_requests: int) -> list[list[str]]:
    """The lines of the table."""
    manifest = read_manifest(bundle)
    size = sum(record.num_bytes for record in manifest.files.values())
    rows = [
        ["items by domain", ", ".join(f"{one.domain} {one.num_items:,}" for one in manifest.retrieval.corpora)],
        ["bundle", f"{size / 1e6:.1f} MB in {len(manifest.files)} files"],
    ]
    for name, check in (("open, every byte checked", True), ("open, unchecked", False)):
        started = perf_counter()
        service = open_service(bundle, check=check)
        rows.append([name, f"{perf_counter() - started:.2f} s"])
    asked = draw(Dataset.open(bundle / manifest.retrieval.data), num_requests + WARM_UP)

    def ask_service(one: Asked) -> None:
        service.recommend(RecommendRequest(one[1], user=one[0], k=10))

    rows.append(["a request in the process", timed(ask_service, asked)])
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "isthmus", "serve", str(bundle), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        connection = connect(port, process)

        def ask_server(one: Asked) -> None:
            body = json.dumps({"domain": one[1], "user": one[0], "k": 10})
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content

        before = cpu_seconds(process.pid)
        rows.append(["a request over HTTP", timed(ask_server, asked)])
        cpu_ms = 1000 * (cpu_seconds(process.pid) - before) / len(asked)
        rows.append(["CPU time of the server, a request", f"{cpu_ms:.1f} ms"])
        connection.close()
    finally:
        process.terminate()
        process.wait()
    return rows


def draw(dataset: Dataset, count: int) -> list[Asked]:
    """Users and domains that the histories have, drawn with a fixed seed."""
    lengths = np.diff(np.asarray(dataset.history.offsets))
    user_row = np.repeat(np.arange(len(lengths)), lengths)
    chosen = np.random.default_rng(0).integers(len(user_row), size=count)
    users, names = ["", *dataset.vocabulary("user")], dataset.schema.domain_names
    return [(users[user_row[place]], names[dataset.history.domain[place]]) for place in chosen.tolist()]


def timed(ask: Callable[[Asked], None], asked: Sequence[Asked]) -> str:
    """Percentiles of each request's time; the first WARM_UP are not counted."""
    milliseconds = []
    for one in asked:
        started = perf_counter()
        ask(one)
        milliseconds.append(1000 * (perf_counter() - started))
    middle, ninety_nine = np.percentile(milliseconds[WARM_UP:], [50, 99])
    return f"p50 {middle:.1f} ms, p99 {ninety_nine:.1f} ms"


def connect(port: int, process: "subprocess.Popen[bytes]") -> HTTPConnection:
    """A connection to the server, once it answers."""
    for _ in range(10 * START_S):
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.connect()
            return connection
        except ConnectionError:
            assert process.poll() is None, "the server did not start"
            sleep(0.1)
    raise AssertionError("the server does not answer")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, of Linux's own account."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
