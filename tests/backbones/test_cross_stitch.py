import pytest
import torch
from torch import Tensor, nn

from isthmus.backbones.cross_stitch import CrossStitchBackbone, CrossStitchUnit
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm, SharedBatchNorm


def test_stitches_start_near_the_identity() -> None:
    unit = CrossStitchUnit(3)
    start = [row.tolist() for row in unit.own_weights]
    assert start == [
        pytest.approx([0.9, 0.05, 0.05]),
        pytest.approx([0.05, 0.9, 0.05]),
        pytest.approx([0.05, 0.05, 0.9]),
    ]
    assert CrossStitchUnit(1).own_weights[0].tolist() == [1.0]


def test_a_network_goes_on_with_the_weighted_sum_of_all() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[10.0, 20.0]]])  # network 0 gives (1, 2), network 1 gives (10, 20)
    mixed: Tensor = CrossStitchUnit(2)(1, features)
    assert mixed.tolist() == [pytest.approx([9.1, 18.2])]  # 0.1 * 1 + 0.9 * 10, 0.1 * 2 + 0.9 * 20


def test_a_row_is_answered_by_its_domains_network_with_a_tenth_of_the_other() -> None:
    backbone = CrossStitchBackbone(2, 1, [1], 1, norm=NoNorm, dropout=0.0)
    with torch.no_grad():
        for depth in backbone.layers:
            assert isinstance(depth, nn.ModuleList)
            for number, layer in enumerate(depth):
                for key, parameter in layer.named_parameters():
                    parameter.fill_(float(number) if key.endswith("bias") else 1.0)
        for key, parameter in backbone.output.named_parameters():
            parameter.fill_(0.0 if key.endswith("bias") else 1.0)
    # x = 2: network 0 gives relu(2 + 0) = 2, network 1 relu(2 + 1) = 3.
    y: Tensor = backbone(torch.tensor([[2.0], [2.0]]), DomainSlices((0, 1, 2)))
    assert y.flatten().tolist() == pytest.approx([0.9 * 2 + 0.1 * 3, 0.1 * 2 + 0.9 * 3])


def test_renumbering_networks_and_stitches_together_changes_nothing() -> None:
    torch.manual_seed(1)
    backbone = CrossStitchBackbone(2, 3, [4, 5], 2, norm=SharedBatchNorm, dropout=0.0).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        for unit in backbone.stitches:
            assert isinstance(unit, CrossStitchUnit)
            for number, row in enumerate(unit.own_weights):
                row.copy_(torch.tensor([0.3, 0.8]) + number)
    backbone(x, DomainSlices((0, 2, 5)))
    y: Tensor = backbone.eval()(x, DomainSlices((0, 2, 5)))
    swapped = CrossStitchBackbone(2, 3, [4, 5], 2, norm=SharedBatchNorm, dropout=0.0).double().eval()
    state = {}
    for key, value in backbone.state_dict().items():
        parts = key.split(".")
        place = 2 if parts[0] in ("layers", "output") else 3  # layers.depth.NETWORK, output.own_layers.DOMAIN
        parts[place] = str(1 - int(parts[place]))
        state[".".join(parts)] = value.flip(0) if parts[0] == "stitches" else value
    swapped.load_state_dict(state)
    z: Tensor = swapped(x[[2, 3, 4, 0, 1]], DomainSlices((0, 3, 5)))
    torch.testing.assert_close(z, y[[2, 3, 4, 0, 1]], rtol=0, atol=1e-12)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="one hidden layer or more"):
        CrossStitchBackbone(2, 3, [], 2, norm=NoNorm, dropout=0.0)
