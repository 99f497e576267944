"""Which click model is meant: the settings of all kinds, and the one place that builds a model to put weights into."""

from collections.abc import Mapping, Sequence
from typing import Annotated, assert_never

from pydantic import Field
from torch import nn

from isthmus.batch import RankingSizes
from isthmus.models.cdanet import AugmentationNetwork, CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRModel, CTRSettings
from isthmus.models.ddtcdr import DDTCDRModel, DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings, KnowledgeExtractor, PlugInModel

AnyRankingSettings = CTRSettings | CDAnetSettings | DDTCDRSettings | KEEPSettings | FactorisationMachineSettings
RankingSettings = Annotated[AnyRankingSettings, Field(discriminator="kind")]
"""Settings of one click model, told apart by `kind`; for fields of other settings."""


def is_for_targets_alone(settings: AnyRankingSettings) -> bool:
    """Whether what scores rows of other domains than the targets is never trained.

    That is KEEP's target model, and CDAnet's towers where its first stage is left out.
    """
    match settings:
        case KEEPSettings():
            return True
        case CDAnetSettings():
            return settings.stages == "augmentation"
        case _:
            return False


def new_ranker(
    settings: AnyRankingSettings,
    *,
    domain_names: Sequence[str],
    sizes: RankingSizes,
    table_rows: Mapping[str, int],
    targets: Sequence[int],
) -> nn.Module:
    """An untrained model of the form that training ends with.

    Args:
        targets: of CDAnet: the domains that have an augmentation network, by number.
    """
    num_domains = len(domain_names)
    match settings:
        case CTRSettings():
            return CTRModel(settings, num_domains=num_domains, sizes=sizes, table_rows=table_rows)
        case DDTCDRSettings():
            return DDTCDRModel(settings, num_domains=num_domains, sizes=sizes, table_rows=table_rows)
        case FactorisationMachineSettings():
            return FactorisationMachine(settings, num_domains=num_domains, sizes=sizes, table_rows=table_rows)
        case KEEPSettings():
            extractor = KnowledgeExtractor(settings, num_domains=num_domains, sizes=sizes, table_rows=table_rows)
            return PlugInModel(settings, extractor, num_domains=num_domains, sizes=sizes, table_rows=table_rows)
        case CDAnetSettings():
            translation = TranslationNetwork(settings, domain_names=domain_names, sizes=sizes, table_rows=table_rows)
            return CDAnet(translation, {target: AugmentationNetwork(translation, target) for target in targets})
        case other:
            assert_never(other)
