"""The benchmark of click models: its rows are what it says, its bound is what a step multiplies, its pieces run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import ranking_domains
from benchmarks.bare_step import BareStep, BareSteps
from benchmarks.ctr_rows import NUMBERS, RATES, SHARES, VALUES, make_rows, write_log
from benchmarks.ranking_plot import bars, plot
from benchmarks.ranking_speed import BACKBONES, CDANET, HEAD, Measured, measure, to_table, write_arrays
from torch import nn

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.metrics import auc_by_group


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("rows")
    return prepare(write_log(make_rows(5000, 500, 800), folder / "log"), folder / "dataset")


def test_the_rows_have_the_shares_rates_and_difficulty_that_are_planted() -> None:
    rows = make_rows(60_000, 0, 60_000)
    for domain, (share, rate) in enumerate(zip(SHARES, RATES, strict=True)):
        own = rows.domain == domain
        assert own.mean() == pytest.approx(share, abs=0.01)
        assert rows.label[own].mean() == pytest.approx(rate, abs=0.01)
    assert all(rows.columns[name].max() < values for name, values in VALUES.items())
    label, odds = torch.from_numpy(rows.label > 0), torch.from_numpy(rows.log_odds)
    most = float(auc_by_group(odds, label, torch.zeros(rows.num_rows, dtype=torch.int64), 1))
    assert most == pytest.approx(0.78, abs=0.03)
    again = make_rows(60_000, 0, 60_000)
    assert np.array_equal(again.label, rows.label)


def test_every_row_arrives_in_its_part(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.impressions is not None
    assert [dataset.impressions[part].num_rows for part in ("train", "valid", "test")] == [5000, 500, 800]
    rows = make_rows(50, 5, 8)
    write_arrays(rows, tmp_path / "rows.npz")
    stored = np.load(tmp_path / "rows.npz")
    assert set(stored) == {*VALUES, *NUMBERS, "domain", "label", "num_train", "first_test"}
    assert int(stored["first_test"]) == 55


def test_the_bound_holds_a_steps_products_and_lookups() -> None:
    table, linear = nn.Embedding(7, 3, sparse=True), nn.Linear(3, 2)
    model = nn.ModuleList([table, linear])
    rows = torch.tensor([1, 1, 4])

    def step() -> None:
        torch.autograd.backward(linear(table(rows)).sum())

    bare = BareStep(model, step)
    # x W^T forward; backward g W for x and g^T x for W.
    assert sorted((tuple(a.shape), tuple(b.shape)) for a, b in bare.factors) == [
        ((2, 3), (3, 3)),
        ((3, 2), (2, 3)),
        ((3, 3), (3, 2)),
    ]
    assert [each.tolist() for each in bare.rows] == [[1, 1, 4]]
    assert [each.tolist() for each in bare.distinct] == [[1, 4]]
    with torch.profiler.profile() as ran:
        BareSteps([bare, bare]).all()
    counts = {event.key: event.count for event in ran.key_averages()}
    assert counts["aten::mm"] == 2 * 3
    # A step: one gather and one scatter of the rows looked up, then three of each for the table and its two moments.
    assert counts["aten::index_select"] == 2 * (1 + 3)
    assert (counts["aten::index_add_"], counts["aten::index_copy_"]) == (2 * 1, 2 * 3)


@pytest.mark.parametrize("name", ["STAR", CDANET])
def test_a_model_is_measured_and_shown(name: str, dataset: Dataset, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    found = measure(dataset.path, name, "bfloat16")
    torch.set_num_threads(threads)
    figures = {key: value for key, value in vars(found).items() if isinstance(value, float)}
    assert all(value > 0 for value in figures.values())
    assert found.peak >= found.held
    table = to_table([found], []).splitlines()
    assert [cell.strip() for cell in table[0].strip("| ").split("|")] == HEAD


def test_the_picture_shows_medians_and_peers(tmp_path: Path) -> None:
    one = Measured("MMoE", "float32", 10.0, 1, 4, 5, 8, 3, 0.7, 100, 50)
    turns = [[vars(one) | {"train": value}] for value in (9.0, 30.0, 10.0)]
    peers = [[{"model": "MMoE", "peer": "torch-rechub", "train": 50.0}]] * 3
    results = {"ours": turns, "peers": peers}
    assert bars(results) == {"MMoE": {"float32": (10.0, 5), "torch-rechub": (50.0, None)}}
    plot(json.loads(json.dumps(results)), tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_more_domains_have_the_shares_and_rates_of_the_three_again() -> None:
    rows = make_rows(60_000, 0, 60_000, num_domains=6)
    assert rows.domain_names == tuple(f"domain-{n}" for n in range(6))
    for domain in range(6):
        own = rows.domain == domain
        assert own.mean() == pytest.approx(SHARES[domain % 3] / 2, abs=0.01)
        assert rows.label[own].mean() == pytest.approx(RATES[domain % 3], abs=0.015)


def test_steps_and_scores_are_timed_by_number_of_domains() -> None:
    size = ranking_domains.Size(num_train=500, num_test=60, batch_size=100, steps=1, repeats=1, domains=(1, 4))
    lines = ranking_domains.measure_ranking_domains(size)
    cases = [f"{work}, D = {number}" for work in ("a step", "scoring") for number in (1, 4)]
    assert [(line.part, line.case) for line in lines] == [(name, case) for name in BACKBONES for case in cases]
    assert all(line.value > 0 and (line.ratio == 1 or not line.case.endswith("D = 1")) for line in lines)
