import numpy as np
import pytest

from isthmus.data.statistics import Spread, count_items, measure_spread


def test_the_spread_is_that_of_training_values_that_are_there() -> None:
    values = np.array([1.0, 3.0, np.nan, 100.0])
    spread = measure_spread(values, np.array([True, True, True, False]))
    assert (spread.mean, spread.std) == (2.0, 1.0)
    assert spread.standardise(values).tolist() == [-1.0, 1.0, 0.0, 98.0]


def test_equal_or_absent_values_are_not_divided_by_zero() -> None:
    assert measure_spread(np.array([4.0, 4.0]), np.ones(2, bool)) == Spread(4.0, 1.0)
    assert measure_spread(np.array([np.nan]), np.ones(1, bool)) == Spread(0.0, 1.0)
    assert Spread(4.0, 1.0).standardise(np.array([4.0, np.nan])).tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("value", [0.3, 19.95, 1.1, -4.35, 1e-20, 1e20])
def test_the_rounding_of_equal_values_is_no_deviation(value: float) -> None:
    values = np.full(2450, value)
    values[::3] = np.nextafter(value, np.inf)  # as means are that were summed in another order
    for known in (np.full(2450, value), values):
        assert measure_spread(known, np.ones(len(known), bool)) == Spread(known.min(), 1.0)
    apart = np.array([value, value * (1 + 1e-9)])
    assert 0 < measure_spread(apart, np.ones(2, bool)).std < 1e-9 * abs(value)


def test_items_are_counted_by_domain() -> None:
    count = count_items(np.array([1, 1, 2, 1]), np.array([0, 0, 0, 1]), num_items=4, num_domains=2)
    assert count.tolist() == [[0, 2, 1, 0], [0, 1, 0, 0]]
