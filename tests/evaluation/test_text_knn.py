"""Text-kNN for labelled rows, by hand on four items whose texts are vectors of two numbers."""

from pathlib import Path

import numpy as np
import pytest
from tests.histories import EVENTS, by_item
from tests.small_logs import declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.evaluation.ranking_references import reference_logits
from isthmus.evaluation.text_knn import text_knn_scores, unit_texts

# Their mean is (10, 10); less it they are a (1, 0), b (3, 4), c (-4, 3) and z (0, -7).
VECTORS = {"a": (11, 10), "b": (13, 14), "c": (6, 13), "z": (10, 3)}
TEXT = {"name": "words", "side": "item", "kind": "text", "column": "item", "vectors": "words.txt"}


def dataset_of(folder: Path, vectors: dict[str, tuple[int, int]], *, with_text: bool = True) -> Dataset:
    fields = declaration()["fields"] + ([TEXT] if with_text else [])
    content = declaration(
        domains={"shop": {}, "video": {}},
        ranking={"negatives": {"draw": "uniform", "per_positive": 1, "items": "training"}},
        fields=fields,
    )
    log = write_log(folder / "log", content, events=EVENTS)
    lines = [f"{item} {x} {y}" for item, (x, y) in vectors.items()]
    (folder / "log" / "words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare(log, folder / "dataset")


def test_a_rows_score_is_the_mean_cosine_of_centred_texts_to_the_users_history(tmp_path: Path) -> None:
    small = dataset_of(tmp_path, VECTORS)
    # cos(b, a) = 3/5, cos(c, a) = -4/5, cos(b, z) = -4/5, cos(c, z) = -3/5; of both, the mean.
    own = reference_logits("text-kNN, own domain", small, "test").numpy()
    everywhere = reference_logits("text-kNN, all domains", small, "test").numpy()
    assert by_item(small, own) == pytest.approx({"b": 0.6, "c": -0.8})
    assert by_item(small, text_knn_scores(small, "test", "other")) == pytest.approx({"b": -0.8, "c": -0.6})
    assert by_item(small, everywhere) == pytest.approx({"b": -0.1, "c": -0.7})


def test_an_item_without_words_is_like_none_and_moves_no_mean(tmp_path: Path) -> None:
    # Without z's the mean is (10, 37/3): what is left has a (1, -7/3), b (3, 5/3) and c (-4, 2/3).
    small = dataset_of(tmp_path, {item: vector for item, vector in VECTORS.items() if item != "z"})
    texts = unit_texts(small)
    names = ["", *small.vocabulary("item")]
    assert not texts[names.index("z")].any()
    assert not texts[0].any()
    expected = np.array([3, 5 / 3]) / np.hypot(3, 5 / 3)
    assert texts[names.index("b")].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert by_item(small, text_knn_scores(small, "test", "other")) == {"b": 0.0, "c": 0.0}


def test_a_dataset_without_a_text_is_refused(tmp_path: Path) -> None:
    small = dataset_of(tmp_path, VECTORS, with_text=False)
    with pytest.raises(InputError, match="declares no text field of items"):
        text_knn_scores(small, "test", "own")
