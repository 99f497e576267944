"""torch.compile of a click model's network in training: what compiling costs, and what a row costs then.

    .venv/bin/python -m benchmarks.compiled      # needs a C++ compiler

The backbone alone, forward and backward, on batches of three domains whose numbers of rows differ from step to step, as
training has them: the spans of the domains are constants to the compiler, which turns them into symbols if it can.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from benchmarks.ctr_rows import NUMBERS, SHARES, VALUES
from benchmarks.ranking_speed import BACKBONES, BATCH
from benchmarks.table import Line, cpu_seconds, median_ratio, to_markdown
from torch import nn

from isthmus.backbones.settings import build_backbone
from isthmus.domains import DomainSlices

NAMES = ("Shared-Bottom", "MMoE")
IN_DIM, OUT_DIM = 16 * (len(VALUES) + len(NUMBERS)), 64


def batches(num_rows: int, num_batches: int) -> list[tuple[torch.Tensor, DomainSlices]]:
    """Rows and their spans; a few rows more or less of each domain a batch, as shares are rounded."""
    made = []
    for step in range(num_batches):
        first, second = (round(num_rows * share) + step * way for share, way in zip(SHARES, (1, -1), strict=False))
        slices = DomainSlices.from_counts([first, second, num_rows - first - second])
        made.append((torch.rand(num_rows, IN_DIM, requires_grad=True), slices))
    return made


def train(
    network: Callable[..., torch.Tensor],
    parameters: nn.Module,
    given: list[tuple[torch.Tensor, DomainSlices]],
    gradient: torch.Tensor,
) -> None:
    for x, slices in given:
        parameters.zero_grad(set_to_none=True)
        torch.autograd.backward(network(x, slices), gradient)


def measure_compiled(num_rows: int = BATCH, num_batches: int = 4, repeats: int = 5) -> list[Line]:
    """Each network eager and compiled, after compilation; the seconds of compilation are in the case."""
    lines = []
    gradient = torch.rand(num_rows, OUT_DIM)
    for name in NAMES:
        backbone = build_backbone(BACKBONES[name], num_domains=len(SHARES), in_dim=IN_DIM, out_dim=OUT_DIM)
        given = batches(num_rows, num_batches)
        ways = {"eager": backbone, "compiled": torch.compile(backbone)}
        runs = {how: partial(train, network, backbone, given, gradient) for how, network in ways.items()}
        start = time.perf_counter()
        runs["compiled"]()
        made = time.perf_counter() - start
        seconds = cpu_seconds(runs, repeats)
        lines += [
            Line(
                "compiled",
                f"{name}, {how}" + (f" in {made:.0f} s" if how == "compiled" else ""),
                1e6 * median(seconds[how]) / (num_rows * num_batches),
                "us/row",
                median_ratio(seconds[how], seconds["eager"]),
                "eager",
            )
            for how in runs
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="benchmarks.compiled", description=__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(to_markdown(measure_compiled()))


if __name__ == "__main__":
    main()
