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
