"""Statistics of training rows, transcribed as plain loops."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.statistic_rows import ROW, Row, statistic

from isthmus.schema import Scope


def mean_of(values: list[float], prior: float, usual: float) -> float:
    return (sum(values) + prior * usual) / (len(values) + prior)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=14), st.sampled_from(["own", "other", "all"]), st.booleans())
def test_an_adjusted_mean_is_what_plain_loops_give(rows: list[Row], scope: Scope, clock: bool) -> None:
    every = range(len(rows))

    def before(i: int) -> list[int]:
        """What row i may know."""
        if clock:
            return [j for j in every if rows[j][5] and rows[j][3] < rows[i][3]]
        return [j for j in every if rows[j][5] and (not rows[i][5] or rows[j][4] != rows[i][4])]

    def shrunk(known: list[int], is_counted: Callable[[int], bool], value: dict[int, float]) -> float | None:
        if not known:
            return None
        usual = sum(value[j] for j in known) / len(known)
        return mean_of([value[j] for j in known if is_counted(j)], 2.0, usual)

    found = statistic(rows, scope, "adjusted_mean", clock=clock)
    label = {j: float(rows[j][2]) for j in every}
    for i, row in enumerate(rows):
        mine = set(before(i))
        above: dict[int, float] = {}
        for j in mine:
            known = [m for m in before(j) if m in mine and rows[m][1] == rows[j][1]]
            usual = shrunk(known, lambda m, j=j: rows[j][0] > 0 and rows[m][0] == rows[j][0], label)  # type: ignore[misc]
            if usual is not None:
                above[j] = label[j] - usual
        adjusted: dict[int, float] = {}
        for j in mine:
            known = [m for m in before(j) if m in above]
            adjusted[j] = label[j] - (shrunk(known, lambda m, j=j: rows[m][6] == rows[j][6], above) or 0.0)  # type: ignore[misc]
        known = [j for j in mine if scope == "all" or (rows[j][1] == row[1]) == (scope == "own")]
        expected = shrunk(known, lambda j, row=row: row[0] > 0 and rows[j][0] == row[0], adjusted)  # type: ignore[misc]
        assert found[i] == pytest.approx(0.5 if expected is None else expected)
