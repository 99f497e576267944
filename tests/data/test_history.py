import numpy as np

from isthmus.data.history import build_history
from isthmus.data.splits import TEST, TRAIN, VALID, Taken


def test_training_comes_first_then_validation_each_in_order_of_time() -> None:
    # User 1: training at 5 (item 3) and 2 (item 4), validation at 1 (item 1), test at 9; user 2 is absent.
    taken = Taken(
        user=np.array([1, 1, 1, 1, 3, 0, 3]),
        item=np.array([3, 4, 1, 2, 2, 2, 0]),
        domain=np.array([0, 1, 0, 0, 1, 0, 0]),
        time=np.array([5, 2, 1, 9, 7, 1, 1]),
    )
    split = np.array([TRAIN, TRAIN, VALID, TEST, TRAIN, VALID, VALID])
    history = build_history(taken, split, num_users=4)
    assert history.offsets.tolist() == [0, 0, 3, 3, 4]
    assert history.train_end.tolist() == [0, 2, 3, 4]
    assert history.item_row.tolist() == [4, 3, 1, 2]
    assert history.domain.tolist() == [1, 0, 0, 1]
    assert history.time is not None
    assert history.time.tolist() == [2, 5, 1, 7]


def test_without_a_clock_the_order_is_that_of_item_rows() -> None:
    taken = Taken(np.array([1, 1, 1]), np.array([3, 1, 2]), np.array([0, 0, 0]), None)
    history = build_history(taken, np.array([TRAIN, TRAIN, VALID]), num_users=2)
    assert history.item_row.tolist() == [1, 3, 2]
    assert history.time is None
