from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from isthmus.evaluation import references
from isthmus.evaluation.references import Reference, fit_ease, fit_item_knn, fit_popularity

# three users, four items; nobody took item 3
TINY = csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0]]))

FITS: dict[str, Callable[[csr_matrix], Reference]] = {
    "popularity": fit_popularity,
    "item_knn": lambda x: fit_item_knn(x, num_neighbours=2, shrink=1.0),
    "ease": lambda x: fit_ease(x, l2=2.0),
}


def random_interactions(num_users: int = 60, num_items: int = 14) -> csr_matrix:
    generator = np.random.default_rng(3)
    return csr_matrix((generator.random((num_users, num_items)) < generator.random(num_items)).astype(np.int64))


def test_popularity_is_the_count_whatever_the_history() -> None:
    history = csr_matrix(np.array([[0, 0, 0, 1], [1, 0, 0, 0]]))
    assert fit_popularity(TINY).scores(history).tolist() == [[2, 3, 2, 0], [2, 3, 2, 0]]


def test_item_knn_cosine_is_worked_by_hand() -> None:
    # columns (1,1,0), (1,1,1), (0,1,1): items 0 and 1 share two users, 0 and 2 one, 1 and 2 two
    s01, s02 = 2 / sqrt(2 * 3), 1 / 2
    model = fit_item_knn(TINY, num_neighbours=3, shrink=0.0)
    expected = [[0, s01, s02, 0], [s01, 0, s01, 0], [s02, s01, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(model.similarity.toarray(), np.array(expected), atol=1e-15)
    # a history of items 0 and 2: item 1 earns both similarities, items 0 and 2 each other's
    np.testing.assert_allclose(model.scores(csr_matrix([[1, 0, 1, 0]])), [[s02, 2 * s01, s02, 0]])


def test_shrink_is_added_to_the_denominator() -> None:
    similarity = fit_item_knn(TINY, num_neighbours=3, shrink=3.0).similarity.toarray()
    assert similarity[0, 1] == pytest.approx(2 / (sqrt(6) + 3))
    assert similarity[0, 2] == pytest.approx(1 / (2 + 3))


def test_each_item_keeps_its_nearest_and_of_ties_the_lower() -> None:
    # item 0's nearest is 1, item 2's nearest is 1; item 1 is as near to 0 as to 2 and keeps 0
    s01 = 2 / sqrt(6)
    similarity = fit_item_knn(TINY, num_neighbours=1, shrink=0.0).similarity
    expected = np.array([[0, s01, 0, 0], [s01, 0, s01, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(similarity.toarray(), expected)


@pytest.mark.parametrize("num_neighbours", [1, 4, 13, 50])
def test_item_knn_equals_a_loop_over_pairs(num_neighbours: int) -> None:
    interactions = random_interactions()
    x = interactions.toarray().astype(float)
    expected = np.zeros((14, 14))
    for j in range(14):
        near = [
            (-float(x[:, i] @ x[:, j]) / (np.linalg.norm(x[:, i]) * np.linalg.norm(x[:, j]) + 2.5), i)
            for i in range(14)
            if i != j
        ]
        for value, i in sorted(near)[:num_neighbours]:
            expected[i, j] = -value
    model = fit_item_knn(interactions, num_neighbours=num_neighbours, shrink=2.5)
    np.testing.assert_allclose(model.similarity.toarray(), expected, atol=1e-12)


def test_ease_of_two_items_is_worked_by_hand() -> None:
    # X'X = [[2, 2], [2, 3]]; with one other item the weight is ridge regression on it: <x_i, x_j> / (<x_i, x_i> + l2)
    model = fit_ease(csr_matrix([[1, 1], [1, 1], [0, 1]]), l2=0.5, dtype=torch.float64)
    np.testing.assert_allclose(model.weight, [[0, 2 / 2.5], [2 / 3.5, 0]])
    np.testing.assert_allclose(model.scores(csr_matrix([[1, 0], [1, 1]])), [[0, 0.8], [2 / 3.5, 0.8]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_ease_is_the_least_squares_solution_without_each_item_itself(dtype: torch.dtype, tolerance: float) -> None:
    # column j by its own least-squares problem: rows of X without column j, and sqrt(l2) I below for the penalty
    interactions, l2 = random_interactions(), 3.0
    x = interactions.toarray().astype(float)
    expected = np.zeros((14, 14))
    for j in range(14):
        others = [i for i in range(14) if i != j]
        stacked = np.vstack([x[:, others], sqrt(l2) * np.eye(13)])
        expected[others, j] = np.linalg.lstsq(stacked, np.concatenate([x[:, j], np.zeros(13)]), rcond=None)[0]
    model = fit_ease(interactions, l2=l2, dtype=dtype)
    np.testing.assert_allclose(model.weight, expected, atol=tolerance)
    np.testing.assert_allclose(model.scores(interactions), x @ expected, atol=10 * tolerance)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_small_blocks_give_the_same_scores(
    fit: Callable[[csr_matrix], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    interactions = random_interactions()
    whole = fit(interactions).scores(interactions)
    monkeypatch.setattr(references, "BLOCK_COLUMNS", 4)
    np.testing.assert_allclose(fit(interactions).scores(interactions), whole, atol=1e-6)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_score_depends_on_the_row_s_own_history_alone(fit: Callable[[csr_matrix], Reference]) -> None:
    interactions = random_interactions()
    model = fit(interactions)
    together = model.scores(interactions[:5])
    assert together.shape == (5, 14)
    for user in range(5):
        np.testing.assert_allclose(model.scores(interactions[user]), together[user : user + 1], atol=1e-6)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_users_without_history_and_items_without_users_are_scored(fit: Callable[[csr_matrix], Reference]) -> None:
    scores = fit(TINY).scores(csr_matrix(np.zeros((1, 4))))
    assert np.isfinite(scores).all()
    assert scores[0, 3] == 0


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_history_of_other_items_is_refused(fit: Callable[[csr_matrix], Reference]) -> None:
    with pytest.raises(ValueError, match="has 5 items, the training interactions 4"):
        fit(TINY).scores(csr_matrix(np.zeros((1, 5))))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_neighbours must be 1 or more, got 0"):
        fit_item_knn(TINY, num_neighbours=0, shrink=0.0)
    with pytest.raises(ValueError, match=r"shrink must be 0 or more, got -1\.0"):
        fit_item_knn(TINY, num_neighbours=1, shrink=-1.0)
    with pytest.raises(ValueError, match=r"l2 must be above 0, got 0\.0"):
        fit_ease(TINY, l2=0.0)


def test_every_reference_is_in_the_suite() -> None:
    assert len(FITS) == 3
