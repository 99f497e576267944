import torch
from torch import Tensor

from isthmus.backbones.mmoe import MMoEBackbone
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm

SLICES = DomainSlices((0, 20, 40))


def mmoe() -> MMoEBackbone:
    torch.manual_seed(3)
    return MMoEBackbone(2, 6, [8], 2, num_experts=3, forward_dims=(), norm=NoNorm, own_norm=NoNorm, dropout=0.5)


def test_gates_sum_to_one_in_training_too() -> None:
    weights = mmoe().train().gate_weights(torch.randn(40, 6), SLICES)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(40))
    assert weights.min() > 0


def test_domains_gate_the_same_row_differently() -> None:
    x = torch.randn(20, 6).repeat(2, 1)
    weights = mmoe().gate_weights(x, SLICES)
    assert (weights[:20] - weights[20:]).abs().max() > 0.1


def test_experts_do_not_collapse_to_one_unit() -> None:
    backbone = mmoe()
    optimizer = torch.optim.Adam(backbone.parameters(), lr=0.01)
    x = torch.randn(40, 6)
    for _ in range(5):
        optimizer.zero_grad()
        backbone(x, SLICES).square().sum().backward()
        optimizer.step()
    backbone.eval()
    for expert in backbone.experts:
        features: Tensor = expert(x, SLICES)
        assert torch.linalg.matrix_rank(features) > 4
