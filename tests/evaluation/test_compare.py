"""Paired comparison of two evaluations."""

import json
from dataclasses import replace

import pytest
import torch

from isthmus.errors import InputError
from isthmus.evaluation.compare import compare
from isthmus.evaluation.retrieval import RetrievalResult
from isthmus.evaluation.summary import SavedResult


def saved(recall: list[float], **changes: object) -> SavedResult:
    rows = RetrievalResult(
        domain=torch.tensor([0, 0, 0, 1]),
        user_row=torch.tensor([1, 1, 2, 3]),
        item_row=torch.tensor([10, 11, 12, 13]),
        known=torch.zeros(4, dtype=torch.int64),
        item_count=torch.ones(4, dtype=torch.int64),
        metrics={"recall@10": torch.tensor(recall, dtype=torch.float64)},
    )
    return SavedResult(replace(rows, **changes), ("s1", "s2"), "test")  # type: ignore[arg-type]


def test_means_and_differences_are_of_users_by_domain_and_macro() -> None:
    comparison = compare(saved([1, 0, 1, 0]), saved([0, 0, 1, 1]), num_resamples=100)
    # s1: users have (1/2, 1) and (0, 1): 0.75 and 0.5. s2: 0 and 1. Macro: 0.375 and 0.75.
    got = {row.group: (row.mean_a, row.mean_b, row.test.difference.estimate) for row in comparison.rows}
    assert got["s1"] == pytest.approx((0.75, 0.5, 0.25))
    assert got["s2"] == pytest.approx((0.0, 1.0, -1.0))
    assert got["macro"] == pytest.approx((0.375, 0.75, -0.375))
    assert list(got) == ["s1", "s2", "macro"]


def test_a_run_does_not_differ_from_itself() -> None:
    for row in compare(saved([1, 0, 1, 0]), saved([1, 0, 1, 0]), num_resamples=100).rows:
        assert row.test.p_value == 1.0
        assert (row.test.difference.low, row.test.difference.high) == (0.0, 0.0)


def test_one_clear_difference_is_significant_and_another_is_not() -> None:
    # 30 users are all better in a: a sign flip brings that about once in 2^29 times.
    base = saved([0, 0, 0, 0])
    count = 30
    rows = RetrievalResult(
        domain=torch.zeros(count, dtype=torch.int64),
        user_row=torch.arange(1, count + 1),
        item_row=torch.arange(count),
        known=torch.zeros(count, dtype=torch.int64),
        item_count=torch.ones(count, dtype=torch.int64),
        metrics={"clear": torch.ones(count, dtype=torch.float64), "none": torch.zeros(count, dtype=torch.float64)},
    )
    better = SavedResult(rows, base.domain_names, "test")
    worse = replace(better, result=replace(rows, metrics=dict.fromkeys(rows.metrics, torch.zeros(count).double())))
    tests = {row.metric: row.test.p_value for row in compare(better, worse, num_resamples=999).rows}
    assert tests == {"clear": pytest.approx(0.001), "none": 1.0}


def test_metrics_that_one_lacks_are_left_out() -> None:
    b = saved([0, 0, 0, 0])
    more = replace(b.result, metrics={**b.result.metrics, "ndcg@10": b.result.metrics["recall@10"]})
    comparison = compare(saved([1, 0, 1, 0]), replace(b, result=more), num_resamples=20)
    assert {row.metric for row in comparison.rows} == {"recall@10"}
    with pytest.raises(InputError, match="a and b share no metric"):
        compare(saved([1, 0, 1, 0]), replace(b, result=replace(b.result, metrics={"x": torch.zeros(4)})))


def test_other_rows_are_refused_and_named() -> None:
    a = saved([1, 0, 1, 0])
    other_item = saved([1, 0, 1, 0], item_row=torch.tensor([10, 11, 99, 13]))
    with pytest.raises(InputError, match=r"row 2 is \(user, domain, item\) \(2, 0, 12\) in a and \(2, 0, 99\) in b"):
        compare(a, other_item)
    with pytest.raises(InputError, match="row 0"):
        compare(a, saved([1, 0, 1, 0], user_row=torch.tensor([7, 1, 2, 3])))
    with pytest.raises(InputError, match="row 3"):
        compare(a, saved([1, 0, 1, 0], domain=torch.tensor([0, 0, 0, 0])))
    with pytest.raises(InputError, match="a has domains s1, s2, b s1, s9"):
        compare(a, replace(a, domain_names=("s1", "s9")))
    with pytest.raises(InputError, match="a is on split 'test', b on 'valid'"):
        compare(a, replace(a, split="valid"))
    fewer = {name: column[:3] for name, column in vars(a.result).items() if name != "metrics"}
    short = RetrievalResult(**fewer, metrics={"recall@10": torch.zeros(3)})
    with pytest.raises(InputError, match="a has 4 rows, b 3"):
        compare(a, replace(a, result=short))


def test_a_comparison_becomes_json_and_markdown() -> None:
    comparison = compare(saved([1, 0, 1, 0]), saved([0, 0, 1, 1]), name_a="adi", name_b="dnn", num_resamples=100)
    content = json.loads(json.dumps(comparison.to_dict()))
    assert (content["a"], content["b"], len(content["rows"])) == ("adi", "dnn", 3)
    text = comparison.to_markdown()
    assert "a is adi, b is dnn" in text
    assert "| recall@10 | s1 | 0.7500 | 0.5000 | +0.2500 | [" in text
