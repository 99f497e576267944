"""The ways of the benchmark of domain segments give the same values and gradients."""

import pytest
import torch
from benchmarks.segments import WAYS, equal_counts, uneven_counts
from torch import Tensor


@pytest.mark.parametrize("counts", [[5, 2, 9], [4, 4, 4]])
def test_every_way_gives_what_segments_give(counts: list[int]) -> None:
    torch.manual_seed(0)
    x, weights, factor = torch.randn(sum(counts), 8), torch.randn(3, 12, 8), torch.randn(sum(counts), 12)
    found: dict[str, list[Tensor]] = {}
    for name, way in WAYS.items():
        rows, own = x.clone().requires_grad_(), [weight.clone().requires_grad_() for weight in weights]
        y = way(rows, counts, own)
        found[name] = [y.detach(), *torch.autograd.grad(y, [rows, *own], factor)]
    assert len(found) == 4
    for tensors in found.values():
        torch.testing.assert_close(tensors, found["by segment"], rtol=1e-5, atol=1e-5)


def test_counts_are_what_they_say() -> None:
    assert equal_counts(100, 3) == [33, 33, 33]
    assert uneven_counts(90, 3) == [20, 30, 40]  # shares 1, 1.5 and 2
