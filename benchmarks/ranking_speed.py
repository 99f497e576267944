"""Click models on made rows: own CPU time of a row, loader included, beside the bound and beside a peer.

    .venv/bin/python -m benchmarks.ranking_speed [--full] [--peers] [--out FILE]

Each figure comes from a process of its own, so that its peak memory is its own too. A model trains one epoch over a
million rows and is then judged on rows it has not seen.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.bare_step import BareStep, BareSteps
from benchmarks.ctr_rows import NUMBERS, VALUES, CTRRows, make_rows, write_log
from benchmarks.memory import own_peak_mib
from benchmarks.table import cpu_seconds

from isthmus.allocator import keep_freed_memory
from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RankingLoader
from isthmus.evaluation.ranking import score_impressions
from isthmus.files import markdown_table
from isthmus.metrics import auc_by_group
from isthmus.models.cdanet import CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRSettings
from isthmus.training.ranking import Precision, RankingTrainingSettings, Stage, new_optimizers, train_step
from isthmus.training.ranking_stages import new_ranking_model

HIDDEN = (256, 128)
BATCH = 4096
BACKBONES: dict[str, AnyBackboneSettings] = {
    "Shared-Bottom": SharedBottomSettings(hidden_dims=HIDDEN, norm="none"),
    "MMoE": MMoESettings(hidden_dims=HIDDEN, num_experts=3, norm="none"),
    "PLE": PLESettings(hidden_dims=HIDDEN, num_specific=2, num_shared=1, norm="none"),
    "STAR": StarSettings(hidden_dims=HIDDEN),
    "ADI": ADISettings(hidden_dims=HIDDEN, norm="none"),
}
CDANET = "CDAnet+MMoE, first stage"
MODELS = (*BACKBONES, CDANET)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TARGETS: dict[Precision, dict[str, float]] = {
    "float32": {"Shared-Bottom": 9, "MMoE": 18, "PLE": 18, "STAR": 12},
    "bfloat16": {"Shared-Bottom": 5, "MMoE": 8, "PLE": 9, "STAR": 6},
}
"""Microseconds of own CPU a row, of the machine on which the peers were first measured."""
PEERS = ("Shared-Bottom", "MMoE", "PLE")
PEER_PYTHON = Path("benchmarks/peers/.venv/bin/python")
NUM_BARE_TURNS, NUM_BARE_STEPS = 5, 4


@dataclass(frozen=True)
class Size:
    """How much is measured: rows, and whole trainings of each model."""

    num_train: int = 980_000
    num_valid: int = 20_000
    num_test: int = 200_000
    repeats: int = 1


@dataclass(frozen=True)
class Measured:
    """What one training of one model gave; times in microseconds of own CPU a row, memory in MiB.

    Attributes:
        loader: reading the batches alone.
        products, bound: the matrix products of a step alone, by the faster library; with gathers and sparse updates.
        bound_of_torch: the same with the products by the library that PyTorch asks.
        scoring: of test rows, reading included.
        peak, held: of the whole process, and what it held before it opened the data.
    """

    model: str
    precision: Precision
    train: float
    loader: float
    products: float
    bound: float
    bound_of_torch: float
    scoring: float
    auc: float
    peak: float
    held: float


def measure(dataset: Path, name: str, precision: Precision) -> Measured:
    """Train one epoch, then time the bound of its steps and judge it on the test rows."""
    torch.set_num_threads(1)
    keep_freed_memory()
    held = own_peak_mib()
    data = Dataset.open(dataset)
    settings = RankingTrainingSettings(seed=0, epochs=1, batch_size=BATCH, precision=precision)
    names = data.schema.domain_names
    stage = Stage("epoch", 0, tuple(range(len(names))), None, alpha=0.1, beta=0.001)
    if name == CDANET:
        cdanet = new_ranking_model(data, CDAnetSettings(extractor=BACKBONES["MMoE"], latent_dim=64), settings)
        assert isinstance(cdanet, CDAnet)
        model: torch.nn.Module = cdanet.translation
        assert isinstance(model, TranslationNetwork)
    else:
        chosen = CTRSettings(backbone=BACKBONES[name], latent_dim=64, tower_dims=(), indicator_logit=name == "STAR")
        model = new_ranking_model(data, chosen, settings)
    loader = RankingLoader(data, batch_size=BATCH, seed=0)
    optimizers = new_optimizers(model.train(), settings)

    def load() -> None:
        for _ in loader.epoch(0):
            pass

    def train() -> None:
        for batch in loader.epoch(0):
            train_step(model, optimizers, batch, stage, settings)

    reading = seconds_of(load)
    training = seconds_of(train)
    peak = own_peak_mib()
    scored: list[torch.Tensor] = []
    scoring = seconds_of(lambda: scored.append(score_impressions(model, data, "test", None)))
    batches = list(islice(loader.epoch(1), NUM_BARE_STEPS))
    bare = BareSteps(
        BareStep(model, partial(train_step, model, optimizers, batch, stage, settings)) for batch in batches
    )
    parts = {"products": bare.products, "of torch": bare.products_of_torch, "bound": bare.all}
    turns = cpu_seconds(parts, NUM_BARE_TURNS)
    num_bare = sum(batch.label.numel() for batch in batches)
    assert data.impressions is not None
    events = data.impressions["test"]
    assert events.label is not None
    label = torch.from_numpy(np.asarray(events.label) > 0)
    auc = auc_by_group(scored[0], label, torch.zeros(len(label), dtype=torch.int64), 1)
    return Measured(
        name,
        precision,
        1e6 * training / loader.num_rows,
        1e6 * reading / loader.num_rows,
        1e6 * median(turns["products"]) / num_bare,
        1e6 * median(turns["bound"]) / num_bare,
        1e6 * (median(turns["bound"]) - median(turns["products"]) + median(turns["of torch"])) / num_bare,
        1e6 * scoring / events.num_rows,
        float(auc),
        peak,
        held,
    )


def seconds_of(run: Callable[[], object]) -> float:
    """Own CPU time."""
    start = time.process_time()
    run()
    return time.process_time() - start


def in_a_process(command: Sequence[str]) -> dict[str, Any]:
    """What a command prints as its last line, in JSON; the same threads for all who are compared."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_arrays(rows: CTRRows, file: Path) -> None:
    """The same rows as plain arrays, for peers."""
    arrays: dict[str, Any] = {name: rows.columns[name] for name in (*VALUES, *NUMBERS)}
    arrays |= {"domain": rows.domain, "label": rows.label}
    arrays |= {"num_train": rows.num_train, "first_test": rows.part("test").start}
    np.savez(file, **arrays)


HEAD = [
    *("model", "how", "us/row", "target", "bound", "ratio", "ratio by PyTorch's products"),
    *("scoring", "loader", "AUC", "peak", "the peer's CPU", "peak to its"),
]


def to_table(lines: Sequence[Measured], peers: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a model and precision, then the peers'."""
    by_peer = {peer["model"]: peer for peer in peers}
    rows = []
    for line in lines:
        target = TARGETS[line.precision].get(line.model)
        peer = by_peer.get(line.model)
        rows.append(
            [
                line.model,
                line.precision,
                f"{line.train:.1f}",
                "" if target is None else f"{target:g}",
                f"{line.bound:.1f}",
                f"{line.train / line.bound:.2f}",
                f"{line.train / line.bound_of_torch:.2f}",
                f"{line.scoring:.1f}",
                f"{line.loader:.2f}",
                f"{line.auc:.3f}",
                f"{line.peak:,.0f} MiB",
                "" if peer is None else f"{peer['train'] / line.train:.1f}x",
                "" if peer is None else f"{line.peak / peer['peak']:.2f}x",
            ]
        )
    for peer in peers:
        figures = [f"{peer['train']:.1f}", "", "", "", "", "", f"{peer['loader']:.2f}", f"{peer['auc']:.3f}"]
        rows.append([peer["model"], peer["peer"], *figures, f"{peer['peak']:,.0f} MiB", "", ""])
    return markdown_table(HEAD, rows, num_left=2)


def write_results(out: Path, turns: Sequence[Sequence[Measured]], peers: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """All that was measured so far, as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"torch": torch.__version__, "ours": [[asdict(m) for m in turn] for turn in turns], "peers": peers}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ranking_speed", description=__doc__)
    parser.add_argument("--full", action="store_true", help="three trainings of each, of which the median counts")
    parser.add_argument("--peers", action="store_true", help="also the peer (make peers installs it)")
    parser.add_argument("--out", type=Path, default=Path("runs/ranking-speed.json"))
    parser.add_argument("--one", nargs=3, metavar=("DATASET", "MODEL", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(asdict(measure(Path(given.one[0]), given.one[1], given.one[2]))))
        return
    from isthmus.data.prepare import prepare  # SQL engines, 50 MiB of them, that no process that trains holds

    size = Size(repeats=3 if given.full else 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(size.num_train, size.num_valid, size.num_test)
        dataset = prepare(write_log(rows, Path(folder) / "log"), Path(folder) / "dataset").path
        write_arrays(rows, Path(folder) / "rows.npz")
        turns: list[list[Measured]] = []
        peers: list[list[dict[str, Any]]] = []
        for _ in range(size.repeats):
            ours = [sys.executable, "-m", "benchmarks.ranking_speed", "--one", str(dataset)]
            turns.append([Measured(**in_a_process([*ours, m, p])) for p in PRECISIONS for m in MODELS])
            write_results(given.out, turns, peers)
            theirs = [str(PEER_PYTHON), "benchmarks/peers/rechub.py", str(Path(folder) / "rows.npz")]
            peers.append([in_a_process([*theirs, name]) for name in PEERS] if given.peers else [])
            write_results(given.out, turns, peers)
    lines = [sorted(of_one, key=lambda m: m.train)[len(of_one) // 2] for of_one in zip(*turns, strict=True)]
    beside = [sorted(of_one, key=lambda m: m["train"])[len(of_one) // 2] for of_one in zip(*peers, strict=True)]
    print(to_table(lines, beside))


if __name__ == "__main__":
    main()
