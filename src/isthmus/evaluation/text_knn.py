"""Text-kNN for labelled rows: how like the row's item is, in its text, to what its user took before."""

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix

from isthmus.data.dataset import Dataset, Split
from isthmus.data.features import HistoryReader
from isthmus.errors import InputError
from isthmus.schema import Scope

BLOCK = 4096


def text_knn_scores(dataset: Dataset, split: Split, scope: Scope) -> Float[np.ndarray, " row"]:
    """For each labelled row, the mean cosine of its item's text to those of its user's history before the row.

    A text is the vector that networks read, less the mean of all items', for what all texts share says nothing. An item
    without words is like none; so is one that training does not know. A row without a history has 0.

    Args:
        scope: the histories are of the row's `own` domain, of all `other` domains, or of `all`.

    Raises:
        InputError: the dataset does not have exactly one text field of items, the same in all domains.
    """
    assert dataset.impressions is not None
    rows = dataset.impressions[split]
    directions = unit_texts(dataset)
    reader = HistoryReader(dataset)
    score = np.zeros(rows.num_rows)
    for start in range(0, rows.num_rows, BLOCK):
        block = np.arange(start, min(start + BLOCK, rows.num_rows))
        domain = np.asarray(rows.domain[block], np.int64)
        values, offsets = reader.lists(reader.event_span(rows, block, split), domain, scope=scope)
        history = csr_matrix((np.ones(len(values)), values, offsets), shape=(len(block), dataset.num_items))
        of_item = directions[np.asarray(rows.item_row[block], np.int64)]
        score[block] = ((history @ directions) * of_item).sum(axis=1) / np.maximum(np.diff(offsets), 1)
    return score


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
