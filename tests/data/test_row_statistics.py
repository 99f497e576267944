"""Statistics of training labels: by hand, against plain loops, and blind to the row's own label."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.statistic_rows import ROW, Row, statistic

from isthmus.data.row_statistics import row_statistics
from isthmus.schema import Scope, StatisticValue


def test_by_hand_before_the_row() -> None:
    rows = [(1, 0, 1, 0, 0, True, 1), (1, 0, 0, 1, 0, True, 1), (1, 0, 0, 2, 0, True, 1), (2, 0, 1, 1, 0, True, 1)]
    assert statistic(rows, "own", "count", clock=True) == pytest.approx([0, log(2), log(3), 0])
    # The third row knows two rows of its key with one positive, and three rows with two positives in all.
    assert statistic(rows, "own", "mean", clock=True)[2] == pytest.approx((1 + 2 * 2 / 3) / (2 + 2))
    assert statistic(rows, "own", "mean", clock=True)[0] == 0.5


def test_by_hand_of_other_folds() -> None:
    rows = [(1, 0, 1, 0, 0, True, 1), (1, 0, 0, 0, 1, True, 1), (1, 1, 1, 0, 1, True, 1), (1, 0, 0, 0, 0, False, 1)]
    assert statistic(rows, "own", "count", clock=False) == pytest.approx([log(2), log(2), 0, log(3)])
    assert statistic(rows, "other", "count", clock=False) == pytest.approx([log(2), 0, log(2), log(2)])


def test_by_hand_the_mean_of_an_outcome_and_none_where_nothing_is_known() -> None:
    found = row_statistics(
        np.array([1, 1, 1]),
        np.zeros(3, np.int64),
        np.array([4.5, 2.0, 1.0]),
        np.array([0, 1, 2]),
        None,
        np.array([True, True, True]),
        scope="own",
        value="mean",
        num_domains=1,
        prior=1.0,
        unknown=np.nan,
    )
    # The second row knows 4.5 alone, its key's and the scope's mean; the third 4.5 and 2, whose mean is 3.25.
    assert np.isnan(found[0])
    assert found[1:].tolist() == pytest.approx([4.5, (6.5 + 3.25) / 3])


def test_by_hand_an_item_is_adjusted_by_how_strict_its_users_are_elsewhere() -> None:
    # Of item 1 in domain 0 a strict and a generous user say the same; item 2 of domain 1 tells them apart.
    key, domain = np.array([2, 2, 2, 2, 1, 1]), np.array([1, 1, 1, 1, 0, 0])
    user = np.array([1, 2, 3, 3, 1, 2])
    outcome, time = np.array([1.0, 5.0, 3.0, 3.0, 4.0, 4.0]), np.array([1, 1, 0, 0, 2, 2])

    def of_item_1(asked: str, rows: list[int]) -> float:
        every = [*rows, rows[-1]]  # a new row of the last one's item, later than all
        found = row_statistics(
            key[every],
            domain[every],
            np.append(outcome[rows], 0.0),
            np.append(time[rows], 9),
            None,
            np.arange(len(every)) < len(rows),
            scope="own",
            value="adjusted_mean" if asked == "adjusted" else "mean",
            num_domains=2,
            prior=0.0,
            other=user[every],
        )
        return float(found[-1])

    strict, generous = [2, 3, 0, 1, 4], [2, 3, 0, 1, 5]
    assert of_item_1("plain", strict) == of_item_1("plain", generous) == 4.0
    # Before their ratings of 1 and 5 item 2 had a mean of 3: one user is 2 below what is usual, the other 2 above.
    assert of_item_1("adjusted", strict) == pytest.approx(6.0)
    assert of_item_1("adjusted", generous) == pytest.approx(2.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=25),
    st.sampled_from(["own", "other", "all"]),
    st.booleans(),
)
def test_it_is_what_plain_loops_give(rows: list[Row], scope: Scope, clock: bool) -> None:
    def known(i: int, j: int) -> bool:
        _, d, _, t, f, _, _ = rows[i]
        _, other_d, _, other_t, other_f, is_training, _ = rows[j]
        if not is_training or not (scope == "all" or (d == other_d) == (scope == "own")):
            return False
        return other_t < t if clock else not rows[i][5] or f != other_f

    count, mean = statistic(rows, scope, "count", clock=clock), statistic(rows, scope, "mean", clock=clock)
    for i, row in enumerate(rows):
        mine = [j for j in range(len(rows)) if known(i, j) and row[0] > 0 and rows[j][0] == row[0]]
        all_ = [rows[j][2] for j in range(len(rows)) if known(i, j)]
        m = sum(all_) / len(all_) if all_ else 0.5
        assert count[i] == pytest.approx(log(1 + len(mine)))
        assert mean[i] == pytest.approx((sum(rows[j][2] for j in mine) + 2 * m) / (len(mine) + 2))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=20),
    st.sampled_from(["own", "other", "all"]),
    st.sampled_from(["mean", "adjusted_mean"]),
    st.booleans(),
    st.data(),
)
def test_a_rows_own_label_changes_nothing_of_it(
    rows: list[Row], scope: Scope, value: StatisticValue, clock: bool, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    flipped = list(rows)
    row = rows[place]
    flipped[place] = (*row[:2], 1 - row[2], *row[3:])
    before, after = (statistic(which, scope, value, clock=clock)[place] for which in (rows, flipped))
    assert before == after
