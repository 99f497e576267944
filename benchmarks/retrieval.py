"""Speed and memory, as ratios: each figure stands beside a bound or a smaller case of the same run."""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from benchmarks.domains import measure_domains
from benchmarks.edges import measure_index, measure_prepare
from benchmarks.memory import measure_memory
from benchmarks.segments import measure_segments
from benchmarks.sizes import FULL, QUICK, Sizes
from benchmarks.speed import measure_evaluation, measure_tables, measure_training, measure_updates
from benchmarks.table import Line, to_markdown

from isthmus.allocator import keep_freed_memory

PARTS: dict[str, Callable[[Sizes], list[Line]]] = {
    "training": measure_training,
    "evaluation": measure_evaluation,
    "tables": measure_tables,
    "updates": measure_updates,
    "domains": measure_domains,
    "segments": measure_segments,
    "prepare": measure_prepare,
    "index": measure_index,
    "memory": measure_memory,
}


def measure(parts: Sequence[str], sizes: Sizes) -> list[Line]:
    """The lines of the named parts, on one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    lines = []
    for part in parts:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        lines += PARTS[part](sizes)
    return lines


def write_results(out: Path, sizes: Sizes, lines: Sequence[Line]) -> None:
    """The lines, and what they were measured with, as JSON."""
    content = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sizes": asdict(sizes),
        "lines": [asdict(line) for line in lines],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more repeats, larger tables, more domains (long)")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this part; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="where the lines go as JSON")
    arguments = parser.parse_args()
    sizes = FULL if arguments.full else QUICK
    lines = measure(arguments.part or list(PARTS), sizes)
    print(to_markdown(lines))
    write_results(arguments.out, sizes, lines)


if __name__ == "__main__":
    main()
