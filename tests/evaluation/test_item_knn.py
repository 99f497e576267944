"""Item-kNN for labelled rows, by hand on a log of seven training events."""

from math import sqrt
from pathlib import Path

import pytest
from tests.histories import EVENTS, by_item
from tests.small_logs import declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.evaluation.item_knn import item_knn_scores
from isthmus.evaluation.ranking_references import reference_logits


@pytest.fixture
def small(tmp_path: Path) -> Dataset:
    content = declaration(
        domains={"shop": {}, "video": {}},
        ranking={"negatives": {"draw": "uniform", "per_positive": 1, "items": "training"}},
    )
    return prepare(write_log(tmp_path / "log", content, events=EVENTS), tmp_path / "dataset")


def test_a_rows_score_is_the_sum_of_cosines_to_the_users_history_before_it(small: Dataset) -> None:
    # Training is all but the last two events: a has u1, u2; b has u2, u3; c has u3, u4; z has u1, u3.
    # cos(a, b) = 1 / sqrt(2 * 2) = 1/2, cos(a, c) = 0, cos(z, b) = cos(z, c) = 1/2.
    assert by_item(small, item_knn_scores(small, "test", "own")) == pytest.approx({"b": 0.5, "c": 0.0})
    assert by_item(small, item_knn_scores(small, "test", "other")) == pytest.approx({"b": 0.5, "c": 0.5})
    assert by_item(small, item_knn_scores(small, "test", "all")) == pytest.approx({"b": 1.0, "c": 0.5})


def test_validation_items_are_in_the_history_but_not_in_the_cosines(tmp_path: Path) -> None:
    # u1 takes c in validation, at 8: c then is in the history of u1's row at 9, and cos(c, b) = 1/2 comes beside a's.
    events = EVENTS.replace("u4,a,shop,8", "u1,c,shop,8")
    content = declaration(domains={"shop": {}, "video": {}}, ranking={"negatives": {"per_positive": 1}})
    dataset = prepare(write_log(tmp_path / "log", content, events=events), tmp_path / "dataset")
    assert by_item(dataset, item_knn_scores(dataset, "test", "own"))["b"] == pytest.approx(1.0)


def test_more_buyers_make_a_cosine_smaller(tmp_path: Path) -> None:
    events = EVENTS.replace("u4,c,shop,6", "u4,b,shop,6")  # b has u2, u3, u4: cos(a, b) = 1 / sqrt(2 * 3)
    content = declaration(domains={"shop": {}, "video": {}}, ranking={"negatives": {"per_positive": 1}})
    dataset = prepare(write_log(tmp_path / "log", content, events=events), tmp_path / "dataset")
    assert by_item(dataset, item_knn_scores(dataset, "test", "own"))["b"] == pytest.approx(1 / sqrt(6))


def test_it_is_among_the_references(small: Dataset) -> None:
    own = reference_logits("item-kNN, own domain", small, "test").numpy()
    everywhere = reference_logits("item-kNN, all domains", small, "test").numpy()
    assert by_item(small, own) == pytest.approx({"b": 0.5, "c": 0.0})
    assert by_item(small, everywhere) == pytest.approx({"b": 1.0, "c": 0.5})
