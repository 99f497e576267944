import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from isthmus.backbones.settings import ADISettings, BackboneSettings, DNNSettings, build_backbone
from isthmus.layers.domain_norm import DomainBatchNorm, PartitionedNorm, SharedBatchNorm

ADAPTER: TypeAdapter[BackboneSettings] = TypeAdapter(BackboneSettings)


def test_the_kind_chooses_the_settings() -> None:
    settings = ADAPTER.validate_python({"kind": "adi", "hidden_dims": [8, 4], "num_shared": 2})
    assert settings == ADISettings(hidden_dims=(8, 4), num_shared=2)


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_dims": [8]},  # no kind
        {"kind": "wide", "hidden_dims": [8]},
        {"kind": "dnn"},
        {"kind": "dnn", "hidden_dims": []},
        {"kind": "dnn", "hidden_dims": [0]},
        {"kind": "dnn", "hidden_dims": [8], "dropout": 1.0},
        {"kind": "dnn", "hidden_dims": [8], "num_experts": 2},
        {"kind": "independent", "hidden_dims": [8], "norm": "shared"},
        {"kind": "dcn", "hidden_dims": [8], "rank": 0},
        {"kind": "dcn", "hidden_dims": [8], "num_cross_layers": 0},
        {"kind": "adi", "hidden_dims": [8], "fusion": "network_mul", "num_shared": 2},
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)


def count(backbone: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in backbone.modules())


def test_the_norm_of_shared_layers_is_the_one_asked_for_and_own_layers_have_their_own() -> None:
    settings = ADISettings(hidden_dims=(8,), forward_dims=(4,), norm="domain")
    backbone = build_backbone(settings, num_domains=3, in_dim=5, out_dim=2)
    assert count(backbone, DomainBatchNorm) == 1  # the shared network's layer
    assert count(backbone, SharedBatchNorm) == 6  # three specific networks, three forward networks
    bare = build_backbone(settings.model_copy(update={"norm": "none"}), num_domains=3, in_dim=5, out_dim=2)
    assert count(bare, nn.BatchNorm1d) == 0
    star = build_backbone(
        ADAPTER.validate_python({"kind": "star", "hidden_dims": [8]}), num_domains=3, in_dim=5, out_dim=2
    )
    assert count(star, PartitionedNorm) == 2  # input and hidden layer


def test_a_network_adaptation_is_refused_where_it_has_no_place() -> None:
    with pytest.raises(ValueError, match="not dnn"):
        build_backbone(
            DNNSettings(hidden_dims=(8,)), num_domains=2, in_dim=4, out_dim=2, network_adaptation=nn.Identity
        )


def test_two_backbones_of_the_same_settings_share_no_storage() -> None:
    settings = ADISettings(hidden_dims=(8,), num_shared=2)
    first, second = (build_backbone(settings, num_domains=2, in_dim=4, out_dim=2) for _ in range(2))
    storages = [{t.data_ptr() for t in b.state_dict().values()} for b in (first, second)]
    assert not storages[0] & storages[1]
    assert torch.is_grad_enabled()
