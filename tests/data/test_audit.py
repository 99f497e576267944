"""Each check is shown a dataset with the very thing it looks for planted in it."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.small_logs import BIDS, ITEMS, declaration, rich_declaration, write_log

from isthmus.data.audit import audit
from isthmus.data.dataset import Dataset, file_checksum
from isthmus.data.prepare import prepare


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = {**rich_declaration(), "candidates": {"sampled": 2, "seed": 0}}
    folder = tmp_path_factory.mktemp("audit")
    return prepare(write_log(folder / "log", content, items=ITEMS, bids=BIDS), folder / "out").path


def edit(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a column and make its checksum fit again."""
    file = path / f"{name}.npy"
    column = change(np.load(file).copy())
    np.save(file, column)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][f"{name}.npy"] = {"sha256": file_checksum(file), "shape": list(column.shape)}
    (path / "manifest.json").write_text(json.dumps(manifest))


def put(row: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        column[row] = value
        return column

    return change


def held_out_pair_in_training(path: Path) -> None:
    # Training's first row, 007 and i1 in a, becomes the validation pair, u3 and i1 in a, in u3's place.
    edit(path, "events/train/user", put(3, 3))
    edit(path, "events/train/item", put(3, 1))


def held_out_pair_in_history(path: Path) -> None:
    # u3's first training entry, i2 in a, becomes the item of its validation positive.
    edit(path, "history/item", put(6, 1))


def asked_for_twice(path: Path) -> None:
    for name in ("user", "item", "domain", "time"):
        column = np.load(path / f"events/valid/{name}.npy")
        edit(path, f"events/test/{name}", put(0, column[0]))


def vocabulary_of_everything(path: Path) -> None:
    file = path / "vocabularies/colour.parquet"
    values = pq.read_table(file)["value"].to_pylist()
    pq.write_table(pa.table({"value": [*values, "white"]}), file)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["vocabularies/colour.parquet"]["sha256"] = file_checksum(file)
    manifest["vocabularies"]["colour"] += 1
    (path / "manifest.json").write_text(json.dumps(manifest))


def other_schema(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["schema"]["name"] = "another"
    (path / "manifest.json").write_text(json.dumps(manifest))


@dataclass(frozen=True)
class Plant:
    name: str
    check: str
    words: str
    plant: Callable[[Path], None]


def column(name: str, row: Any, value: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, name, put(row, value))


PLANTS = (
    Plant("byte changed", "files are intact", "titles.npy", lambda path: np.save(path / "titles.npy", np.zeros(3))),
    Plant("stray file", "files are intact", "stray.npy", lambda path: np.save(path / "stray.npy", np.zeros(3))),
    Plant("schema changed", "files are intact", "schema_hash", other_schema),
    Plant("item out of range", "rows are in range", "events/test/item", column("events/test/item", 0, 99)),
    Plant("negative user", "rows are in range", "events/train/user", column("events/train/user", 0, -1)),
    Plant("broken offsets", "rows are in range", "history/offsets", column("history/offsets", 1, 99)),
    Plant("rows out of order", "events are sorted", "train", column("events/train/time", 0, 9)),
    Plant("held-out pair learnt", "no held-out pair", "user 'u3', item 'i1'", held_out_pair_in_training),
    Plant("asked for twice", "no held-out pair", "1 test pairs are in valid", asked_for_twice),
    Plant("held-out pair in a history", "no history holds", "1 valid pairs", held_out_pair_in_history),
    Plant("history of another user", "histories are", "9 entries", column("history/domain", 0, 1)),
    Plant("history out of order", "histories are", "9 entries", lambda path: edit(path, "history/item", np.flip)),
    Plant("test before validation", "each split ends", "valid ends at 9", column("events/test/time", 0, 9)),
    Plant("training after validation", "each split ends", "train ends at 10", column("events/train/time", 7, 10)),
    Plant("vocabulary of all rows", "vocabularies hold", "no training row has 'white'", vocabulary_of_everything),
    Plant("mean of all rows", "numbers are", "price", column("fields/price", 1, 3.0)),
    Plant(
        "popularity of all rows", "item counts", "9 counted, training has 8", column("statistics/item_count", (0, 1), 3)
    ),
    Plant(
        "list without its positive", "candidate lists", "positive once", column("events/valid/candidates", (0, 0), 0)
    ),
    Plant("list with a learnt item", "candidate lists", "training item", column("events/valid/candidates", (0, 1), 2)),
    Plant("list out of order", "candidate lists", "ascending", column("events/valid/candidates", 0, [3, 1, -1])),
    Plant("list with an item twice", "candidate lists", "twice", column("events/valid/candidates", 0, [1, 3, 3])),
)


def test_a_sound_dataset_passes_every_check(sound: Path) -> None:
    findings = audit(sound)
    assert len(findings) == 12
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_what_is_planted_is_found(sound: Path, tmp_path: Path, plant: Plant) -> None:
    path = tmp_path / "dataset"
    shutil.copytree(sound, path)
    plant.plant(path)
    findings = [finding for finding in audit(path) if finding.check.startswith(plant.check)]
    assert len(findings) == 1
    assert not findings[0].ok
    assert plant.words in findings[0].detail


def test_all_plants_were_tried() -> None:
    assert len({plant.name for plant in PLANTS}) == 21


def test_every_check_has_a_plant(sound: Path) -> None:
    checks = {finding.check for finding in audit(sound)}
    planted = (*(plant.check for plant in PLANTS), "labelled rows")  # those below, in a dataset that has such rows
    assert {check for check in checks if check.startswith(planted)} == checks


def test_a_prepared_simulation_is_sound(tiny_dataset: Dataset) -> None:
    assert [finding for finding in audit(tiny_dataset.path) if not finding.ok] == []


@pytest.mark.parametrize("by", ["given", "random", "cold_users"])
def test_training_that_knows_what_came_after_a_test_row_is_found_in_every_split_with_a_clock(
    tmp_path: Path, by: str
) -> None:
    """Domain b's training rows are all later than domain a's test rows, as where each domain is cut by its own time."""
    lines = ["user,item,domain,time,part"]
    for place in range(60):
        part = "test" if place % 30 >= 25 else "valid" if place % 30 >= 20 else "train"
        lines.append(f"u{place % 6},{'ab'[place // 30]}{place},{'ab'[place // 30]},{place},{part}")
    of_kind: dict[str, dict[str, Any]] = {
        "given": {"column": "part"},
        "random": {},
        "cold_users": {"domain": "a", "source": "b", "min_rows": 1},
    }
    split = {"by": by, **of_kind[by]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(write_log(tmp_path / "log", declaration(split=split), events="\n".join(lines)), tmp_path / "out")
    found = {finding.check: finding for finding in audit(tmp_path / "out")}["each split ends before the next begins"]
    assert not found.ok
    assert "train ends at" in found.detail
    assert "test rows are not after that" in found.detail


def test_a_dataset_of_labelled_rows_is_sound(labelled: Dataset) -> None:
    findings = audit(labelled.path)
    assert [finding.detail for finding in findings if not finding.ok] == []
    assert any(finding.check.startswith("labelled rows") and "train" in finding.detail for finding in findings)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("label", lambda column: column + 1, "neither 0 nor 1"),
        ("label", lambda column: column * 0, "one label only"),
        ("user", lambda column: column + 1000, "user row is out of range"),
        ("domain", lambda column: column[::-1].copy(), "not sorted by domain"),
        ("time", lambda column: column + 10**9, "begins before the one before it is over"),
    ],
)
def test_what_is_wrong_with_labelled_rows_is_found(
    labelled: Dataset, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    path = tmp_path / "dataset"
    shutil.copytree(labelled.path, path)
    file = path / "impressions" / "train" / f"{name}.npy"
    np.save(file, change(np.load(file)))
    finding = next(finding for finding in audit(path) if finding.check.startswith("labelled rows"))
    assert not finding.ok
    assert words in finding.detail
