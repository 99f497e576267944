"""What gates say of the parts: the numbers that the networks themselves use, by hand where a gate is set."""

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isthmus.backbones.part_weights import part_weights
from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    DNNSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
    build_backbone,
)
from isthmus.domains import DomainSlices
from isthmus.layers.experts import Gate

SLICES = DomainSlices.from_counts([3, 2])


def backbone_of(settings: AnyBackboneSettings) -> Any:  # parts are reached by name
    torch.manual_seed(0)
    return build_backbone(settings, num_domains=2, in_dim=4, out_dim=3).eval()


def rows() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def set_gate(gate: nn.Module, bias: list[float]) -> None:
    assert isinstance(gate, Gate)
    with torch.no_grad():
        gate.linear.weight.zero_()
        gate.linear.bias.copy_(torch.tensor(bias))


def test_mmoe_names_its_experts_and_a_domain_has_its_own_gate() -> None:
    backbone = backbone_of(MMoESettings(hidden_dims=(4,), num_experts=2, norm="none"))
    set_gate(backbone.own_gates[0], [log(3.0), 0.0])
    set_gate(backbone.own_gates[1], [0.0, 0.0])
    found = part_weights(backbone, rows(), SLICES)
    assert found is not None
    assert found.names == ("expert 1", "expert 2")
    torch.testing.assert_close(found.weight, torch.tensor([[0.75, 0.25]] * 3 + [[0.5, 0.5]] * 2))


def test_ple_weighs_the_experts_of_its_last_level() -> None:
    backbone = backbone_of(PLESettings(hidden_dims=(4,), num_specific=1, num_shared=2, num_levels=2, norm="none"))
    set_gate(backbone.levels[1].own_gates[0], [0.0, log(2.0), 0.0])  # 1, 2, 1 of 4
    found = part_weights(backbone, rows(), SLICES)
    assert found is not None
    assert found.names == ("own expert 1", "shared expert 1", "shared expert 2")
    torch.testing.assert_close(found.weight[:3], torch.tensor([[0.25, 0.5, 0.25]] * 3))
    torch.testing.assert_close(found.weight.sum(dim=1), torch.ones(5))
    # what the level reads is the stream of the level before it, not the input
    own, _ = backbone.levels[0](rows(), rows(), SLICES, backbone.shared_gates[0])
    torch.testing.assert_close(found.weight[3:], backbone.levels[1].own_gates[1](own[3:]))


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_adi_says_how_open_its_fusion_is(fusion: str) -> None:
    backbone = backbone_of(ADISettings(hidden_dims=(4,), fusion=fusion, num_shared=2, norm="none"))  # type: ignore[arg-type]
    mixture = backbone.bottom
    with torch.no_grad():
        for parameter in mixture.fusion.parameters():
            parameter.zero_()
        if fusion == "sum":
            mixture.fusion.shared_bias.fill_(log(4.0))  # a sigmoid of .8
    found = part_weights(backbone, rows(), SLICES)
    assert found is not None
    assert found.names == ("specific", "shared", "shared network 1", "shared network 2")
    expected = [0.5, 0.5] if fusion == "concat" else [0.8, 0.2]
    torch.testing.assert_close(found.weight[:, :2], torch.tensor([expected] * 5))
    logits = mixture.shared.gate.linear(mixture.indicator(1)).tolist()
    share = exp(logits[0]) / (exp(logits[0]) + exp(logits[1]))
    torch.testing.assert_close(found.weight[3:, 2:], torch.tensor([[share, 1 - share]] * 2))


@pytest.mark.parametrize(
    "settings",
    [
        DNNSettings(hidden_dims=(4,)),
        SharedBottomSettings(hidden_dims=(4,)),
        StarSettings(hidden_dims=(4,)),
        ADISettings(hidden_dims=(4,), fusion="network_mul"),
    ],
)
def test_a_network_without_gates_says_nothing(settings: AnyBackboneSettings) -> None:
    assert part_weights(backbone_of(settings), rows(), SLICES) is None
