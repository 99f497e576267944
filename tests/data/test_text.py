"""Texts as vectors: of training words alone, the same every time; word vectors read with their faults named."""

from pathlib import Path

import numpy as np
import pytest

from isthmus.data.text import tfidf_vectors, word_vectors
from isthmus.errors import InputError

TEXTS = ["Green tea", "green tea, loose", "Steel pan", "pan of steel", "", "unheard"]
TRAINING = np.array([True, True, True, True, True, False])


def test_texts_of_the_same_words_are_near_and_an_empty_one_is_zero() -> None:
    vectors = tfidf_vectors(TEXTS, TRAINING, dim=2)
    assert vectors.shape == (6, 2)
    assert vectors[0] @ vectors[1] > 0.5
    assert abs(vectors[0] @ vectors[2]) < 1e-6
    assert vectors[4].tolist() == [0.0, 0.0]


def test_words_that_only_held_out_texts_have_say_nothing() -> None:
    vectors = tfidf_vectors(TEXTS, TRAINING, dim=2)
    assert vectors[5].tolist() == [0.0, 0.0]
    changed = tfidf_vectors([*TEXTS[:5], "something else"], TRAINING, dim=2)
    assert np.array_equal(changed[:5], vectors[:5])


def test_more_numbers_than_the_texts_have_are_zeros() -> None:
    vectors = tfidf_vectors(TEXTS, TRAINING, dim=40)
    assert vectors.shape == (6, 40)
    assert not vectors[:, 10:].any()


def test_a_text_is_the_mean_of_its_words(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    file.write_text("green 1 2\ntea 3 6\nrest 9 9\n", encoding="utf-8")
    assert word_vectors(["Green TEA", "green unknown", ""], file).tolist() == [[2, 4], [1, 2], [0, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("green 1 2\ntea 3\n", "line 2: 1 numbers, 2 in line 1"),
        ("green 1 x\n", "line 1: .x. is not a finite number"),
        ("", "empty"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "glove.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        word_vectors(["green"], file)
