"""The reproduction on a few users and items in the organisers' form; its settings are those of the real one."""

import json
from pathlib import Path

import numpy as np
import pytest

import isthmus
from isthmus.errors import InputError
from isthmus.experiments import adi_table_3
from isthmus.experiments.adi_table_3_rows import QUICK_ROWS, ROWS, TOWER

NUM_USERS, NUM_ITEMS = 30, 25


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three markets of users who take six of 25 items each, one of them held out."""
    folder = tmp_path_factory.mktemp("native")
    generator = np.random.default_rng(0)
    for market in ("s1", "s2", "s3"):
        (folder / market).mkdir()
        train, held_out = ["userId\titemId\trating"], ["userId\titemId\trating"]
        for user in range(NUM_USERS):
            *items, last = generator.permutation(NUM_ITEMS)[:6].tolist()
            train += [f"{market}U{user}\tP{item}\t1.0" for item in items]
            held_out.append(f"{market}U{user}\tP{last}\t1")
        (folder / market / "train_5core.tsv").write_text("\n".join(train) + "\n")
        (folder / market / "valid_qrel.tsv").write_text("\n".join(held_out) + "\n")
    return folder


@pytest.mark.parametrize("num_seeds", [0, -1])
def test_fewer_than_one_seed_is_an_error(native: Path, tmp_path: Path, num_seeds: int) -> None:
    with pytest.raises(InputError, match="seeds"):
        adi_table_3.reproduce(native, tmp_path / "out", num_seeds=num_seeds)


def test_a_wrong_data_folder_does_not_bar_the_right_one_from_the_same_output(native: Path, tmp_path: Path) -> None:
    wrong, out = tmp_path / "wrong", tmp_path / "out"
    wrong.mkdir()
    (wrong / "notes.txt").write_text("no market here")
    with pytest.raises(InputError, match="no market folder"):
        isthmus.reproduce("adi-table-3", wrong, out, quick=True)
    with pytest.raises(InputError, match="seeds"):  # which is asked once the folder has been accepted
        isthmus.reproduce("adi-table-3", native, out, num_seeds=0)


def test_every_method_of_the_paper_and_every_part_of_adi_has_a_row() -> None:
    published = {row.method for row in ROWS if row.published}
    assert published == {"DNN-Single", "DNN", "Shared-Bottom", "Cross-Stitch", "MMoE", "PLE", "ADI"}
    assert len({row.folder for row in ROWS}) == len(ROWS) == 24
    assert set(QUICK_ROWS) <= {row.method for row in ROWS}
    parts = {row.method.removeprefix("ADI: ") for row in ROWS if row.method.startswith("ADI: ")}
    whole = {"backbone", "DSBN", "SE", "self-training"}
    for left_out in whole - {"backbone"}:
        assert any(set(part.split(" + ")) == whole - {left_out} for part in parts), left_out


def test_a_quick_reproduction_writes_the_table_and_started_again_trains_nothing(native: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "out"
    report = adi_table_3.reproduce(native, out, num_seeds=3, quick=True, num_processes=2, say=said.append)
    content = json.loads((out / "table.json").read_text())
    assert report == out / "table.md"
    assert content["columns"] == ["s1", "s2", "s3", "macro"]
    assert [row["method"] for row in content["rows"]][:3] == list(adi_table_3.REFERENCES)
    assert {row["method"] for row in content["rows"]} == {*adi_table_3.REFERENCES, *QUICK_ROWS}
    values = [row["metrics"]["macro"]["recall@10"]["mean"] for row in content["rows"]]
    assert all(0 <= value <= 1 for value in values)
    tower = next(row for row in content["rows"] if row["method"] == TOWER)
    assert tower["paired_test"] == ""
    assert tower["num_parameters"] == 0
    trained = (out / "rows").stat().st_mtime_ns
    said.clear()
    adi_table_3.reproduce(native, out, num_seeds=3, quick=True, num_processes=2, say=said.append)
    num_jobs = len(adi_table_3.REFERENCES) + len(QUICK_ROWS)
    assert said == [f"{num_jobs} of {num_jobs} runs are finished already"]
    assert (out / "rows").stat().st_mtime_ns == trained
