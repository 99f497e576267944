"""Peak resident memory of training, against a process that only holds the tables and their optimizer state.

Each figure is that of a process of its own, `python -m benchmarks.memory CASE`. Linux only.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, assert_never

import torch
from benchmarks.market_log import Market, market_log
from benchmarks.sizes import Sizes
from benchmarks.step import Trainer, tower
from benchmarks.table import Line

from isthmus.allocator import keep_freed_memory

ROOT = Path(__file__).parents[1]
MOMENTS = 2
Work = Literal["log", "bare", "train"]


@dataclass(frozen=True)
class Case:
    """Tables of `num_rows` rows (None: as many as there are items) of `dim` numbers, trained for some steps."""

    markets: tuple[Market, ...]
    num_rows: int | None
    dim: int
    steps: int


def measure_memory(sizes: Sizes) -> list[Line]:
    """Two cases: the log's own small tables, and large ones."""
    cases = {
        "the log's own tables": Case(sizes.markets, None, sizes.dim, sizes.steps),
        f"tables of {sizes.memory_table:,} rows": Case(
            sizes.markets, sizes.memory_table, sizes.memory_dim, sizes.steps
        ),
    }
    lines = []
    for name, case in cases.items():
        log, bare, train = (peak_mib(case, work) for work in ("log", "bare", "train"))
        to = f"tables and optimizer state held: {bare:,.0f} MiB"
        lines.append(Line("memory", name, train, "MiB", train / bare, to))
        to = f"the same, both less libraries and log: {log:,.0f} MiB"
        lines.append(Line("memory", f"{name}, above the log", train - log, "MiB", (train - log) / (bare - log), to))
    return lines


def peak_mib(case: Case, work: str) -> float:
    """Peak resident memory of a process that does only this."""
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps({"work": work, **asdict(case)})]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def own_peak_mib() -> float:
    """This program's peak so far (Linux). Not `getrusage`: what a parent held when it started us counts there."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def do(case: Case, work: Work) -> None:
    """One process's work; all three begin by making the log."""
    dataset = market_log(case.markets, num_rows=case.num_rows)
    match work:
        case "log":
            pass
        case "bare":
            shapes = [(dataset.num_items, case.dim)] * 2 + [(dataset.num_domains * dataset.num_items, 1)]
            # ones, not zeros: a page counts only when it has been written
            held = [torch.ones(shape) for shape in shapes for _ in range(1 + MOMENTS)]
            held += [torch.ones(num_rows) for num_rows, _ in shapes]  # how often each row was updated
            del held
        case "train":
            Trainer(dataset, tower(case.dim)).train(case.steps)
        case other:
            assert_never(other)


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    keep_freed_memory()
    markets = tuple(Market(**market) for market in given["markets"])
    do(Case(markets, given["num_rows"], given["dim"], given["steps"]), given["work"])
    print(own_peak_mib())


if __name__ == "__main__":
    main()
