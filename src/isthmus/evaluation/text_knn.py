"""Text-kNN for labelled rows: how like the row's item is, in its text, to what its user took before."""

import numpy as np
from jaxtyping import Float

from isthmus.data.dataset import Dataset, Split
from isthmus.errors import InputError
from isthmus.evaluation.item_knn import sums_over_histories
from isthmus.schema import Scope


def text_knn_scores(dataset: Dataset, split: Split, scope: Scope) -> Float[np.ndarray, " row"]:
    """For each labelled row, the mean cosine of its item's text to those of its user's history before the row.

    A text is the vector that networks read, less the mean of all items', for what all texts share says nothing. An item
    without words is like none; so is one that training does not know. A row without a history has 0.

    Args:
        scope: the histories are of the row's `own` domain, of all `other` domains, or of `all`.

    Raises:
        InputError: the dataset does not have exactly one text field of items, the same in all domains.
    """
    total, length = sums_over_histories(dataset, split, scope, unit_texts(dataset))
    mean: np.ndarray = total / np.maximum(length, 1)
    return mean


def unit_texts(dataset: Dataset) -> Float[np.ndarray, "item dim"]:
    """Every item's text, less the mean of all that there are, of length 1; zero without words and in row 0."""
    fields = [field for field in dataset.schema.side_fields("item") if field.kind == "text"]
    if len(fields) != 1 or dataset.is_by_domain(fields[0]):
        raise InputError(
            f"{dataset.path}: text-kNN compares items by their one text, the same in all domains; the dataset declares "
            f"{', '.join(field.name for field in fields) or 'no text field of items'}"
        )
    stored = dataset.features[fields[0].name]
    assert isinstance(stored, np.ndarray)
    texts = np.array(stored, dtype=np.float64)
    texts[0] = 0.0
    has_words = texts.any(axis=1)
    texts[has_words] -= texts[has_words].mean(axis=0)
    length = np.linalg.norm(texts, axis=1, keepdims=True)
    np.divide(texts, length, out=texts, where=length > 0)
    return texts
