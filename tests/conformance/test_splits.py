"""T13: nothing of the held-out part is known to training, over all domains, whichever way a log is split.

Every split and clock is prepared from one simulated log and checked here row by row, in plain loops, from the stored
columns alone, and by `audit`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from isthmus.data.audit import audit
from isthmus.data.dataset import SPLITS, Dataset
from isthmus.data.prepare import prepare

SPLIT_KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "by time": (True, {"by": "time", "valid": 0.15, "test": 0.2}),
    "last out with a clock": (True, {"by": "last_out"}),
    "last out without a clock": (False, {"by": "last_out", "seed": 5}),
    "given with a clock": (True, {"by": "given", "column": "split", "valid_users": 0.5}),
    "given without a clock": (False, {"by": "given", "column": "split", "valid_users": 0.5}),
}


@pytest.fixture(scope="module", params=SPLIT_KINDS)
def dataset(request: pytest.FixtureRequest, tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    has_clock, split = SPLIT_KINDS[request.param]
    folder = tmp_path_factory.mktemp("split")
    events = pq.read_table(tiny_log.parent / "events.parquet")
    late = sorted(events["time"].to_pylist())[int(0.9 * len(events))]
    parts = ["test" if time >= late else "train" for time in events["time"].to_pylist()]
    pq.write_table(events.append_column("split", [parts]), folder / "events.parquet")
    content = yaml.safe_load(tiny_log.read_text())
    content["tables"]["items"]["files"] = [str(tiny_log.parent / "items.parquet")]
    content["split"] = split
    if not has_clock:
        del content["events"]["time"]
    (folder / "log.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return prepare(folder / "log.yaml", folder / "out")


def rows(dataset: Dataset) -> dict[str, list[tuple[int, int, int]]]:
    return {
        split: list(
            zip(*(column.tolist() for column in (events.user_row, events.item_row, events.domain)), strict=True)
        )
        for split, events in ((name, dataset.events[name]) for name in SPLITS)
    }


def test_there_is_something_to_check() -> None:
    assert len(SPLIT_KINDS) == 5


def test_every_split_has_rows_of_every_domain(dataset: Dataset) -> None:
    for split, stored in rows(dataset).items():
        assert {domain for _, _, domain in stored} == {0, 1, 2}, split


def test_a_held_out_pair_was_never_seen(dataset: Dataset) -> None:
    seen: set[tuple[int, int, int]] = set()
    for split, stored in rows(dataset).items():
        known = [row for row in stored if row[0] and row[1]]
        if split != "train":
            assert not seen & set(known)
            assert len(set(known)) == len(known)
        seen |= set(known)


def test_every_split_ends_before_the_next_over_all_domains(dataset: Dataset) -> None:
    if dataset.schema.split.by != "time":
        return
    ends = []
    for split in SPLITS:
        time = dataset.events[split].time
        assert time is not None
        ends.append((min(time.tolist()), max(time.tolist())))
    assert ends[0][1] < ends[1][0] <= ends[1][1] < ends[2][0]


def test_vocabularies_and_counts_know_training_alone(dataset: Dataset) -> None:
    train = rows(dataset)["train"]
    assert {user for user, _, _ in train} == set(range(1, dataset.num_users))
    assert {item for _, item, _ in train} == set(range(1, dataset.num_items))
    counts = [[0] * dataset.num_items for _ in range(dataset.num_domains)]
    for _, item, domain in train:
        counts[domain][item] += 1
    assert dataset.item_count.tolist() == counts


def test_scales_know_training_alone(dataset: Dataset) -> None:
    price = dataset.features["price"]
    assert isinstance(price, np.ndarray)
    values = [float(value) for value in price[1:]]
    mean = sum(values) / len(values)
    assert mean == pytest.approx(0, abs=1e-6)
    assert sum((value - mean) ** 2 for value in values) / len(values) == pytest.approx(1, abs=1e-5)


def test_the_audit_agrees(dataset: Dataset) -> None:
    assert [finding for finding in audit(dataset.path) if not finding.ok] == []
