"""torch-rechub on the same rows, in an environment of its own (`make peers`); prints one line of JSON.

    benchmarks/peers/.venv/bin/python benchmarks/peers/rechub.py ROWS.npz MODEL

Its models and its loader are used as they come: three tasks for three domains, of which a row's own counts in the loss
and in the score. Adam, the same widths, batch and learning rate as ours.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE, PLE, SharedBottom
from torch_rechub.utils.data import DataGenerator

Column = NDArray[Any]
Rows = Mapping[str, Column]

HIDDEN, TOWER, DIM, BATCH = [256, 128], [64], 16, 4096


def features(rows: Rows, names: Sequence[str]) -> list[Any]:
    found: list[Any] = []
    for name in names:
        if rows[name].dtype.kind == "f":
            found.append(DenseFeature(name))
        else:
            found.append(SparseFeature(name, vocab_size=int(rows[name].max()) + 1, embed_dim=DIM))
    return found


def new_model(name: str, fields: list[Any]) -> torch.nn.Module:
    tasks, towers = ["classification"] * 3, [{"dims": TOWER}] * 3
    if name == "Shared-Bottom":
        made: torch.nn.Module = SharedBottom(fields, tasks, {"dims": HIDDEN}, towers)
    elif name == "MMoE":
        made = MMOE(fields, tasks, 3, {"dims": HIDDEN}, towers)
    else:
        made = PLE(fields, tasks, 1, 2, 1, {"dims": HIDDEN}, towers)
    return made


def auc(label: Column, score: Column) -> float:
    order = np.argsort(score, kind="stable")
    rank = np.empty(len(score))
    rank[order] = np.arange(1, len(score) + 1)
    positives = label.sum()
    return float((rank[label == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM; Linux only")


def main() -> None:
    file, name = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = dict(np.load(file))
    first_test, num_train = int(rows["first_test"]), int(rows["num_train"])
    names = [key for key in rows if key not in ("domain", "label", "num_train", "first_test")]
    columns = {key: rows[key] for key in (*names, "domain")}
    label = rows["label"].astype(np.float32)
    fields = features(rows, names)
    train = {key: values[:num_train] for key, values in columns.items()}
    test = {key: values[first_test:] for key, values in columns.items()}
    generator = DataGenerator(train, label[:num_train])
    loader, _, test_loader = generator.generate_dataloader(
        x_val=test, y_val=label[first_test:], x_test=test, y_test=label[first_test:], batch_size=BATCH
    )
    model = new_model(name, fields)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    start = time.process_time()
    for _ in loader:
        pass
    reading = time.process_time() - start

    model.train()
    start = time.process_time()
    for x, y in loader:
        own = model(x).gather(1, x["domain"].long()[:, None])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy(own, y.float())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    training = time.process_time() - start
    peak = peak_mib()

    model.eval()
    with torch.no_grad():
        scores = [model(x).gather(1, x["domain"].long()[:, None])[:, 0] for x, _ in test_loader]
    found = {
        "peer": "torch-rechub",
        "model": name,
        "train": 1e6 * training / num_train,
        "loader": 1e6 * reading / num_train,
        "auc": auc(label[first_test:], torch.cat(scores).numpy()),
        "peak": peak,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
