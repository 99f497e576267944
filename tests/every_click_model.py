"""Every click model, small: each backbone in each place that takes one, and CDAnet's variants."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from tests.tiny_ranking import TABLES, ranking_sizes
from torch import nn

from isthmus.backbones.settings import AnyBackboneSettings, BackboneSettings
from isthmus.models.cdanet import AugmentationNetwork, CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRModel, CTRSettings
from isthmus.models.ddtcdr import DDTCDRModel, DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings, KnowledgeExtractor, PlugInModel

NAMES = ("a", "b", "c")
TARGET = 2  # of the second stage that is tried on its own
BACKBONES: dict[str, dict[str, Any]] = {
    "dnn": {},
    "independent": {"norm": "domain"},
    "shared_bottom": {"norm": "domain"},
    "cross_stitch": {},
    "mmoe": {"num_experts": 2},
    "ple": {},
    "star": {"norm": "partitioned"},
    "adi": {"norm": "domain", "num_shared": 2},
    "dcn": {"rank": 2},
}
SMALL: dict[str, Any] = {"embedding_dim": 3, "latent_dim": 4, "tower_dims": (8,), "initial_std": 0.5}


def backbone(kind: str) -> AnyBackboneSettings:
    found: AnyBackboneSettings = TypeAdapter(BackboneSettings).validate_python(
        {"kind": kind, "hidden_dims": [6], "norm": "none"} | BACKBONES[kind]
    )
    return found


def sized(num_domains: int) -> dict[str, Any]:
    return {"sizes": ranking_sizes(num_domains), "table_rows": TABLES}


def ctr(kind: str) -> nn.Module:
    settings = CTRSettings(backbone=backbone(kind), linear=True, indicator_logit=True, **SMALL)
    return CTRModel(settings, num_domains=3, **sized(3))


def translation(kind: str = "mmoe", num_domains: int = 3, **changed: Any) -> TranslationNetwork:
    settings = CDAnetSettings(extractor=backbone(kind), **SMALL, **changed)
    return TranslationNetwork(settings, domain_names=NAMES[:num_domains], **sized(num_domains))


def augmentation(kind: str = "mmoe", **changed: Any) -> AugmentationNetwork:
    return AugmentationNetwork(translation(kind, **changed), TARGET)


def cdanet(kind: str = "mmoe", num_domains: int = 3, **changed: Any) -> nn.Module:
    first = translation(kind, num_domains, **changed)
    return CDAnet(first, {target: AugmentationNetwork(first, target) for target in (0, num_domains - 1)})


def keep(kind: str) -> nn.Module:
    settings = KEEPSettings(backbone=backbone(kind), linear=True, products=True, **SMALL)
    extractor = KnowledgeExtractor(settings, num_domains=3, **sized(3))
    return PlugInModel(settings, extractor, num_domains=3, **sized(3))


def knowledge() -> nn.Module:
    settings = KEEPSettings(backbone=backbone("dnn"), linear=True, products=True, **SMALL)
    return KnowledgeExtractor(settings, num_domains=3, **sized(3))


def ddtcdr() -> nn.Module:
    settings = DDTCDRSettings(
        embedding_dim=3, hidden_dims=(6,), latent_dim=4, alpha=0.3, linear=True, products=True, initial_std=0.5
    )
    return DDTCDRModel(settings, num_domains=3, **sized(3))


def fm() -> nn.Module:
    return FactorisationMachine(
        FactorisationMachineSettings(embedding_dim=3, initial_std=0.5), num_domains=3, **sized(3)
    )


OWN = {"own_extractors": {"b": backbone("dcn"), "c": backbone("mmoe")}}
VARIANTS: dict[str, dict[str, Any]] = {
    "own": OWN,
    "gate": {"gate": "sigmoid", "linear": True},
    "no-translator": {"translator": False},
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"ctr {kind}": partial(ctr, kind) for kind in BACKBONES},
    **{f"keep {kind}": partial(keep, kind) for kind in BACKBONES},
    "knowledge": knowledge,
    **{f"translation {kind}": partial(translation, kind) for kind in BACKBONES},
    **{f"translation {name}": partial(translation, **changed) for name, changed in VARIANTS.items()},
    "translation of two": partial(translation, num_domains=2),
    **{f"augmentation {kind}": partial(augmentation, kind) for kind in BACKBONES},
    **{f"augmentation {name}": partial(augmentation, **changed) for name, changed in VARIANTS.items()},
    **{f"cdanet {kind}": partial(cdanet, kind) for kind in BACKBONES},
    **{f"cdanet {name}": partial(cdanet, **changed) for name, changed in VARIANTS.items()},
    "cdanet of two": partial(cdanet, num_domains=2),
    "ddtcdr": ddtcdr,
    "fm": fm,
}
