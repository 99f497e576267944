import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isthmus.domains import DomainSlices

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((), "start at 0"),
        ((0,), "one domain or more"),
        ((1, 2), "start at 0"),
        ((0, 3, 2), "must not fall"),
        ((0, -1), "must not fall"),
    ],
)
def test_bounds_that_are_no_spans_are_refused(bounds: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainSlices(bounds)


@given(COUNTS)
def test_counts_rows_and_spans_say_the_same(counts: list[int]) -> None:
    slices = DomainSlices.from_counts(counts)
    assert slices.counts == tuple(counts)
    assert slices.num_domains == len(counts)
    assert slices.num_rows == sum(counts)
    row_domain = [domain for domain, count in enumerate(counts) for _ in range(count)]
    assert slices.row_domain().tolist() == row_domain
    column = torch.tensor(row_domain, dtype=torch.int64)
    assert DomainSlices.from_sorted(column, len(counts)) == slices
    for domain in range(len(counts)):
        assert column[slices[domain]].tolist() == [domain] * counts[domain]


def test_iteration_gives_only_domains_with_rows() -> None:
    assert list(DomainSlices((0, 2, 2, 5))) == [(0, slice(0, 2)), (2, slice(2, 5))]
    assert list(DomainSlices((0, 0))) == []


def test_a_batch_of_one_domain() -> None:
    assert DomainSlices.single(1, 4, 3).bounds == (0, 0, 4, 4)


@pytest.mark.parametrize("domain", [-1, 3])
def test_an_undeclared_domain_is_refused(domain: int) -> None:
    with pytest.raises(ValueError, match=f"domain {domain} is not one of the 3"):
        DomainSlices.single(domain, 4, 3)


@pytest.mark.parametrize(
    ("column", "message"), [([0, 2, 1], "not sorted"), ([0, 3], r"in 0\.\.2"), ([-1, 0], r"in 0\.\.2")]
)
def test_a_column_that_is_unsorted_or_undeclared_is_refused(column: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainSlices.from_sorted(torch.tensor(column), 3)
