"""Whether validation rows can choose an epoch in every stage, known before anything is trained."""

from itertools import pairwise
from typing import assert_never

from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings
from isthmus.models.ddtcdr import DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings
from isthmus.models.ranker import AnyRankingSettings
from isthmus.training.ranking import RankingTrainingSettings
from isthmus.training.ranking_stages import augmented, domain_numbers, targets_of


def require_both_labels(dataset: Dataset, settings: AnyRankingSettings, training: RankingTrainingSettings) -> None:
    """Raises InputError where a stage's validation rows have no domain with labels of both kinds."""
    assert dataset.impressions is not None
    valid = dataset.impressions["valid"]
    assert valid.label is not None
    bounds = valid.domain_bounds(dataset.num_domains)
    labels = [valid.label[start:end] for start, end in pairwise(bounds)]
    for domains in stage_domains(dataset, settings, training):
        if not any((labels[d] > 0).any() and (labels[d] == 0).any() for d in domains):
            names = ", ".join(dataset.schema.domain_names[d] for d in domains)
            raise InputError(
                f"{dataset.path}: validation rows of {names} do not have both labels, so no epoch can be chosen; give "
                "the split more rows, or leave out a target domain that has too few (ranking.targets)"
            )


def stage_domains(
    dataset: Dataset, settings: AnyRankingSettings, training: RankingTrainingSettings
) -> list[tuple[int, ...]]:
    """The domains whose rows each stage of training is validated on."""
    trained_on = domain_numbers(dataset, training.domains, "training.domains")
    match settings:
        case CTRSettings() | DDTCDRSettings() | FactorisationMachineSettings():
            return [trained_on]
        case KEEPSettings():
            return [trained_on, targets_of(dataset, settings, training)]
        case CDAnetSettings():
            first = [] if settings.stages == "augmentation" else [trained_on]
            return [*first, *((target,) for target in augmented(dataset, settings, training))]
        case other:
            assert_never(other)
