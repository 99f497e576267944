"""What each user took before: the positives of training, and after them those of validation."""

import numpy as np

from isthmus.data.dataset import History
from isthmus.data.splits import TEST, TRAIN, Taken

NO_FOLD = -2  # of validation rows in a history: every labelled row that may see them does


def build_history(taken: Taken, split: np.ndarray, num_users: int, fold: np.ndarray | None = None) -> History:
    """Per user row, the training positives and then those of validation, each in order of time, else of item row.

    Args:
        taken: vocabulary rows; a row 0 (a user or an item that training does not know) has no place in a history.
        split: the split of each row; test rows are left out.
        num_users: rows of the user vocabulary.
        fold: of each row; kept of training rows, where labelled rows must not see those of their own fold.
    """
    rows = np.flatnonzero((split != TEST) & (taken.user > 0) & (taken.item > 0))
    chosen, part = taken.select(rows), split[rows]
    by_content = (chosen.domain, chosen.item)
    keys = by_content if chosen.time is None else (*by_content, chosen.time)
    order = np.lexsort((*keys, part, chosen.user))
    counts = np.bincount(chosen.user, minlength=num_users)
    train_counts = np.bincount(chosen.user[part == TRAIN], minlength=num_users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return History(
        offsets=offsets,
        train_end=offsets[:-1] + train_counts,
        item_row=chosen.item[order].astype(np.int32),
        domain=chosen.domain[order].astype(np.int16),
        time=None if chosen.time is None else chosen.time[order],
        fold=None if fold is None else np.where(part == TRAIN, fold[rows], NO_FOLD)[order].astype(np.int8),
    )
