import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from isthmus.backbones.star import StarBackbone
from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import StarLinear
from isthmus.layers.domain_norm import NoNorm, PartitionedNorm


def test_every_domain_starts_as_the_shared_network() -> None:
    torch.manual_seed(0)
    backbone = StarBackbone(3, 4, [5], 2, norm=NoNorm, dropout=0.0)
    first, last = backbone.network.linears[0], backbone.output
    assert isinstance(first, StarLinear)
    x = torch.randn(6, 4)
    expected: Tensor = last.shared(functional.relu(first.shared(x)))
    torch.testing.assert_close(backbone(x, DomainSlices((0, 1, 3, 6))), expected)


def test_the_output_can_be_negative() -> None:
    torch.manual_seed(0)
    backbone = StarBackbone(2, 4, [8], 2, norm=lambda dim: PartitionedNorm(2, dim), dropout=0.0)
    y: Tensor = backbone(torch.randn(40, 4), DomainSlices((0, 20, 40)))
    assert y.min() < 0 < y.max()


def test_the_input_is_normalised_by_domain() -> None:
    backbone = StarBackbone(2, 1, [], 1, norm=lambda dim: PartitionedNorm(2, dim), dropout=0.0)
    x = torch.tensor([[0.0], [2.0], [100.0], [102.0]])  # each domain: mean in the middle, so -1 and 1
    y: Tensor = backbone(x, DomainSlices((0, 2, 4)))
    torch.testing.assert_close(y[:2], y[2:])


def test_short_spans_go_through_a_layer_together_with_what_long_ones_give_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    one_by_one = StarBackbone(3, 4, [6, 5], 2, norm=lambda dim: PartitionedNorm(3, dim), dropout=0.0).double()
    together = copy.deepcopy(one_by_one)
    x, factor = torch.randn(60, 4, dtype=torch.float64), torch.randn(60, 2, dtype=torch.float64)
    found = []
    for backbone, long_span in ((together, 21), (one_by_one, 20)):  # 60 rows, three domains
        monkeypatch.setattr("isthmus.layers.routing.LONG_SPAN", long_span)
        rows = x.clone().requires_grad_()
        y: Tensor = backbone(rows, DomainSlices((0, 10, 35, 60)))
        torch.autograd.backward(y, factor)
        found.append([y, rows.grad, *(parameter.grad for parameter in backbone.parameters()), *backbone.buffers()])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)
    assert len(found[0]) > 40
