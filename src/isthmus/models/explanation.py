"""What a model's own gates say of a row: how its network weighs its parts."""

from torch import nn

from isthmus.backbones.part_weights import PartWeights, part_weights
from isthmus.backbones.settings import BackboneModule
from isthmus.batch import Features, RankingFeatures
from isthmus.domains import DomainSlices
from isthmus.models.cdanet import AugmentationNetwork, CDAnet
from isthmus.models.ctr import CTRModel
from isthmus.models.keep import PlugInModel
from isthmus.models.two_tower import Tower


def parts_of_tower(tower: Tower, features: Features, domain_slices: DomainSlices) -> PartWeights | None:
    """Of a tower's backbone; None where it has none, or one without gates."""
    if not isinstance(tower.backbone, BackboneModule):
        return None
    fields = tower.adapted_fields(features, domain_slices)
    return part_weights(tower.backbone, fields.flatten(start_dim=1), domain_slices)


def parts_of_ranker(
    model: nn.Module, features: RankingFeatures, domain_slices: DomainSlices, domain: int
) -> PartWeights | None:
    """Of what a click model scores rows of one domain by: of CDAnet, the extractor of the stage that scores them.

    None where it has no gates.
    """
    match model:
        case CTRModel() | PlugInModel():
            x = model.backbone_input(features, domain_slices)
            return part_weights(model.backbone, x, domain_slices)
        case CDAnet():
            network = model.augmentations[model.targets.index(domain)] if domain in model.targets else model.translation
            assert isinstance(network, AugmentationNetwork) or network is model.translation
            x = network.extractor_input(features, domain_slices)
            return part_weights(network.extractor.backbone_of(domain), x, domain_slices)
        case _:
            return None


def by_row(parts: PartWeights | None) -> tuple[dict[str, float], ...] | None:
    """Of each row, the weight of each part by name."""
    if parts is None:
        return None
    return tuple(dict(zip(parts.names, row, strict=True)) for row in parts.weight.tolist())
