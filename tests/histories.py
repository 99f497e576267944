"""A log of ten events in two domains, small enough to score a test user's items by hand from the history."""

import numpy as np

from isthmus.data.dataset import Dataset

# Test has u1's positive b at time 9 and its one negative c; a is in u1's history in the same domain, z in the other.
EVENTS = """user,item,domain,time
u1,a,shop,1
u1,z,video,2
u2,a,shop,1
u2,b,shop,2
u3,b,shop,3
u3,c,shop,4
u3,z,video,5
u4,c,shop,6
u4,a,shop,8
u1,b,shop,9
"""


def by_item(dataset: Dataset, score: np.ndarray) -> dict[str, float]:
    """Scores of the test rows by the name of their item."""
    assert dataset.impressions is not None
    names = ["", *dataset.vocabulary("item")]
    return {names[row]: float(value) for row, value in zip(dataset.impressions["test"].item_row, score, strict=True)}
