import pytest
import torch
from torch import Tensor

from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain


def test_rows_come_back_in_their_order_each_from_its_own_domain() -> None:
    x, seen = torch.tensor([[1.0], [2.0], [3.0]]), []

    def run(domain: int, rows: Tensor, more: Tensor) -> Tensor:
        seen.append(domain)
        return rows * float(10**domain) + more

    y = by_domain(run, DomainSlices((0, 1, 1, 3)), x, x / 10, width=(1,))
    torch.testing.assert_close(y, torch.tensor([[1.1], [200.2], [300.3]]))
    assert seen == [0, 2]  # a domain without rows does not run


def test_no_rows_give_the_stated_width() -> None:
    x = torch.empty(0, 4, dtype=torch.float64)
    y = by_domain(lambda domain, rows: rows, DomainSlices((0, 0)), x, width=(2, 3))
    assert y.shape == (0, 2, 3)
    assert y.dtype == torch.float64


def test_rows_that_the_slices_do_not_cover_are_never_dropped() -> None:
    x = torch.zeros(3, 1)
    with pytest.raises(AssertionError, match="3 rows, 2 in slices"):
        by_domain(lambda domain, rows: rows, DomainSlices((0, 2)), x, width=(1,))


def test_gradients_come_back_to_their_rows() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    y = by_domain(lambda domain, rows: rows * (domain + 1), DomainSlices((0, 1, 1, 3)), x, width=(1,))
    torch.autograd.backward((y.flatten() * torch.tensor([1.0, 10.0, 100.0])).sum())
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 30.0, 300.0]
