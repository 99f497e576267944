import torch
from pydantic import TypeAdapter
from torch import Tensor

from isthmus.backbones.dcn import DCNBackbone
from isthmus.backbones.settings import BackboneSettings, DCNSettings, build_backbone
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm

SLICES = DomainSlices((0, 2, 4))


def dcn(**changed: object) -> DCNBackbone:
    settings = DCNSettings.model_validate({"hidden_dims": (5,), "norm": "none"} | changed)
    backbone = build_backbone(settings, num_domains=2, in_dim=3, out_dim=2)
    assert isinstance(backbone, DCNBackbone)
    return backbone


def test_the_output_reads_both_networks_which_read_the_input() -> None:
    torch.manual_seed(2)
    backbone, x = dcn(), torch.randn(4, 3)
    y: Tensor = backbone(x, SLICES)
    cross, deep = backbone.cross(x), backbone.deep(x, SLICES)
    weight, bias = backbone.output.weight, backbone.output.bias
    expected = cross @ weight[:, :3].T + deep @ weight[:, 3:].T + bias
    torch.testing.assert_close(y, expected)
    assert cross.shape == (4, 3)
    assert deep.shape == (4, 5)


def test_one_network_serves_all_domains() -> None:
    torch.manual_seed(2)
    backbone, x = dcn(), torch.randn(2, 3).repeat(2, 1)
    y: Tensor = backbone(x, SLICES)
    assert torch.equal(y[:2], y[2:])


def test_a_product_of_two_inputs_is_fitted_exactly_without_the_deep_part() -> None:
    # x0 x1 is one cross layer: W's first row reads x1, and the output takes the first number less x0.
    backbone = DCNBackbone(2, [3], 1, num_cross_layers=1, rank=None, norm=NoNorm, dropout=0.0, zero_start=True)
    (layer,) = backbone.cross.layers
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.get_parameter("weight")[0, 1] = 1.0
        backbone.output.weight[0, 0] = 1.0
    x = torch.tensor([[2.0, 5.0], [-3.0, 4.0]])
    y: Tensor = backbone(x, DomainSlices((0, 1, 2)))
    assert y[:, 0].tolist() == [2 + 10, -3 - 12]


def test_settings_choose_depth_and_rank() -> None:
    read: TypeAdapter[BackboneSettings] = TypeAdapter(BackboneSettings)
    settings = read.validate_python({"kind": "dcn", "hidden_dims": [5]})
    assert settings == DCNSettings(hidden_dims=(5,), num_cross_layers=3, rank=None)
    assert len(dcn(num_cross_layers=4).cross.layers) == 4

    def weights(backbone: DCNBackbone) -> int:
        return sum(parameter.numel() for parameter in backbone.cross.parameters())

    assert weights(dcn()) == 3 * (9 + 3)  # three layers of 3 x 3 and a bias
    assert weights(dcn(rank=1)) == 3 * (3 + 3 + 3)
