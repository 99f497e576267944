"""Batches of labelled rows: which negatives are left out, and whose item is read as unknown."""

import numpy as np
import pytest
import torch

from isthmus.batch import RankingBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RankingLoader, numbered, shuffled, without_some_negatives


def test_a_share_of_the_negatives_goes_and_every_positive_stays() -> None:
    label = np.array([1, 0, 0, 0, 0, 1, 0, 0, 1, 0], np.int8)
    rows = np.arange(1, 10)  # two positives and seven negatives; a share of .3 of seven is 2.1: two
    kept = without_some_negatives(rows, label, 0.3, np.random.default_rng(0))
    assert kept.tolist() == sorted(kept.tolist())
    assert {5, 8} <= set(kept.tolist())
    assert len(kept) == 4
    assert set(kept.tolist()) < set(rows.tolist())


def test_each_domain_is_thinned_by_its_own_share(labelled: Dataset) -> None:
    shares = (1.0, 0.5, 0.1)
    whole = RankingLoader(labelled, batch_size=64, seed=0)
    thinned = RankingLoader(labelled, batch_size=64, seed=0, negative_shares=shares)
    assert whole.events.label is not None
    for share, before, after in zip(shares, whole.rows, thinned.rows, strict=True):
        label, kept = whole.events.label[before], whole.events.label[after]
        assert kept.sum() == label.sum()
        assert (kept == 0).sum() == round(share * int((label == 0).sum()))
    again = RankingLoader(labelled, batch_size=64, seed=0, negative_shares=shares)
    other = RankingLoader(labelled, batch_size=64, seed=1, negative_shares=shares)
    assert all(np.array_equal(a, b) for a, b in zip(thinned.rows, again.rows, strict=True))
    assert not np.array_equal(thinned.rows[1], other.rows[1])


def items(batches: list[RankingBatch]) -> torch.Tensor:
    return torch.cat([batch.features.item.categorical[:, 0] for batch in batches])


def test_rows_are_numbered_in_four_bytes_and_in_eight_where_four_do_not_hold_them(labelled: Dataset) -> None:
    loader = RankingLoader(labelled, batch_size=64, seed=0)
    parts = [part for step in loader.steps(0) for part in step]
    assert {part.dtype for part in parts} == {np.dtype(np.int32)}
    assert np.sort(np.concatenate(parts)).tolist() == list(range(loader.num_rows))
    largest = np.iinfo(np.int32).max
    assert numbered(range(largest - 2, largest)).tolist() == [largest - 2, largest - 1]
    assert numbered(range(largest - 2, largest)).dtype == np.int32
    assert numbered(range(largest, largest + 2)).tolist() == [largest, largest + 1]


def test_a_range_is_shuffled_as_the_array_of_its_rows_is_which_stays_as_it_was() -> None:
    rows = np.arange(5, 300, dtype=np.int32)
    of_range, of_rows = (shuffled(own, np.random.default_rng(3)) for own in (range(5, 300), rows))
    assert np.array_equal(of_range, of_rows)
    assert np.array_equal(of_rows, np.random.default_rng(3).permutation(rows))
    assert np.array_equal(rows, np.arange(5, 300))


def test_a_share_of_items_is_read_as_unknown_anew_in_each_epoch(labelled: Dataset) -> None:
    whole = RankingLoader(labelled, batch_size=64, seed=0)
    loader = RankingLoader(labelled, batch_size=64, seed=0, unseen_items=0.25)
    first, second = items(list(loader.epoch(0))), items(list(loader.epoch(1)))
    known = items(list(whole.epoch(0)))
    unseen = first == 0
    assert torch.equal(first[~unseen], known[~unseen])
    assert float((known == 0).double().mean()) == 0  # training knows every item of its rows
    # 0.25 of some 5,000 rows: within four standard deviations of .006.
    assert float(unseen.double().mean()) == pytest.approx(0.25, abs=0.03)
    # Batches come in another order in each epoch: the same rows drawn again would be as many.
    assert int(unseen.sum()) != int((second == 0).sum())


def test_an_epoch_taken_up_in_its_middle_reads_the_same_items_as_unknown(labelled: Dataset) -> None:
    loader = RankingLoader(labelled, batch_size=64, seed=0, unseen_items=0.25)
    whole = list(loader.epoch(1))
    assert torch.equal(items(whole[3:]), items(list(loader.epoch(1, first_step=3))))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_unseen_items_out_of_range_is_refused(labelled: Dataset, share: float) -> None:
    with pytest.raises(ValueError, match=f"unseen_items must be at least 0 and below 1, got {share}"):
        RankingLoader(labelled, batch_size=64, seed=0, unseen_items=share)
