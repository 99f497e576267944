"""A load test of the service: one worker pinned to one core, the requests sent from another.

    python -m benchmarks.serving_load [--part cost --part overload ...] [--items 1000000] [--soak 100000]

The bundle is made where `--folder` has none: a million items of 64 numbers in one domain. Requests are of users drawn
at random; 500 items are retrieved and ranked, 50 answered. The parts:

    cost      CPU time and latency of a request over the bare FAISS search and one bare forward of the click model
    overload  the most requests a second, then twice as many are sent
    swap      another bundle is published under load
    recall    of the index against exact search
    memory    opening, and memory by number of workers
    soak      many requests; memory meanwhile (only with --soak)
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from benchmarks.serving_bare import bare_forward, bare_search, plain_scorer, reading_ahead, user_vector
from benchmarks.serving_bundle import DOMAINS, load_bundle
from benchmarks.serving_sender import (
    SENDER_CORE,
    SERVER_CORE,
    Asker,
    Outcome,
    closed_loop,
    cpu_seconds,
    memory_of,
    open_loop,
    serving,
)

from isthmus.files import markdown_table
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.serving.publishing import publish
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import Service, open_service

PARTS = ("cost", "overload", "swap", "recall", "memory")
K, CANDIDATES = 50, 500
WARM_UP = 50
LIBRARIES = "import isthmus.serving.app, onnxruntime; print(open('/proc/self/smaps_rollup').read())"
Rows = list[list[str]]


@dataclass(frozen=True)
class Load:
    """What is tested: the folder of the bundles, users' ids, and for how long."""

    folder: Path
    num_items: int
    bodies: tuple[bytes, ...]
    users: tuple[str, ...]
    rounds: int
    seconds: float
    options: tuple[str, ...]
    is_flat: bool

    def bundle(self, seed: int = 0) -> Path:
        return load_bundle(
            self.folder, num_items=self.num_items, num_candidates=CANDIDATES, seed=seed, is_flat=self.is_flat
        )


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of what was measured; gives the exit code."""
    parser = argparse.ArgumentParser(description="A load test of the service.")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/serving_load"), help="where the bundles are kept")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--flat", action="store_true", help="vectors whose numbers all have one variance")
    parser.add_argument("--rounds", type=int, default=7, help="of the part 'cost'; the median counts")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="also send N requests and watch the memory")
    parser.add_argument("--engine", choices=("eager", "onnx"), default="onnx")
    given = parser.parse_args(words)
    rows = run(
        given.folder,
        parts=given.part or PARTS,
        num_items=given.items,
        rounds=given.rounds,
        seconds=given.seconds,
        soak=given.soak,
        engine=given.engine,
        is_flat=given.flat,
    )
    print(markdown_table(["what", "measured", "target"], rows))
    return 0


def run(
    folder: Path,
    *,
    parts: Sequence[str],
    num_items: int,
    rounds: int,
    seconds: float,
    soak: int = 0,
    engine: str = "onnx",
    is_flat: bool = False,
) -> Rows:
    """The lines of the table."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(folder, num_items=num_items, num_candidates=CANDIDATES, is_flat=is_flat)
    service = open_service(bundle, check=False, engine="onnx" if engine == "onnx" else "eager")
    texts = service.view.users.texts
    chosen = Random(0).sample(range(len(texts)), min(len(texts), 2000))
    users = tuple(texts[place].as_py() for place in chosen)
    bodies = tuple(json.dumps({"domain": DOMAINS[0], "user": user, "k": K}).encode() for user in users)
    load = Load(folder, num_items, bodies, users, rounds, seconds, ("--engine", engine), is_flat)
    rows: Rows = []
    if "recall" in parts:
        rows += measure_recall(service, load)
    if "cost" in parts:
        rows += measure_cost(service, load)
    del service
    if "memory" in parts:
        rows += measure_memory(load, engine)
    if "overload" in parts:
        rows += measure_overload(load)
    if "swap" in parts:
        rows += measure_swap(load)
    if soak:
        rows += measure_soak(load, soak)
    return rows


def measure_recall(service: Service, load: Load, count: int = 100) -> Rows:
    """The share of the exact 500 best that the index finds."""
    corpus, found = service.retriever.corpora[0], []
    for user in load.users[:count]:
        vector = user_vector(service, user)
        exact = (vector @ corpus.vectors.T)[0].topk(min(CANDIDATES, len(corpus.item_row))).indices
        best = corpus.item_row[exact.numpy()]
        near = corpus.index.search(vector, len(best)).item_row[0].numpy()
        found.append(len(np.intersect1d(best, near)) / len(best))
    rows = [[f"recall@{CANDIDATES} of the index, {count} users", f"{np.mean(found):.4f}", "at least .97"]]
    if isinstance(corpus.index, IVFIndex):
        lists = corpus.index.inverted_file
        rows.append(["lists that a search reads", f"{lists.nprobe:,} of {lists.nlist:,}", ""])
    return rows


def measure_cost(service: Service, load: Load, count: int = 100) -> Rows:
    """A request against the bare search and the bare forward: in each round each takes its turn on the same core."""
    search = bare_search(service, CANDIDATES)
    plain = plain_scorer(service, load.bundle(), load.folder / "plain")
    requests = [RecommendRequest(DOMAINS[0], user=user, k=K) for user in load.users[:20]]
    forward, served = bare_forward(service, requests, plain), bare_forward(service, requests)
    vectors = [user_vector(service, user) for user in load.users[:count]]
    ratios: dict[str, list[float]] = {"cpu": [], "wall": [], "wall of threads": [], "wall as served": []}
    times: dict[str, list[float]] = {"search": [], "forward": [], "served": [], "request": [], "latency": []}
    with serving(load.bundle(), load.options, pinned=True) as (process, port):
        connection = Asker(port)
        for body in load.bodies[:WARM_UP]:
            connection.ask(body)
        connection.close()
        os.sched_setaffinity(0, {SERVER_CORE})
        for _ in range(load.rounds):
            spent = {"search": 0.0, "forward": 0.0, "served": 0.0}
            began = perf_counter()
            for number, vector in enumerate(vectors):  # in turn, as a request does: the caches are then as cold
                started = process_time()
                search(vector)
                middle = process_time()
                forward(number)
                spent["search"] += middle - started
                spent["forward"] += process_time() - middle
            wall, began = {"bare": perf_counter() - began}, perf_counter()
            for number, vector in enumerate(vectors):
                search(vector)
                middle = process_time()
                served(number)
                spent["served"] += process_time() - middle
            wall["served"], cpu = perf_counter() - began, dict(spent)
            with reading_ahead(service):
                began = perf_counter()
                for number, vector in enumerate(vectors):
                    search(vector)
                    forward(number)
                wall["threads"] = perf_counter() - began
            os.sched_setaffinity(0, {SENDER_CORE})
            connection = Asker(port)
            started, began = cpu_seconds(process.pid), perf_counter()
            for body in load.bodies[:count]:
                connection.ask(body)
            cpu["request"], wall["request"] = cpu_seconds(process.pid) - started, perf_counter() - began
            connection.close()
            os.sched_setaffinity(0, {SERVER_CORE})
            for name in ("search", "forward", "served", "request"):
                times[name].append(1000 * cpu[name] / count)
            times["latency"].append(1000 * wall["request"] / count)
            ratios["cpu"].append(cpu["request"] / (cpu["search"] + cpu["forward"]))
            ratios["wall"].append(wall["request"] / wall["bare"])
            ratios["wall of threads"].append(wall["request"] / wall["threads"])
            ratios["wall as served"].append(wall["request"] / wall["served"])
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    of_rounds = {name: median(values) for name, values in times.items()}
    spread = f"{min(ratios['cpu']):.2f} to {max(ratios['cpu']):.2f}"
    return [
        ["bare search, 500 of the domain, CPU", f"{of_rounds['search']:.2f} ms", ""],
        ["bare forward of the click model, 500 rows, CPU", f"{of_rounds['forward']:.2f} ms", ""],
        ["the same, its first layers folded, as it is served", f"{of_rounds['served']:.2f} ms", ""],
        ["request over HTTP, CPU of the server", f"{of_rounds['request']:.2f} ms", ""],
        ["request over HTTP, latency", f"{of_rounds['latency']:.2f} ms", ""],
        ["CPU over search and forward", f"{median(ratios['cpu']):.2f} ({spread})", "at most 1.35"],
        ["latency over search and forward", f"{median(ratios['wall']):.2f}", "at most 1.35"],
        ["latency over search and the folded forward", f"{median(ratios['wall as served']):.2f}", ""],
        ["the same, the search as FAISS opens the file", f"{median(ratios['wall of threads']):.2f}", ""],
    ]


def measure_memory(load: Load, engine: str) -> Rows:
    """How long opening takes, and what processes hold once they have answered."""
    rows: Rows = []
    for name, check in (("every byte checked", True), ("unchecked", False)):
        code = (
            "import sys,time; from pathlib import Path; from isthmus.serving.service import open_service; "
            f"a=time.perf_counter(); open_service(Path(sys.argv[1]), check={check}, engine={engine!r}); "
            "print(time.perf_counter()-a)"
        )
        seconds = [
            float(subprocess.check_output([sys.executable, "-c", code, str(load.bundle())], text=True))
            for _ in range(3)
        ]
        rows.append([f"open the bundle, {name}", f"{median(seconds):.2f} s", "seconds"])
    size = sum(file.stat().st_size for file in load.bundle().rglob("*") if file.is_file())
    rows.append(["bundle on disk", f"{size / 1e6:.0f} MB", ""])
    held = {}
    for workers in (1, 2):
        with serving(load.bundle(), [*load.options, "--workers", str(workers), "--no-check"]) as (process, port):
            asyncio.run(closed_loop(port, load.bodies, connections=8, count=max(400, 4 * WARM_UP)))
            held[workers] = memory_of(process.pid)
    libraries = subprocess.check_output([sys.executable, "-c", LIBRARIES], text=True)
    empty = int(libraries.split("Pss:")[1].split()[0])
    rows.append(["libraries alone, PSS", f"{empty / 1e3:.0f} MB", ""])
    for workers, (pss, private) in held.items():
        rows.append([f"{workers} worker(s), PSS of all processes", f"{pss:.0f} MB (private {private:.0f} MB)", ""])
    rows.append(["the second worker adds, PSS", f"{held[2][0] - held[1][0]:.0f} MB", "no second copy of the bundle"])
    return rows


def measure_overload(load: Load) -> Rows:
    """The most that is answered in a closed loop; then twice that is sent, whatever comes back."""
    with serving(load.bundle(), load.options, pinned=True) as (_, port):
        asyncio.run(closed_loop(port, load.bodies, connections=4, count=2 * WARM_UP))
        peaks, goods, tails, shed, odd = [], [], [], [], 0
        for _ in range(3):
            peak = asyncio.run(closed_loop(port, load.bodies, connections=8, seconds=load.seconds))
            peaks.append(peak.goodput)
            over = asyncio.run(open_loop(port, load.bodies, rate=2 * peak.goodput, seconds=load.seconds))
            goods.append(over.goodput / peak.goodput)
            tails.append(over.percentile(99))
            shed.append(over.statuses[503] / max(1, sum(over.statuses.values())))
            odd += over.lost + sum(count for status, count in over.statuses.items() if status not in (200, 503))
    return [
        ["most requests a second", f"{median(peaks):.0f}", ""],
        ["goodput at twice that, of the most", f"{median(goods):.2f}", "at least .90"],
        [
            "p99 of what is accepted then",
            f"{median(tails):.0f} ms",
            f"33 requests: {33e3 / median(peaks):.0f} ms",
        ],
        ["turned away with 503", f"{median(shed):.2f}", ""],
        ["neither 200 nor 503, or lost", f"{odd}", "0"],
    ]


def measure_swap(load: Load) -> Rows:
    """Publishes bundles in turn while eight connections ask."""
    bundles = [load.bundle(0), load.bundle(1)]
    place = load.folder / "place"
    publish(bundles[0], place)
    with serving(place, load.options, pinned=True) as (_, port):
        asyncio.run(closed_loop(port, load.bodies, connections=4, count=2 * WARM_UP))

        async def both() -> Outcome:
            async def change() -> None:
                for turn in (1, 0, 1):
                    await asyncio.sleep(load.seconds / 4)
                    await asyncio.to_thread(publish, bundles[turn], place)

            loop = asyncio.create_task(closed_loop(port, load.bodies, connections=8, seconds=3 * load.seconds))
            await change()
            return await loop

        outcome = asyncio.run(both())
    failed = outcome.lost + sum(count for status, count in outcome.statuses.items() if status != 200)
    return [
        ["requests while three bundles were taken", f"{sum(outcome.statuses.values())}", ""],
        ["of them lost or failed", f"{failed}", "0"],
        ["bundles that answered", f"{len(outcome.bundles)}", "2"],
        ["p50, p99 meanwhile", f"{outcome.percentile(50):.0f} ms, {outcome.percentile(99):.0f} ms", ""],
    ]


def measure_soak(load: Load, count: int) -> Rows:
    """Many requests in a closed loop; private memory after each twentieth."""
    samples = []
    with serving(load.bundle(), load.options, pinned=True) as (process, port):
        failed = 0
        for _ in range(20):
            outcome = asyncio.run(closed_loop(port, load.bodies, connections=8, count=count // 20))
            failed += outcome.lost + sum(outcome.statuses.values()) - outcome.statuses[200]
            samples.append(memory_of(process.pid)[1])
    return [
        [f"private memory after {count // 20:,}, {count // 2:,}, {count:,} requests",
         f"{samples[0]:.0f}, {samples[9]:.0f}, {samples[-1]:.0f} MB", "flat"],
        ["of them failed", f"{failed}", "0"],
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
