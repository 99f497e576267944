"""Summaries of an evaluation: means of users, domains and slices, and the file that a result is kept in."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from isthmus.errors import InputError
from isthmus.evaluation.retrieval import RetrievalResult
from isthmus.evaluation.summary import Group, SavedResult, Summary, load_result, normal_interval, save_result, summarise
from isthmus.metrics import bootstrap_interval


def result(
    *, domain: list[int], user: list[int], known: list[int], item_count: list[int], recall: list[float]
) -> SavedResult:
    rows = RetrievalResult(
        domain=torch.tensor(domain, dtype=torch.int64),
        user_row=torch.tensor(user, dtype=torch.int64),
        item_row=torch.arange(10, 10 + len(domain)),
        known=torch.tensor(known, dtype=torch.int64),
        item_count=torch.tensor(item_count, dtype=torch.int64),
        metrics={"recall@10": torch.tensor(recall, dtype=torch.float64)},
    )
    return SavedResult(rows, ("s1", "s2"), "test")


SMALL = result(domain=[0, 0, 0, 1], user=[1, 1, 2, 3], known=[4, 4, 5, 9], item_count=[0, 6, 5, 1], recall=[1, 0, 1, 0])


def groups(summary: Summary, start: str) -> dict[str, Group]:
    part = next(part for part in summary.slices if part.name.startswith(start))
    return {group.name: group for group in part.groups}


def estimates(summary: Summary, start: str) -> dict[str, float]:
    return {name: g.metrics["recall@10"].estimate for name, g in groups(summary, start).items() if g.metrics}


def test_each_user_counts_once_and_each_domain_once_or_by_its_rows() -> None:
    summary = summarise(SMALL, num_resamples=50)
    # s1: user 1 has (1 + 0) / 2, user 2 has 1: 0.75 (rows alone would give 2/3). s2: 0. Macro: 0.375.
    # s1 has 3 of the 4 rows: 3/4 * 0.75 + 1/4 * 0.
    expected = {"s1": 0.75, "s2": 0.0, "macro": 0.375, "traffic-weighted": 0.5625}
    assert estimates(summary, "all") == pytest.approx(expected)


def test_rows_users_and_never_seen_items_are_counted() -> None:
    counted = groups(summarise(SMALL, num_resamples=50), "all")
    assert {name: (g.num_rows, g.num_users, g.never_seen) for name, g in counted.items()} == {
        "s1": (3, 2, 1),
        "s2": (1, 1, 0),
        "macro": (4, 3, 1),
        "traffic-weighted": (4, 3, 1),
    }


def test_slices_hold_cold_users_warm_users_and_cold_items() -> None:
    summary = summarise(SMALL, num_resamples=50)
    # Cold: user 1's two rows (4 known positives). Warm: user 2 (5) and user 3 (9).
    assert estimates(summary, "cold users") == pytest.approx({"s1": 0.5, "macro": 0.5, "traffic-weighted": 0.5})
    assert estimates(summary, "warm users") == pytest.approx(
        {"s1": 1.0, "s2": 0.0, "macro": 0.5, "traffic-weighted": 0.5}
    )
    # Cold items of s1: counts 0 and 5, the rows where recall is 1; 6 is warm.
    assert estimates(summary, "cold items")["s1"] == 1.0
    assert groups(summary, "cold items")["s1"].num_rows == 2
    assert [part.name for part in summarise(SMALL, num_resamples=50, with_slices=False).slices] == ["all"]


def test_users_whom_training_does_not_know_are_not_taken_for_one() -> None:
    saved = result(domain=[0, 0, 0], user=[0, 0, 1], known=[0] * 3, item_count=[1] * 3, recall=[1, 0, 0])
    group = groups(summarise(saved, num_resamples=50), "all")["s1"]
    assert group.num_users == 3
    assert group.metrics["recall@10"].estimate == pytest.approx(1 / 3)


def test_an_interval_holds_its_estimate_and_is_the_same_each_time() -> None:
    generator = torch.Generator().manual_seed(1)
    recall = torch.rand(200, generator=generator).round().tolist()
    saved = result(
        domain=[0] * 100 + [1] * 100,
        user=list(range(1, 201)),
        known=[1] * 200,
        item_count=[1] * 200,
        recall=recall,
    )
    summary = summarise(saved, num_resamples=200)
    for group in groups(summary, "all").values():
        interval = group.metrics["recall@10"]
        assert interval.low < interval.estimate < interval.high
    assert summary == summarise(saved, num_resamples=200)


def test_the_normal_interval_is_what_the_bootstrap_comes_to() -> None:
    # s1: values 0 and 1, variance 1/4, of 4 users; s2: 8 users, all 1. The macro mean is (1/2 + 1) / 2, its error
    # sqrt(1/4 / 4) / 2 = 1/8, and 1.959964 errors reach to either side.
    value = torch.tensor([0.0, 1, 0, 1, *[1] * 8], dtype=torch.float64)
    domain = torch.tensor([0] * 4 + [1] * 8)
    interval = normal_interval(value, domain, level=0.95)
    assert interval.estimate == pytest.approx(0.75)
    assert interval.standard_error == pytest.approx(1 / 8)
    assert interval.high - 0.75 == pytest.approx(1.959964 / 8, rel=1e-6)
    many = torch.bernoulli(torch.full((2000,), 0.3), generator=torch.Generator().manual_seed(0)).double()
    by_domain = torch.arange(2000) % 2
    resampled = bootstrap_interval(many, by_domain, generator=torch.Generator().manual_seed(0))
    normal = normal_interval(many, by_domain, level=0.95)
    assert (normal.low, normal.high) == pytest.approx((resampled.low, resampled.high), abs=0.002)


def test_a_summary_becomes_json_and_markdown() -> None:
    summary = summarise(SMALL, num_resamples=50)
    content = json.loads(json.dumps(summary.to_dict()))
    assert content["split"] == "test"
    assert content["slices"]["all"]["macro"]["metrics"]["recall@10"]["estimate"] == pytest.approx(0.375)
    text = summary.to_markdown()
    assert "| s1 | 3 | 2 | 1 | 0.7500 [" in text
    assert "## Cold users (at most 4 known positives)" in text


def test_a_slice_without_rows_says_so() -> None:
    saved = result(domain=[0], user=[1], known=[9], item_count=[99], recall=[1])
    assert "## Cold users (at most 4 known positives)\n\nNo rows." in summarise(saved, num_resamples=50).to_markdown()


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="split 'test' has no held-out positives"):
        summarise(result(domain=[], user=[], known=[], item_count=[], recall=[]))


def test_a_saved_result_reads_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "evaluation" / "test.parquet"
    save_result(SMALL, file)
    back = load_result(file)
    assert (back.domain_names, back.split) == (("s1", "s2"), "test")
    for name in ("domain", "user_row", "item_row", "known", "item_count"):
        assert torch.equal(vars(back.result)[name], vars(SMALL.result)[name])
    assert list(back.result.metrics) == ["recall@10"]
    assert torch.equal(back.result.metrics["recall@10"], SMALL.result.metrics["recall@10"])
    assert [entry.name for entry in file.parent.iterdir()] == ["test.parquet"]


def test_a_failed_write_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test.parquet"
    save_result(SMALL, file)

    def write_half(_: pa.Table, path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on the disk")

    monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises(OSError, match="no space"):
        save_result(SMALL, file)
    assert load_result(file).result.metrics["recall@10"].tolist() == [1, 0, 1, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["test.parquet"]


def test_files_that_are_no_result_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such result"):
        load_result(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("recall: 1")
    with pytest.raises(InputError, match="not Parquet"):
        load_result(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not the result of an evaluation"):
        load_result(tmp_path / "other.parquet")
