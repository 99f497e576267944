from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import Positive, random_positives, rich_dataset, tiny_dataset, tiny_schema

from isthmus.batch import RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader


def dataset_with(counts: Sequence[int], *, seed: int = 0) -> Dataset:
    """A dataset with a different item in every row, so that items name rows."""
    domains = [f"domain{d}" for d in range(len(counts))]
    rows = random_positives(seed, counts, num_users=9, num_items=5)
    train: list[Positive] = [(user, 1 + place, domain, time) for place, (user, _, domain, time) in enumerate(rows)]
    return tiny_dataset(train, num_users=9, num_items=2 + sum(counts), schema=tiny_schema(domains=domains))


def items_by_domain(batch: RetrievalBatch) -> list[list[int]]:
    return [batch.item_row[batch.domain_slices[d]].tolist() for d in range(batch.domain_slices.num_domains)]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any),
    st.integers(2, 20),
    st.integers(0, 3),
)
def test_an_epoch_holds_every_row_once_in_its_own_domain(counts: list[int], batch_size: int, epoch: int) -> None:
    dataset = dataset_with(counts)
    loader = RetrievalLoader(dataset, batch_size=batch_size, seed=3)
    batches = list(loader.epoch(epoch))
    events = dataset.events["train"]
    for domain in range(len(counts)):
        drawn = [item for batch in batches for item in items_by_domain(batch)[domain]]
        assert sorted(drawn) == sorted(np.asarray(events.item_row)[np.asarray(events.domain) == domain].tolist())
        sizes = [batch.domain_slices.counts[domain] for batch in batches]
        assert all(size != 1 for size in sizes) or counts[domain] == 1
    assert all(batch.domain_slices.num_rows > 0 for batch in batches)
    assert loader.num_rows == sum(counts)


def test_every_step_holds_its_share_of_each_domain() -> None:
    # 40 + 20 + 6 rows in steps of 11: 6 steps; of the last domain two rows at a time, in 3 of the 6 steps
    loader = RetrievalLoader(dataset_with([40, 20, 6]), batch_size=11, seed=0)
    counts = [batch.domain_slices.counts for batch in loader.epoch(0)]
    assert len(counts) == 6
    assert {first for first, _, _ in counts} == {6, 7}
    assert {second for _, second, _ in counts} == {3, 4}
    assert sorted(third for _, _, third in counts) == [0, 0, 0, 2, 2, 2]
    third = [third for _, _, third in counts]
    assert third in ([2, 0] * 3, [0, 2] * 3)  # evenly spread over the epoch


def assert_equal_batches(one: RetrievalBatch, other: RetrievalBatch) -> None:
    assert one.domain_slices == other.domain_slices
    assert torch.equal(one.item_row, other.item_row)
    assert torch.equal(one.user.categorical, other.user.categorical)
    assert torch.equal(one.user.number, other.user.number)
    for bag, other_bag in zip((one.known, *one.user.bags), (other.known, *other.user.bags), strict=True):
        assert torch.equal(bag.values, other_bag.values)
        assert torch.equal(bag.offsets, other_bag.offsets)


def test_the_same_seed_gives_the_same_batches_and_another_epoch_or_seed_others() -> None:
    dataset = rich_dataset()
    first, again, other = (RetrievalLoader(dataset, batch_size=16, seed=seed) for seed in (5, 5, 6))
    for one, two in zip(first.epoch(2), again.epoch(2), strict=True):
        assert_equal_batches(one, two)

    def order(loader: RetrievalLoader, epoch: int) -> list[int]:
        return [item for batch in loader.epoch(epoch) for item in batch.item_row.tolist()]

    assert order(first, 2) != order(first, 3)
    assert order(first, 2) != order(other, 2)


@pytest.mark.parametrize("counts", [(40, 25, 9), (3, 0, 2)])
def test_an_epoch_is_taken_up_at_any_step(counts: tuple[int, ...]) -> None:
    loader = RetrievalLoader(rich_dataset(counts), batch_size=4 if sum(counts) < 10 else 16, seed=1)
    whole = list(loader.epoch(0))
    assert len(whole) > 1
    for first_step in range(len(whole) + 1):
        rest = list(loader.epoch(0, first_step=first_step))
        assert len(rest) == len(whole) - first_step
        for one, two in zip(rest, whole[first_step:], strict=True):
            assert_equal_batches(one, two)


def test_a_batch_holds_what_each_rows_user_took_in_the_domain_its_own_item_too() -> None:
    train: list[Positive] = [(1, 3, 0, 1), (1, 4, 0, 2), (1, 5, 1, 3), (2, 6, 0, 1)]
    valid: list[Positive] = [(1, 7, 0, 9)]
    dataset = tiny_dataset(train, valid, num_users=3, num_items=9, schema=tiny_schema(domains=("a", "b")))
    batch = next(RetrievalLoader(dataset, batch_size=8, seed=0).epoch(0))
    known = {
        item: set(batch.known.select(slice(row, row + 1)).values.tolist())
        for row, item in enumerate(batch.item_row.tolist())
    }
    assert known == {3: {3, 4}, 4: {3, 4}, 5: {5}, 6: {6}}


def test_a_batch_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be 2 or more, got 1"):
        RetrievalLoader(rich_dataset(), batch_size=1, seed=0)
