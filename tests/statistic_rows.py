"""Rows of which statistics are asked: key, domain, label, time, fold, whether they are training, other side."""

import numpy as np
from hypothesis import strategies as st

from isthmus.data.row_statistics import row_statistics
from isthmus.schema import Scope, StatisticValue

Row = tuple[int, int, int, int, int, bool, int]
ROW = st.tuples(
    *(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1), st.integers(0, 4), st.integers(0, 2), st.booleans()),
    st.integers(1, 3),
)


def statistic(
    rows: list[Row],
    scope: Scope,
    value: StatisticValue,
    *,
    clock: bool,
    prior: float = 2.0,
) -> list[float]:
    key, domain, label, time, fold, _, other = (np.array([row[place] for row in rows], np.int64) for place in range(7))
    is_training = np.array([row[5] for row in rows])
    found = row_statistics(
        key,
        domain,
        label,
        time if clock else None,
        None if clock else np.where(is_training, fold, -1),
        is_training,
        scope=scope,
        value=value,
        num_domains=2,
        prior=prior,
        other=other,
    )
    result: list[float] = found.tolist()
    return result
