import numpy as np
import pyarrow as pa

from isthmus.data.vocabularies import number_of_code, row_of_code, vocabulary_of


def test_values_are_numbered_from_one_in_the_order_of_their_text() -> None:
    vocabulary = vocabulary_of([pa.array(["b", "10", None]), pa.array(["9", "b", "é"])])
    assert vocabulary.values.to_pylist() == ["10", "9", "b", "é"]
    assert vocabulary.size == 5
    assert vocabulary.rows(pa.array(["b", "unheard", None, "10"])).tolist() == [3, 0, 0, 1]


def test_only_codes_of_training_have_rows() -> None:
    assert row_of_code(np.array([4, 1, 4]), 6).tolist() == [0, 1, 0, 0, 2, 0]


def test_codes_without_a_row_have_numbers_above_all_rows() -> None:
    assert number_of_code(np.array([0, 1, 0, 0, 2, 0])).tolist() == [3, 1, 4, 5, 2, 6]
    assert number_of_code(np.array([0, 0])).tolist() == [1, 2]


def test_an_empty_vocabulary_has_the_unseen_row_alone() -> None:
    vocabulary = vocabulary_of([pa.array([], pa.string())])
    assert vocabulary.size == 1
    assert vocabulary.rows(pa.array(["x"])).tolist() == [0]
