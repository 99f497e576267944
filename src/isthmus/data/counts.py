"""What a log holds, counted while texts are still known; `describe` shows it."""

from typing import Any

import numpy as np

from isthmus.data.dataset import SPLITS
from isthmus.data.splits import TEST, TRAIN, VALID, Taken
from isthmus.schema import Schema


def count_log(
    schema: Schema, everything: Taken, distinct: Taken, kept: Taken, split: np.ndarray, item_row: np.ndarray
) -> dict[str, Any]:
    """The manifest's `counts`: by domain in the order of the declaration, and the overlaps of each pair of domains.

    Args:
        everything: all positives of the log; `distinct`: without repeats; `kept`: without those the split dropped.
        split: of `kept`.
        item_row: of `kept`, 0 for an item that training does not know.
    """
    names = schema.domain_names
    known = split != TEST
    users = [np.unique(kept.user[known & (kept.domain == d)]) for d in range(len(names))]
    items = [np.unique(kept.item[known & (kept.domain == d)]) for d in range(len(names))]
    domains: dict[str, Any] = {}
    for number, name in enumerate(names):
        ours = kept.domain == number
        tested = kept.item[ours & (split == TEST)]
        domains[name] = {
            "positives": int((everything.domain == number).sum()),
            "repeats": int((everything.domain == number).sum() - (distinct.domain == number).sum()),
            "dropped_by_split": int((distinct.domain == number).sum() - ours.sum()),
            "users": len(users[number]),
            "items": len(items[number]),
            "rows": {part: int((ours & (split == place)).sum()) for place, part in enumerate(SPLITS)},
            "item_not_in_training": {
                "valid": int((ours & (split == VALID) & (item_row == 0)).sum()),
                "test": int((ours & (split == TEST) & (item_row == 0)).sum()),
            },
            "test_item_new_to_domain": int((~np.isin(tested, items[number])).sum()),
            "user_not_in_training": {
                part: int((ours & (split == place) & ~np.isin(kept.user, kept.user[split == TRAIN])).sum())
                for place, part in ((VALID, "valid"), (TEST, "test"))
            },
        }
    return {
        "domains": domains,
        "user_overlap": [[len(np.intersect1d(a, b, assume_unique=True)) for b in users] for a in users],
        "item_overlap": [[len(np.intersect1d(a, b, assume_unique=True)) for b in items] for a in items],
    }
