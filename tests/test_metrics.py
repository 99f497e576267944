from itertools import product
from math import inf, isnan, log2, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from isthmus import metrics
from isthmus.metrics import (
    NEVER_RANKED,
    auc,
    auc_by_group,
    bootstrap_interval,
    domain_means,
    macro_mean,
    ndcg_at_k,
    ndcg_of_lists,
    paired_test,
    rank_of_positive,
    recall_at_k,
    recall_of_lists,
    traffic_weighted_mean,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ranks_are_those_of_plain_counting_with_ties_and_over_several_blocks_of_rows() -> None:
    generator = torch.Generator().manual_seed(4)
    for kind in (torch.float32, torch.float64):
        score = torch.randint(0, 40, (150, 61), generator=generator).to(kind)
        score[torch.rand(score.shape, generator=generator) < 0.1] = -torch.inf
        positive = torch.randint(0, 61, (150,), generator=generator)
        own = score.gather(1, positive[:, None])
        ahead = (score > own) | ((score == own) & (torch.arange(61) < positive[:, None]))
        expected = torch.where(own[:, 0] == -torch.inf, NEVER_RANKED, ahead.sum(dim=1) + 1)
        assert torch.equal(rank_of_positive(score, positive), expected)
    assert rank_of_positive(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)).tolist() == []


def test_rank_counts_candidates_scored_above() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5], [3.0, -1.0, 2.0]])
    assert rank_of_positive(score, torch.tensor([2, 1])).tolist() == [2, 3]


def test_of_equal_scores_the_lower_column_comes_first() -> None:
    # all scores equal: the rank is the column's own place, so that a constant score earns what chance earns
    score = torch.zeros(4, 4)
    assert rank_of_positive(score, torch.arange(4)).tolist() == [1, 2, 3, 4]


def test_a_positive_scored_minus_infinity_is_never_retrieved() -> None:
    score = torch.tensor([[-inf, 1.0, -inf], [2.0, -inf, 1.0]])
    rank = rank_of_positive(score, torch.tensor([0, 2]))
    assert rank.tolist() == [NEVER_RANKED, 2]
    # three candidates are fewer than k = 10: being one of them is not enough
    assert recall_at_k(rank, 10).tolist() == [0.0, 1.0]
    assert ndcg_at_k(rank, 10).tolist() == pytest.approx([0.0, 1 / log2(3)])


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank_of_positive(torch.tensor([[0.0, nan]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="NaN"):
        auc(torch.tensor([0.0, nan]), torch.tensor([True, False]))


def test_recall_and_ndcg_of_one_positive_are_worked_by_hand() -> None:
    rank = torch.tensor([1, 2, 3, 4])
    assert recall_at_k(rank, 3).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert ndcg_at_k(rank, 3).tolist() == pytest.approx([1.0, 1 / log2(3), 0.5, 0.0])


def test_k_must_be_one_or_more() -> None:
    with pytest.raises(ValueError, match="1 or more, got 0"):
        recall_at_k(torch.tensor([1]), 0)
    with pytest.raises(ValueError, match="1 or more, got -2"):
        ndcg_at_k(torch.tensor([1]), -2)


def test_recall_and_ndcg_of_lists_are_worked_by_hand() -> None:
    retrieved = torch.tensor([[4, 7, 9], [1, 2, 3], [5, -1, -1], [1, 2, 3]])
    clicked = torch.tensor([[7, 9, 2, 4], [8, -1, -1, -1], [5, -1, -1, -1], [-1, -1, -1, -1]])
    recall = recall_of_lists(retrieved, clicked)
    ndcg = ndcg_of_lists(retrieved, clicked)
    # user 0: three of four clicks, and a list of three cannot be better; user 2: one of one; user 3 has no clicks
    assert recall[:3].tolist() == [0.75, 0.0, 1.0]
    assert ndcg[:3].tolist() == [1.0, 0.0, 1.0]
    assert isnan(recall[3])
    assert isnan(ndcg[3])
    # one hit in third place of two clicks: (1 / 2) / (1 + 1 / log2 3)
    assert ndcg_of_lists(torch.tensor([[1, 2, 3]]), torch.tensor([[3, 9]])).item() == pytest.approx(
        0.5 / (1 + 1 / log2(3))
    )


def test_lists_agree_with_ranks_where_each_user_has_one_click() -> None:
    score = torch.randn(50, 30, generator=seeded())
    positive = torch.randint(30, (50,), generator=seeded(1))
    rank, retrieved = rank_of_positive(score, positive), score.topk(7).indices
    assert recall_of_lists(retrieved, positive[:, None]).tolist() == recall_at_k(rank, 7).tolist()
    torch.testing.assert_close(ndcg_of_lists(retrieved, positive[:, None]), ndcg_at_k(rank, 7))


def test_an_item_retrieved_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice for user 1"):
        recall_of_lists(torch.tensor([[1, -1, -1], [2, 3, 2]]), torch.tensor([[1], [2]]))


def test_auc_is_worked_by_hand() -> None:
    # positives 3 and 1, negatives 1 and 0: pairs 3>1, 3>0, 1=1 (half), 1>0: 3.5 of 4
    score = torch.tensor([3.0, 1.0, 1.0, 0.0])
    assert auc(score, torch.tensor([True, True, False, False])).item() == 3.5 / 4


@given(data=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_auc_equals_that_of_sklearn_with_ties(data: list[tuple[int, bool]]) -> None:
    score = torch.tensor([float(row[0]) for row in data])
    label = torch.tensor([row[1] for row in data])
    ours = auc(score, label).item()
    if label.all() or not label.any():
        assert isnan(ours)
    else:
        assert ours == pytest.approx(roc_auc_score(label.numpy(), score.numpy()), abs=1e-12)


def test_auc_by_group_is_that_of_each_group_alone() -> None:
    score = torch.randint(5, (300,), generator=seeded()).float()
    label = torch.rand(300, generator=seeded(1)) < 0.4
    group = torch.randint(6, (300,), generator=seeded(2))
    group[group == 3] = 2  # group 3 has no rows
    label[group == 4] = True  # group 4 has one class
    ours = auc_by_group(score, label, group, 6)
    for number in (0, 1, 2, 5):
        rows = group == number
        assert ours[number].item() == pytest.approx(roc_auc_score(label[rows].numpy(), score[rows].numpy()), abs=1e-12)
    assert isnan(ours[3])
    assert isnan(ours[4])


def test_equal_scores_of_two_groups_are_no_tie() -> None:
    # group 0's largest score is group 1's smallest: both groups order their pair rightly
    label, group = torch.tensor([False, True, False, True]), torch.tensor([0, 0, 1, 1])
    assert auc_by_group(torch.tensor([1.0, 2.0, 2.0, 3.0]), label, group, 2).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("group", [[0, 2], [-1, 0]])
def test_an_undeclared_group_is_refused(group: list[int]) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        auc_by_group(torch.zeros(2), torch.tensor([True, False]), torch.tensor(group), 2)


def test_macro_counts_domains_the_same_and_traffic_weights_them() -> None:
    values = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    means = domain_means(values, torch.tensor([0, 0, 0, 0, 1]), 2)
    assert means.tolist() == [0.25, 1.0]
    assert macro_mean(means, ["near", "far"], metric="auc").item() == 0.625
    assert traffic_weighted_mean(
        means, torch.tensor([4.0, 1.0]), ["near", "far"], metric="auc"
    ).item() == pytest.approx(0.4)


def test_a_domain_without_rows_is_named_and_left_out() -> None:
    means = domain_means(torch.tensor([0.5, 1.0]), torch.tensor([0, 2]), 3)
    with pytest.warns(UserWarning, match="no value: empty [(]auc[)]$"):
        assert macro_mean(means, ["one", "empty", "two"], metric="auc").item() == 0.75
    with pytest.warns(UserWarning, match="no value: empty [(]auc[)]$"):
        weighted = traffic_weighted_mean(means, torch.tensor([1.0, 5.0, 3.0]), ["one", "empty", "two"], metric="auc")
    assert weighted.item() == pytest.approx((0.5 + 3) / 4)


def test_bootstrap_of_a_plain_mean_has_the_textbook_error() -> None:
    values = torch.randn(400, generator=seeded(), dtype=torch.float64)
    domain = torch.zeros(400, dtype=torch.int64)
    interval = bootstrap_interval(values, domain, num_resamples=4000, level=0.9, generator=seeded(1))
    error = values.std(correction=0).item() / 20
    assert interval.estimate == pytest.approx(values.mean().item())
    assert interval.standard_error == pytest.approx(error, rel=0.06)
    assert interval.low == pytest.approx(interval.estimate - 1.645 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.estimate + 1.645 * error, abs=0.15 * error)


def test_bootstrap_of_the_macro_mean_draws_within_each_domain() -> None:
    # domain 0 always 1, domain 1 always 0 and far larger: within domains nothing varies, whatever is drawn
    values = torch.cat([torch.ones(3), torch.zeros(500)])
    domain = torch.cat([torch.zeros(3), torch.full((500,), 2)]).long()
    interval = bootstrap_interval(values, domain, num_resamples=50, generator=seeded())
    assert (interval.estimate, interval.low, interval.high, interval.standard_error) == (0.5, 0.5, 0.5, 0.0)


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(30, generator=seeded(), dtype=torch.float64)
    domain = torch.zeros(30, dtype=torch.int64)
    whole = bootstrap_interval(values, domain, num_resamples=101, generator=seeded(3))
    whole_test = paired_test(values, torch.zeros(30), domain, num_resamples=101, generator=seeded(3))
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", 64)
    assert bootstrap_interval(values, domain, num_resamples=101, generator=seeded(3)) == whole
    assert paired_test(values, torch.zeros(30), domain, num_resamples=101, generator=seeded(3)) == whole_test


def exact_p_value(difference: Tensor, domain: Tensor) -> float:
    """All 2^n sign patterns, counted one by one."""

    def macro(values: Tensor) -> float:
        return float(np.mean([values[domain == number].mean().item() for number in set(domain.tolist())]))

    observed = abs(macro(difference))
    signs = list(product([-1.0, 1.0], repeat=difference.numel()))
    as_far = [abs(macro(difference * torch.tensor(sign, dtype=torch.float64))) >= observed - 1e-12 for sign in signs]
    assert len(as_far) == 2 ** difference.numel()
    return sum(as_far) / len(as_far)


@pytest.mark.parametrize("seed", range(3))
def test_p_value_is_that_of_all_sign_patterns(seed: int) -> None:
    a = torch.randn(9, generator=seeded(seed), dtype=torch.float64) + 0.4
    b = torch.zeros(9, dtype=torch.float64)
    domain = torch.tensor([0, 0, 2, 2, 2, 2, 2, 2, 0])
    result = paired_test(a, b, domain, num_resamples=20_000, generator=seeded(5))
    # standard error of a share over 20,000 draws is at most .0035
    assert result.p_value == pytest.approx(exact_p_value(a - b, domain), abs=0.012)
    assert result.difference.estimate == pytest.approx((a[domain == 0].mean() + a[domain == 2].mean()).item() / 2)
    assert result.difference.low < result.difference.estimate < result.difference.high


def test_equal_runs_have_p_value_one_and_a_clear_winner_the_smallest() -> None:
    a = torch.rand(60, generator=seeded())
    domain = torch.zeros(60, dtype=torch.int64)
    assert paired_test(a, a, domain, num_resamples=99, generator=seeded()).p_value == 1.0
    assert paired_test(a + 1, a, domain, num_resamples=99, generator=seeded()).p_value == 0.01


def test_swapping_the_runs_turns_the_sign_and_keeps_the_p_value() -> None:
    a, b = torch.rand(2, 40, generator=seeded(), dtype=torch.float64)
    domain = torch.arange(40) % 3
    one = paired_test(a, b, domain, num_resamples=500, generator=seeded(2))
    other = paired_test(b, a, domain, num_resamples=500, generator=seeded(2))
    assert one.p_value == other.p_value
    assert one.difference.estimate == pytest.approx(-other.difference.estimate)
    assert one.difference.low == pytest.approx(-other.difference.high)


def test_under_the_null_a_twentieth_of_tests_is_below_a_twentieth() -> None:
    generator = seeded(11)
    domain = torch.arange(40) % 2
    p_values = []
    for _ in range(400):
        a, b = torch.randint(2, (2, 40), generator=generator).double()
        p_values.append(paired_test(a, b, domain, num_resamples=199, generator=generator).p_value)
    assert len(p_values) == 400
    # 400 draws at .05: standard error .011; ties make the test a little careful
    assert 0.01 < sum(p <= 0.05 for p in p_values) / 400 < 0.085


@pytest.mark.parametrize("values", [[], [nan], [inf]])
def test_statistics_refuse_values_they_cannot_average(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no rows|not finite"):
        bootstrap_interval(torch.tensor(values), torch.zeros(len(values), dtype=torch.int64), generator=seeded())


def test_level_and_number_of_resamples_are_checked() -> None:
    values, domain = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        bootstrap_interval(values, domain, level=95.0, generator=seeded())
    with pytest.raises(ValueError, match="2 or more, got 1"):
        bootstrap_interval(values, domain, num_resamples=1, generator=seeded())
