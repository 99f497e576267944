from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.data.splits import (
    DROPPED,
    TEST,
    TRAIN,
    VALID,
    Taken,
    carve_validation,
    drop_repeats,
    drop_taken_before,
    split_by_time,
    split_last_out,
)

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1), st.integers(0, 9)), min_size=1)


def taken(rows: list[tuple[int, int, int, int]], *, clock: bool = True) -> Taken:
    user, item, domain, time = (np.array(column) for column in zip(*rows, strict=True))
    return Taken(user, item, domain, time if clock else None)


def test_the_latest_share_is_test_and_the_one_before_it_validation() -> None:
    split = split_by_time(np.array([5, 1, 9, 2, 3, 4, 8, 6, 7, 0]), valid=0.2, test=0.1)
    assert split.tolist() == [TRAIN, TRAIN, TEST, TRAIN, TRAIN, TRAIN, VALID, TRAIN, VALID, TRAIN]


def test_rows_of_one_moment_stay_together_on_the_later_side() -> None:
    # One of ten is test, but the last three share a moment; the one before them is validation.
    split = split_by_time(np.array([0, 1, 2, 3, 4, 5, 6, 9, 9, 9]), valid=0.1, test=0.1)
    assert split.tolist() == [TRAIN] * 6 + [VALID] + [TEST] * 3


@pytest.mark.parametrize("time", [[1, 1, 1, 1, 1], [1, 2], [1, 1, 1, 2, 2], [7]])
def test_too_few_moments_are_refused(time: list[int]) -> None:
    with pytest.raises(ValueError, match="too"):
        split_by_time(np.array(time), valid=0.1, test=0.1)


def test_the_last_positive_of_a_user_in_a_domain_is_test() -> None:
    rows = [(0, 0, 0, 1), (0, 1, 0, 3), (0, 2, 0, 2), (0, 3, 1, 9), (0, 4, 1, 8), (1, 0, 0, 1)]
    # Domain 0 has three of user 0 in the order 0, 2, 1; domain 1 only two, and user 1 has one: all training.
    assert split_last_out(taken(rows), seed=0).tolist() == [TRAIN, TEST, VALID, TRAIN, TRAIN, TRAIN]


def test_last_out_counts_a_pair_once() -> None:
    rows = [(0, 0, 0, 1), (0, 1, 0, 2), (0, 2, 0, 3), (0, 0, 0, 4)]
    assert split_last_out(taken(rows), seed=0).tolist() == [TRAIN, VALID, TEST, DROPPED]


def test_without_a_clock_the_seed_chooses_whatever_the_order_of_rows() -> None:
    rows = [(user, item, 0, 0) for user, item in product(range(20), range(5))]
    held_out = []
    for order in (rows, rows[::-1]):
        split = split_last_out(taken(order, clock=False), seed=3)
        assert [int((split == part).sum()) for part in (TRAIN, VALID, TEST)] == [60, 20, 20]
        held_out.append({row for row, part in zip(order, split, strict=True) if part == TEST})
    assert held_out[0] == held_out[1]
    assert len({item for _, item, _, _ in held_out[0]}) > 1
    other = split_last_out(taken(rows, clock=False), seed=4)
    assert {row for row, part in zip(rows, other, strict=True) if part == TEST} != held_out[0]


def test_carving_takes_the_last_training_positive_of_a_share_of_each_domain() -> None:
    rows = [(user, item, domain, 10 * user + item) for user, item, domain in product(range(10), range(3), range(2))]
    columns = taken(rows)
    split = np.where(columns.item == 2, TEST, TRAIN)
    carved = carve_validation(columns, split, users=0.3, seed=1)
    for domain in (0, 1):
        ours = carved[columns.domain == domain]
        assert [int((ours == part).sum()) for part in (TRAIN, VALID, TEST)] == [17, 3, 10]
    # The last in time of the two training items is item 1.
    assert columns.item[carved == VALID].tolist() == [1] * 6
    assert carve_validation(columns, split, users=0.3, seed=1).tolist() == carved.tolist()
    assert carve_validation(columns, split, users=0.3, seed=2).tolist() != carved.tolist()


def test_carving_leaves_users_with_one_item_and_takes_a_pair_whole() -> None:
    rows = [(0, 0, 0, 1), (1, 5, 0, 1), (1, 6, 0, 2), (1, 6, 0, 3)]
    split = carve_validation(taken(rows), np.zeros(4, np.int8), users=1.0, seed=0)
    assert split.tolist() == [TRAIN, TRAIN, DROPPED, VALID]


def test_of_equal_rows_the_one_of_the_earliest_split_stays() -> None:
    columns = taken([(0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 2), (0, 1, 0, 1)])
    assert drop_repeats(columns, np.array([TEST, TRAIN, TRAIN, TEST])).tolist() == [1, 2, 3]
    without_clock = taken([(0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 2), (0, 1, 0, 1)], clock=False)
    assert drop_repeats(without_clock, None).tolist() == [0, 3]


def test_a_pair_is_asked_for_once_and_never_after_it_was_learnt() -> None:
    rows = [(0, 0, 0, 1), (0, 0, 0, 5), (0, 1, 0, 5), (0, 1, 0, 6), (0, 1, 1, 6), (0, 0, 0, 2)]
    split = np.array([TRAIN, VALID, VALID, TEST, TEST, TRAIN])
    assert drop_taken_before(taken(rows), split).tolist() == [TRAIN, DROPPED, VALID, DROPPED, TEST, TRAIN]


@given(rows=ROWS, clock=st.booleans(), given_split=st.lists(st.sampled_from([TRAIN, VALID, TEST]), min_size=50))
def test_held_out_pairs_are_new_whatever_the_log_says(
    rows: list[tuple[int, int, int, int]], clock: bool, given_split: list[int]
) -> None:
    columns = taken(rows, clock=clock)
    declared = np.resize(np.array(given_split), len(rows))
    for split in (declared, split_last_out(columns, seed=0), carve_validation(columns, declared, users=1.0, seed=0)):
        final = drop_taken_before(columns, split)
        triples = list(zip(columns.user.tolist(), columns.item.tolist(), columns.domain.tolist(), strict=True))
        parts = [[triple for triple, part in zip(triples, final, strict=True) if part == p] for p in (0, 1, 2)]
        assert not set(parts[1]) & set(parts[0])
        assert not set(parts[2]) & (set(parts[0]) | set(parts[1]))
        assert len(set(parts[1])) == len(parts[1])
        assert len(set(parts[2])) == len(parts[2])
