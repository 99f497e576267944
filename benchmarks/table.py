"""How figures are taken and shown: own CPU time, in turns, as ratios within one run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from isthmus.files import markdown_table


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, and its ratio to what.

    Attributes:
        value: in `unit`; what the machine at hand gave, while the ratio should hold on others.
        target: what the ratio should not exceed; None where it is only stated.
    """

    part: str
    case: str
    value: float
    unit: str
    ratio: float
    to: str
    target: float | None = None


def cpu_seconds(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Own CPU time of each run, `repeats` times, in turns and after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn > 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of the same turn, which a slow minute of the machine leaves alone."""
    return median(a / b for a, b in zip(above, below, strict=True))


def to_markdown(lines: Sequence[Line]) -> str:
    """The table, a row a line."""
    rows = [
        [
            line.part,
            line.case,
            f"{line.value:,.{0 if line.value >= 100 else 2}f} {line.unit}",
            f"{line.ratio:.2f}",
            line.to,
            "" if line.target is None else f"at most {line.target:g}",
        ]
        for line in lines
    ]
    return markdown_table(["part", "case", "measured", "ratio", "to", "target"], rows, num_left=2)
