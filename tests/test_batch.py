from itertools import accumulate, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from isthmus.batch import Bag, Features, RetrievalBatch
from isthmus.domains import DomainSlices

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6)


def bag_of(lists: list[list[int]]) -> Bag:
    values = [value for values in lists for value in values]
    return Bag(
        torch.tensor(values, dtype=torch.int64), torch.tensor([0, *accumulate(map(len, lists))], dtype=torch.int64)
    )


def lists_in(bag: Bag) -> list[list[int]]:
    bounds = bag.offsets.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == bag.values.numel()
    return [bag.values[start:end].tolist() for start, end in pairwise(bounds)]


@given(LISTS)
def test_row_names_the_list_of_each_value(lists: list[list[int]]) -> None:
    assert bag_of(lists).row().tolist() == [row for row, values in enumerate(lists) for _ in values]


@given(LISTS, st.data())
def test_select_is_a_slice_of_the_lists(lists: list[list[int]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    assert lists_in(bag_of(lists).select(slice(start, stop))) == lists[start:stop]


@given(LISTS, st.data())
def test_take_gives_the_named_lists_in_order_repeats_included(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    taken = bag_of(lists).take(torch.tensor(rows, dtype=torch.int64))
    assert lists_in(taken) == [lists[row] for row in rows]


def test_features_are_taken_row_by_row_in_all_their_parts() -> None:
    features = Features(
        torch.tensor([[1, 10], [2, 20], [3, 30]]),
        (bag_of([[1], [], [3, 4]]), bag_of([[5, 6], [7], []])),
        torch.tensor([[0.1], [0.2], [0.3]]),
    )
    taken = features.take(torch.tensor([2, 0]))
    assert taken.num_rows == 2
    assert taken.categorical.tolist() == [[3, 30], [1, 10]]
    assert [lists_in(bag) for bag in taken.bags] == [[[3, 4], [1]], [[], [5, 6]]]
    torch.testing.assert_close(taken.number, torch.tensor([[0.3], [0.1]]))


def test_a_batch_moves_whole() -> None:
    features = Features(torch.tensor([[1], [2]]), (bag_of([[1], [2, 3]]),), torch.zeros(2, 0))
    batch = RetrievalBatch(features, torch.tensor([4, 5]), bag_of([[4], [5]]), DomainSlices((0, 1, 2)))
    moved = batch.to(torch.device("meta"))
    tensors = [moved.item_row, moved.known.values, moved.known.offsets, moved.user.categorical, moved.user.number]
    tensors += [moved.user.bags[0].values, moved.user.bags[0].offsets]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.domain_slices == batch.domain_slices
