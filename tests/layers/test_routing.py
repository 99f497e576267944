import pytest
import torch
from torch import Tensor

from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain


def test_rows_come_back_in_their_order_each_from_its_own_domain() -> None:
    x, seen = torch.tensor([[1.0], [2.0], [3.0]]), []

    def run(domain: int, rows: slice) -> Tensor:
        seen.append(domain)
        return x[rows] * float(10**domain)

    y = by_domain(run, DomainSlices((0, 1, 1, 3)), like=x, width=(1,))
    assert y.tolist() == [[1.0], [200.0], [300.0]]
    assert seen == [0, 2]  # a domain without rows does not run


def test_no_rows_give_the_stated_width() -> None:
    x = torch.empty(0, 4, dtype=torch.float64)
    y = by_domain(lambda domain, rows: x[rows], DomainSlices((0, 0)), like=x, width=(2, 3))
    assert y.shape == (0, 2, 3)
    assert y.dtype == torch.float64


def test_rows_that_the_slices_do_not_cover_are_never_dropped() -> None:
    x = torch.zeros(3, 1)
    with pytest.raises(AssertionError, match="3 rows, 2 in slices"):
        by_domain(lambda domain, rows: x[rows], DomainSlices((0, 2)), like=x, width=(1,))
