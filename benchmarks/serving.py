"""What a bundle costs to open and to ask, one request after the other.

    python -m benchmarks.serving BUNDLE [--requests 1000] [--part requests|engines]

Users and domains are drawn among those that the bundle has a history of. The service is asked in this process, then as
`isthmus serve` on a loopback port; the CPU time is that of the serving process. The part `engines` times the networks
alone by PyTorch, by what torch.compile makes of them, and by ONNX Runtime, on the features of the same requests.
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
from statistics import median
from time import perf_counter, process_time, sleep

import numpy as np
import torch

from isthmus.batch import Features, RankingFeatures
from isthmus.data.dataset import Dataset
from isthmus.files import markdown_table
from isthmus.serving.bundle_files import read_manifest
from isthmus.serving.engines import RowScorer, UserEncoder
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import Service, open_service

WARM_UP = 50
START_S = 120
Asked = tuple[str, str]  # user, domain


def main(words: Sequence[str] | None = None) -> int:
    """Print a table; gives the exit code."""
    parser = argparse.ArgumentParser(description="What a bundle costs to open and to ask.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--part", choices=("requests", "engines"), default="requests")
    given = parser.parse_args(words)
    match given.part:
        case "requests":
            print(markdown_table(["what", "value"], measure(given.bundle, given.requests)))
        case "engines":
            heads = ["engine", "user tower, 1 user", "click model, its candidates", "made in"]
            print(markdown_table(heads, measure_engines(given.bundle)))
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


def measure_engines(bundle: Path, turns: int = 7, calls: int = 50) -> list[list[str]]:
    """CPU time of each network by each engine, in the domain of the most items; medians of turns, taken in turn."""
    torch.set_num_threads(1)
    eager, onnx = (open_service(bundle, check=False, engine=engine) for engine in ("eager", "onnx"))
    domain = max(range(len(eager.domains)), key=lambda number: eager.manifest.retrieval.corpora[number].num_items)
    users, rows = kept_features(eager, domain)
    made = perf_counter()
    tower: UserEncoder = torch.compile(eager.retriever.encoder, dynamic=True)
    scorer: RowScorer = torch.compile(scorer_of(eager), dynamic=True)
    with torch.inference_mode():
        for user, row in zip(users, rows, strict=True):
            tower(user, domain), scorer(row, domain)
    made = perf_counter() - made
    engines: dict[str, tuple[UserEncoder, RowScorer, str]] = {
        "eager": (eager.retriever.encoder, scorer_of(eager), ""),
        "torch.compile": (tower, scorer, f"{made:.0f} s at every start"),
        "onnx": (onnx.retriever.encoder, scorer_of(onnx), "the bundle"),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    with torch.inference_mode():
        for _ in range(turns):
            for name, (encoder, rank, _) in engines.items():
                started = process_time()
                for number in range(calls):
                    encoder(users[number % len(users)], domain)
                middle = process_time()
                for number in range(calls):
                    rank(rows[number % len(rows)], domain)
                times[name].append((middle - started, process_time() - middle))
    lines = []
    for name, (_, _, origin) in engines.items():
        of_tower, of_ranker = (1e6 * median(column) / calls for column in zip(*times[name], strict=True))
        lines.append([name, f"{of_tower:.0f} us", f"{of_ranker:.0f} us", origin])
    return lines


def scorer_of(service: Service) -> RowScorer:
    assert service.ranker is not None, "the bundle has no click model"
    return service.ranker.scorer


def kept_features(service: Service, domain: int, count: int = 20) -> tuple[list[Features], list[RankingFeatures]]:
    """What the networks are given for some users of a domain."""
    scorer, users, rows = scorer_of(service), list[Features](), list[RankingFeatures]()
    assert service.ranker is not None

    def keep(features: RankingFeatures, domain: int) -> torch.Tensor:
        rows.append(features)
        return scorer(features, domain)

    service.ranker.scorer = keep
    view = service.view
    for user, name in draw(view.dataset, 100 * count):
        if name == service.domains[domain] and len(users) < count:
            service.recommend(RecommendRequest(name, user=user, k=10))
            row = view.users.row(user)
            users.append(view.user_features(row, domain, view.stored(row), view.context({})))
    service.ranker.scorer = scorer
    return users, rows


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
