import numpy as np
import pytest

from isthmus.data.candidates import sample_negatives, sort_lists


def test_draws_different_items_that_are_not_forbidden() -> None:
    corpus = np.arange(100, 600)
    user = np.repeat(np.arange(30), 5)
    forbidden = np.unique(np.random.default_rng(0).integers(30, size=2000) * 1000 + 100 + np.arange(2000) % 500)
    drawn = sample_negatives(corpus, forbidden, user, num_items=1000, count=40, rng=np.random.default_rng(1))
    assert drawn.shape == (150, 40)
    assert np.isin(drawn, corpus).all()
    assert all(len(set(row)) == 40 for row in drawn.tolist())
    assert not np.isin(user[:, None] * 1000 + drawn, forbidden).any()


@pytest.mark.parametrize("corpus_size", [40, 400])
def test_every_item_is_drawn_equally_often(corpus_size: int) -> None:
    user = np.zeros(20_000, np.int64)
    drawn = sample_negatives(
        np.arange(corpus_size), np.array([3]), user, num_items=corpus_size, count=20, rng=np.random.default_rng(2)
    )
    counts = np.bincount(drawn.ravel(), minlength=corpus_size)
    assert counts[3] == 0
    expected = 20_000 * 20 / (corpus_size - 1)
    # Five standard deviations of a binomial count, for each of the corpus's items.
    assert np.abs(np.delete(counts, 3) - expected).max() < 5 * expected**0.5


def test_takes_all_that_is_left_and_fills_the_rest() -> None:
    forbidden = np.array([1, 2, 10 + 0])
    drawn = sample_negatives(
        np.array([0, 1, 2]), forbidden, np.array([0, 1, 2]), num_items=10, count=3, rng=np.random.default_rng(0)
    )
    assert drawn[0].tolist() == [0, -1, -1]
    assert sorted(drawn[1].tolist()) == [-1, 1, 2]
    assert sorted(drawn[2].tolist()) == [0, 1, 2]


def test_a_user_who_took_most_of_a_large_corpus_still_gets_what_is_left() -> None:
    forbidden = np.arange(0, 995)
    drawn = sample_negatives(
        np.arange(1000), forbidden, np.array([0]), num_items=1000, count=5, rng=np.random.default_rng(0)
    )
    assert sorted(drawn[0].tolist()) == [995, 996, 997, 998, 999]


def test_lists_ascend_and_end_in_minus_one() -> None:
    assert sort_lists(np.array([[5, -1, 0, 3], [2, 2, 1, 9]])).tolist() == [[0, 3, 5, -1], [1, 2, 2, 9]]
