"""The statistics of an experiment, worked by hand, and what their intervals are worth on drawn users."""

from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.abtest.statistics import Moments, Ratio, holm, ratio, relative_difference, sample_ratio


def moments(clicks: Sequence[float], impressions: Sequence[float]) -> Moments:
    """Of users with these clicks and impressions."""
    sides = {"clicks": np.array(clicks, float), "impressions": np.array(impressions, float)}
    names = list(sides)
    products = {(a, b): float(sides[a] @ sides[b]) for place, a in enumerate(names) for b in names[place:]}
    return Moments(len(clicks), {name: float(side.sum()) for name, side in sides.items()}, products)


def ctr(clicks: Sequence[float], impressions: Sequence[float]) -> Ratio:
    found = ratio(moments(clicks, impressions), "clicks", "impressions")
    assert found is not None
    return found


def test_a_ratio_and_its_variance_are_those_worked_by_hand() -> None:
    # Three users, clicks 1, 0, 2 of impressions 2, 3, 5: r = 3 / 10; parts 1 - .6, 0 - .9, 2 - 1.5 = .4, -.9, .5,
    # their squares .16 + .81 + .25 = 1.22; variance = 3 / 2 * 1.22 / 10^2 = .0183.
    found = ctr([1, 0, 2], [2, 3, 5])
    assert (found.value, found.num_users) == (0.3, 3)
    assert found.variance == pytest.approx(0.0183)


def test_with_one_impression_a_user_the_variance_is_that_of_a_mean() -> None:
    # 20 users, 5 of whom clicked: the sample variance .25 * .75 * 20 / 19, by 20.
    assert ctr([1] * 5 + [0] * 15, [1] * 20).variance == pytest.approx(0.25 * 0.75 / 19)


def test_a_difference_is_that_worked_by_hand() -> None:
    # Ratios .2 and .1 of 50 users each, standard errors a tenth of each: the logarithm's is sqrt(.01 + .01), and both
    # parts being equal there are 98 degrees of freedom, whose t at 97.5 % is 1.98447 (a printed table).
    found = relative_difference(Ratio(0.2, 0.02**2, 50), Ratio(0.1, 0.01**2, 50))
    assert found.low == pytest.approx(2 * exp(-1.98447 * sqrt(0.02)) - 1, abs=1e-5)
    assert found.high == pytest.approx(2 * exp(1.98447 * sqrt(0.02)) - 1, abs=1e-5)
    assert found.estimate == pytest.approx(1.0)
    assert found.p_value is not None
    assert found.p_value < 1e-5  # log(2) / sqrt(.02) = 4.90
    # At the interval's edge p is 5 %: ratios that differ by 1.98447 standard errors.
    edge = relative_difference(
        Ratio(0.1 * exp(1.98447 * sqrt(0.02)), 0.01 * (0.1 * exp(1.98447 * sqrt(0.02))) ** 2, 50),
        Ratio(0.1, 0.01**2, 50),
    )
    assert edge.p_value == pytest.approx(0.05, abs=1e-5)
    assert edge.low == pytest.approx(0, abs=1e-5)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(5, 20)), min_size=3, max_size=9),
    st.lists(st.tuples(st.integers(0, 5), st.integers(5, 20)), min_size=3, max_size=9),
)
@settings(deadline=None)
def test_swapping_the_sides_says_the_same_and_the_interval_and_p_agree(
    a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> None:
    sides = [ctr([float(c) for c, _ in side], [float(i) for _, i in side]) for side in (a, b)]
    one, other = relative_difference(*sides), relative_difference(*reversed(sides))
    assert (one.p_value is None) == (other.p_value is None)
    if one.p_value is None or one.low is None or one.high is None or other.low is None or other.p_value is None:
        assert one.why_no_interval
        return
    assert one.p_value == pytest.approx(other.p_value)
    assert log(1 + one.high) == pytest.approx(-log(1 + other.low), abs=1e-6) if other.low > -1 else True
    assert -1 <= one.low <= one.high
    if abs(one.p_value - 0.05) > 1e-9:
        assert (one.p_value < 0.05) == (one.low > 0 or one.high < 0)


@pytest.mark.parametrize(
    ("variant", "control", "estimate", "why"),
    [
        (None, Ratio(0.1, 0.1, 9), None, "nothing to divide by in the variant"),
        (Ratio(0.1, 0.1, 9), None, None, "nothing to divide by in the control"),
        (Ratio(0.1, 0.1, 9), Ratio(0.0, 0.0, 9), None, "the control's is not above 0"),
        (Ratio(0.0, 0.0, 9), Ratio(0.1, 0.1, 9), -1.0, "the variant's is not above 0"),
        (Ratio(0.2, None, 1), Ratio(0.1, 0.1, 9), 1.0, "a single user in the variant"),
        (Ratio(0.2, 0.1, 9), Ratio(0.1, None, 1), 1.0, "a single user in the control"),
        (Ratio(0.2, 0.0, 9), Ratio(0.1, 0.0, 9), 1.0, "users do not differ in it"),
    ],
)
def test_where_nothing_can_be_tested_it_says_why(
    variant: Ratio | None, control: Ratio | None, estimate: float | None, why: str
) -> None:
    found = relative_difference(variant, control)
    assert (found.estimate, found.low, found.high, found.p_value) == (estimate, None, None, None)
    assert found.why_no_interval == why


def test_a_spread_that_is_rounding_is_none() -> None:
    price = 0.1 + 0.2  # 0.30000000000000004, the same for every user
    clicks = [1.0, 2.0, 3.0]
    assert ctr([price * number for number in clicks], clicks).variance == 0
    assert ctr([0, 0], [3, 4]).variance == 0
    assert ratio(moments([0, 0], [0, 0]), "clicks", "impressions") is None


def test_holms_p_values_are_those_worked_by_hand() -> None:
    # .01 * 4, then .02 * 3 = .06, then .03 * 2 = .06, then .9 * 1; in the order in which they were given.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_sample_ratio_is_that_worked_by_hand() -> None:
    # 60 and 40 of 100 where halves were declared: 100 / 50 + 100 / 50 = 4, whose p with one degree is .0455.
    found = sample_ratio({"a": 60, "b": 40}, {"a": 0.5, "b": 0.5})
    assert found.statistic == pytest.approx(4)
    assert found.p_value == pytest.approx(0.0455, abs=1e-4)
    # A variant nobody was in counts: 75, 25 and 0 of 100 where 50, 25 and 25 were declared: 12.5 + 0 + 25.
    missing = sample_ratio({"a": 75, "b": 25}, {"a": 0.5, "b": 0.25, "c": 0.25})
    assert missing.observed == {"a": 75, "b": 25, "c": 0}
    assert missing.statistic == pytest.approx(37.5)
    with pytest.raises(ValueError, match="nothing to test"):
        sample_ratio({}, {"a": 0.5, "b": 0.5})


def draw(rng: np.random.Generator, num_users: int, *, uplift: float, mean_rate: float) -> Moments:
    """Users who differ widely in how often they click and in how much they are shown."""
    rate = 0.8 * rng.beta(0.5, 0.4 / mean_rate - 0.5, num_users) * (1 + uplift)
    impressions = 1 + rng.geometric(0.1, num_users)
    return moments(rng.binomial(impressions, rate).tolist(), impressions.tolist())


@pytest.mark.parametrize(("num_users", "mean_rate"), [(1000, 0.05), (100, 0.1), (60, 0.2)])
def test_intervals_hold_the_true_difference_as_often_as_they_say(num_users: int, mean_rate: float) -> None:
    rng, uplift, num_trials = np.random.default_rng(7), 0.2, 1000
    num_held = num_false = num_naive = 0
    for _ in range(num_trials):
        control, same, better = (draw(rng, num_users, uplift=lift, mean_rate=mean_rate) for lift in (0.0, 0.0, uplift))
        ratios = [ratio(side, "clicks", "impressions") for side in (control, same, better)]
        found = relative_difference(ratios[2], ratios[0])
        assert found.low is not None
        assert found.high is not None
        num_held += found.low <= uplift <= found.high
        alike = relative_difference(ratios[1], ratios[0])
        assert alike.p_value is not None
        num_false += alike.p_value < 0.05
        num_naive += _is_naively_significant(same, control)
    # 3 standard errors of 1000 trials are .021; with the impression as the unit it errs several times as often.
    assert num_held / num_trials == pytest.approx(0.95, abs=0.021)
    assert num_false / num_trials == pytest.approx(0.05, abs=0.021)
    assert num_naive / num_trials > 0.15


def _is_naively_significant(a: Moments, b: Moments) -> bool:
    """The test of two proportions, which takes every impression as independent."""
    clicks, shown = ([side.sums[name] for side in (a, b)] for name in ("clicks", "impressions"))
    pooled = sum(clicks) / sum(shown)
    error = sqrt(pooled * (1 - pooled) * (1 / shown[0] + 1 / shown[1]))
    return abs(clicks[0] / shown[0] - clicks[1] / shown[1]) > 1.96 * error
