"""The benchmarks run, and what they compare with is what they say; their figures are not judged here."""

import json
import os
import shutil
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.compiled import batches
from benchmarks.market_log import Market, market_log
from benchmarks.memory import Case, measure_memory, own_peak_mib, peak_mib
from benchmarks.ranking_cost import Size, measure_growth, measure_ranking_cost
from benchmarks.retrieval import PARTS, measure, write_results
from benchmarks.serving_load import run as run_load
from benchmarks.sizes import Sizes
from benchmarks.step import Bare, BareStep, Trainer, bare_steps, tower
from benchmarks.table import Line, cpu_seconds, median_ratio, to_markdown

from isthmus.backbones.settings import ADISettings

MARKETS = (Market(30, 24, 150), Market(20, 12, 80))
TINY = Sizes(
    markets=MARKETS,
    repeats=1,
    steps=1,
    dim=4,
    tables=(50, 100),
    table_dim=4,
    update_tables=(50, 100),
    update_batch=10,
    backbone_rows=40,
    backbone_dims=(4, 4, 3),
    backbone_domains=(1, 2),
    stitch_domains=(1, 2),
    segment_domains=(1, 3),
    pseudo_domains=(2,),
    prepare_rows=2000,
    index_items=400,
    index_queries=3,
    memory_table=50,
    memory_dim=4,
)
NUM_LINES = {"training": 3 + 2, "evaluation": 1, "tables": 2 * 2, "updates": 2, "domains": 10 * 2 + 1}
NUM_LINES |= {"segments": 4 * 2 * 2, "prepare": 1, "index": 2}


@pytest.mark.parametrize("part", NUM_LINES)
def test_every_part_gives_finite_ratios(part: str) -> None:
    lines = measure([part], TINY)
    assert [line.part for line in lines] == [part] * NUM_LINES[part]
    assert len({line.case for line in lines}) == len(lines)
    assert all(isfinite(line.ratio) and line.ratio > 0 and line.value > 0 for line in lines)


def test_the_parts_are_all_of_them() -> None:
    assert set(PARTS) == {*NUM_LINES, "memory"}


def test_memory_is_taken_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"log": 100.0, "bare": 150.0, "train": 180.0}
    monkeypatch.setattr("benchmarks.memory.peak_mib", lambda case, work: peaks[work])
    # 180 / 150, and (180 - 100) / (150 - 100)
    assert [line.ratio for line in measure_memory(TINY)] == pytest.approx([1.2, 1.6, 1.2, 1.6])


def test_the_log_has_the_declared_shape() -> None:
    dataset = market_log(MARKETS)
    # Half of the second market's 12 items are the first one's 24: 30 items, and row 0.
    assert (dataset.num_users, dataset.num_items) == (51, 31)
    assert [len(dataset.corpus(domain)) for domain in (0, 1)] == [24, 12]
    test = dataset.events["test"]
    assert len(np.unique(test.user_row)) == test.num_rows  # one held-out positive a user
    assert test.candidates is not None
    assert (np.diff(test.candidates, axis=1)[test.domain == 1] > 0).all()
    assert (test.candidates == test.item_row[:, None]).any(axis=1).all()


def test_a_larger_table_holds_the_same_rows_further_apart() -> None:
    dense, spread = market_log(MARKETS), market_log(MARKETS, num_rows=301)
    assert spread.num_items == 301
    # 300 rows for 30 items: every tenth row from 1 on.
    assert (spread.history.item_row == 1 + 10 * (dense.history.item_row - 1)).all()
    with pytest.raises(ValueError, match="30 items do not fit into 30 rows"):
        market_log(MARKETS, num_rows=30)


def test_the_bound_has_the_products_of_the_step() -> None:
    plain, adi = (
        Trainer(market_log(MARKETS), tower(4, backbone)) for backbone in (None, ADISettings(hidden_dims=(5,)))
    )
    batch = next(plain.batches(1))
    first, second = batch.domain_slices.counts
    # Both corpora are smaller than the draw and taken whole; with its bias a vector has 5 numbers.
    assert bare_steps(plain, 1)[0].products == [(first, 5, 24), (second, 5, 12)]
    # A tower of ADI: one shared network for all rows, then by domain the specific one, two gates of 5 units on the
    # 16 numbers of the domain indicator, and the output, which reads 3 x 5.
    expected = []
    for counts in ((first, second), (24, 12)):
        expected += [(sum(counts), 4, 5), *((count, 4, 5) for count in counts), *[(1, 16, 5)] * 4]
        expected += [(count, 15, 4) for count in counts]
    assert bare_steps(adi, 1)[0].products == [*expected, (first, 5, 24), (second, 5, 12)]


def test_the_bound_reads_every_row_and_adds_every_gradient() -> None:
    bare = Bare([BareStep([(2, 3, 4)], [torch.tensor([1, 1, 2])])], num_rows=4, dim=1)
    bare.tables[0].copy_(torch.tensor([[1.0], [2.0], [4.0], [8.0]]))
    bare.all()
    # Row 1 is read twice and gets 2 + 2 added, row 2 once and gets 4.
    assert bare.tables[0][:, 0].tolist() == [1.0, 6.0, 8.0, 8.0]


def test_each_stage_of_cdanet_and_its_scoring_are_timed_beside_the_plain_model() -> None:
    lines = measure_ranking_cost(Size(num_users=60, num_items=40, num_made=500, steps=1, repeats=1))
    assert [(line.part, line.case) for line in lines] == [
        (f"CDAnet+{extractor}{networks}", case)
        for networks in ("", ", 256-128")
        for extractor in ("IndepMLP", "MMoE")
        for case in ("first stage", "second stage", "scoring")
    ]
    assert all(isfinite(line.value) and line.value > 0 and line.ratio > 0 for line in lines)


def test_the_growth_with_domains_is_of_the_first_case_which_is_1() -> None:
    lines = measure_growth(Size(num_users=60, num_items=40, steps=1, repeats=1, domains=(2, 3)))
    assert [line.case for line in lines] == [
        *("D = 2, all others", "D = 2, 1 of the others", "D = 3, all others", "D = 3, 1 of the others")
    ]
    assert lines[0].ratio == 1.0
    assert all(isfinite(line.ratio) and line.ratio > 0 and line.value > 0 for line in lines)


def test_batches_for_the_compiler_have_spans_that_differ() -> None:
    spans = [slices.counts for _, slices in batches(1000, 3)]
    # Shares .65, .08 and .27: 650 and 80, then one row more of the first and one less of the second a batch.
    assert spans == [(650, 80, 270), (651, 79, 270), (652, 78, 270)]


def test_runs_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    seconds = cpu_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_over_turns() -> None:
    # 2 / 1, 8 / 2 and 30 / 3: 2, 4, 10; the medians themselves would give 8 / 2 too, the means 40 / 6.
    assert median_ratio([2, 8, 30], [1, 2, 3]) == 4
    # 6 / 1, 1 / 2, 2 / 4: 6, 0.5, 0.5; here the medians would give 2 / 2.
    assert median_ratio([6, 1, 2], [1, 2, 4]) == 0.5


def test_results_are_written_and_shown(tmp_path: Path) -> None:
    line = Line("tables", "100 rows", 1234.5, "ms", 1.254, "50 rows", 1.3)
    write_results(tmp_path / "new" / "bench.json", TINY, [line])
    content = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert content["lines"][0]["ratio"] == 1.254
    assert content["sizes"]["steps"] == 1
    assert to_markdown([line]).splitlines()[-1] == "| tables | 100 rows | 1,234 ms | 1.25 | 50 rows | at most 1.3 |"


def test_a_peak_is_the_process_own_whatever_its_parent_holds() -> None:
    held = torch.ones(64, 1024, 1024)  # 256 MiB
    peak = peak_mib(Case(MARKETS, None, 4, 1), "train")
    assert 0 < peak < own_peak_mib() - 128
    del held


@pytest.mark.skipif(
    (os.cpu_count() or 1) < 2 or shutil.which("taskset") is None,
    reason="pins the server to one core, itself to another",
)
def test_the_load_test_measures_a_small_bundle(tmp_path: Path) -> None:
    parts = ("recall", "cost", "overload")
    measured = {line[0]: line[1] for line in run_load(tmp_path, parts=parts, num_items=300, rounds=1, seconds=0.3)}
    assert measured["recall@500 of the index, 100 users"] == "1.0000"  # so few are searched exactly
    assert measured["neither 200 nor 503, or lost"] == "0"
    assert float(measured["CPU over search and forward"].split()[0]) > 1
