from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from isthmus.backbones.adi import ADIBackbone, FusionKind, MixtureBottom, NetworkAdaptation
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import DomainBatchNorm, SharedBatchNorm
from isthmus.layers.interest_adaptation import NetworkSE


def adi(
    *,
    num_shared: int = 1,
    fusion: FusionKind = "concat",
    gate: Literal["softmax", "linear"] = "softmax",
    network_adaptation: NetworkAdaptation | None = None,
) -> ADIBackbone:
    torch.manual_seed(4)
    return ADIBackbone(
        3,
        6,
        [5],
        2,
        num_shared=num_shared,
        gate=gate,
        fusion=fusion,
        indicator_dim=4,
        forward_dims=(),
        norm=lambda dim: DomainBatchNorm(3, dim),
        own_norm=SharedBatchNorm,
        dropout=0.0,
        network_adaptation=network_adaptation,
    )


def test_the_paper_has_a_network_for_each_domain_and_each_shared_one() -> None:
    bottom = adi(num_shared=2).bottom
    assert isinstance(bottom, MixtureBottom)
    assert len(bottom.shared.networks) == 2
    assert len(bottom.specific.own_networks) == 3


def test_one_block_stands_before_each_specific_and_each_shared_network() -> None:
    backbone = adi(network_adaptation=lambda: NetworkSE(3, 2))  # D + K = 3 + 1: the paper's 4-SE
    blocks = [module for module in backbone.modules() if isinstance(module, NetworkSE)]
    assert len(blocks) == 4


def test_a_specific_networks_block_changes_its_own_domain_alone() -> None:
    backbone, x, slices = (
        adi(network_adaptation=lambda: NetworkSE(3, 2)).eval(),
        torch.randn(6, 6),
        DomainSlices((0, 2, 4, 6)),
    )
    before: Tensor = backbone(x, slices)
    assert isinstance(backbone.bottom, MixtureBottom)
    block = backbone.bottom.own_adaptations[1]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(1.0)
    after: Tensor = backbone(x, slices)
    changed = (before != after).any(dim=1).tolist()
    assert changed == [False, False, True, True, False, False]


def test_network_mul_refuses_what_it_would_not_use() -> None:
    with pytest.raises(ValueError, match="num_shared=2"):
        adi(num_shared=2, fusion="network_mul")
    with pytest.raises(ValueError, match="no network adaptation"):
        adi(fusion="network_mul", network_adaptation=nn.Identity)


def test_the_linear_gate_weighs_by_the_signed_sum() -> None:
    backbone = adi(num_shared=2, gate="linear")
    assert isinstance(backbone.bottom, MixtureBottom)
    gate = backbone.bottom.shared.gate
    assert gate is not None
    with torch.no_grad():
        gate.linear.weight.zero_()
        gate.linear.bias.copy_(torch.tensor([3.0, -1.0]))  # 3 / 2 and -1 / 2
    weights: Tensor = gate(torch.zeros(4))
    assert weights.tolist() == [1.5, -0.5]
