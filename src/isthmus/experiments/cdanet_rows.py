"""The rows of CDAnet's tables: every method of the paper, the control without a translator, and what is searched."""

from dataclasses import replace
from typing import Any

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.evaluation.ranking_references import RankingReference
from isthmus.experiments.ranking_grid import ReferenceRow, Row
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings
from isthmus.models.ddtcdr import DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings
from isthmus.models.ranker import AnyRankingSettings
from isthmus.settings import RankingRunSettings
from isthmus.training.ranking import RankingTrainingSettings

SIMPLE, SINGLE, JOINT, CONTROL, CDANET, FIRST_ORDER, STATISTICS = (
    "simple methods",
    "one domain alone",
    "baselines on both domains",
    "control",
    "CDAnet",
    "with first-order weights",
    "with statistics of training labels",
)
FINE_TUNE = "fine-tune, MMoE, no translator"
MAIN = "CDAnet+MMoE"
BIASES: RankingReference = "user and item biases"
ELSEWHERE: RankingReference = "item bias and the user's bias elsewhere"
TREES: RankingReference = "LightGBM, all domains"
# For users new to the domain: on the statistics that networks read there.
FAIR_TREES: RankingReference = "LightGBM, without the user's own domain"
IDS = ("user_id", "item_id")

EXTRACTORS: dict[str, AnyBackboneSettings] = {
    "IndepMLP": IndependentSettings(hidden_dims=(128,), norm="none"),
    "SharedMLP": DNNSettings(hidden_dims=(128,), norm="none"),
    "PLE": PLESettings(hidden_dims=(128,), norm="none"),
    "MMoE": MMoESettings(hidden_dims=(128,), num_experts=2, norm="none"),
    "ADI": ADISettings(hidden_dims=(128,), norm="none"),
}
RATES: dict[str, Any] = {
    "training.learning_rate": {"low": 2e-4, "high": 2e-3, "log": True},
    "training.network_learning_rate": {"low": 2e-4, "high": 2e-3, "log": True},
}
FIRST_ORDER_RATES: dict[str, Any] = {
    "training.first_order_learning_rate": {"low": 0.02, "high": 0.2, "log": True},
    "training.learning_rate": RATES["training.learning_rate"],
}
# STAR alone normalises: its partitioned normalisation brings ids that were hardly trained to the size of all others.
STAR_NORM: dict[str, Any] = {"ranking.backbone.norm": {"values": ["none", "partitioned"]}}
# KEEP's second stage falls at its second epoch before it rises.
KEEP_PATIENCE = 5
DROPOUT: dict[str, Any] = {"ranking.dropout": {"values": [0.0, 0.2, 0.4]}}
WEIGHTS: dict[str, Any] = {
    "ranking.alpha": {"values": [0.01, 0.1, 1.0]},
    "ranking.beta": {"values": [0.001, 0.01, 0.1]},
}


def training(**changed: Any) -> RankingTrainingSettings:
    """How every row is trained, where its search does not say otherwise."""
    chosen: dict[str, Any] = {
        "seed": 0,
        "epochs": 40,
        "batch_size": 2048,
        "learning_rate": 5e-4,
        "network_learning_rate": 5e-4,
        "patience": 2,
    }
    return RankingTrainingSettings(**(chosen | changed))


def row(method: str, group: str, ranking: AnyRankingSettings, search: dict[str, Any], **changed: Any) -> Row:
    """A row trained on all domains."""
    return Row(method, group, RankingRunSettings(ranking=ranking, training=training(**changed)), search=search)


def baseline(method: str, backbone: AnyBackboneSettings, fields: tuple[str, ...] | None, **changed: Any) -> Row:
    """A backbone with prediction towers."""
    return row(method, JOINT, CTRSettings(fields=fields, backbone=backbone, **changed), {**RATES, **DROPOUT})


def cdanet_row(method: str, extractor: str, fields: tuple[str, ...] | None, **changed: Any) -> Row:
    """CDAnet, or what it is without one of its parts."""
    settings = CDAnetSettings(fields=fields, extractor=EXTRACTORS[extractor], **changed)
    search = {**RATES, **DROPOUT, **(WEIGHTS if settings.translator else {})}
    return row(method, CDANET if settings.translator else CONTROL, settings, search)


def all_rows(fields: tuple[str, ...] | None = IDS) -> list[Row]:
    """Every method of the paper's Table 2, KEEP, ADI's backbone, and the control, each with a search of its own."""
    single = row("MLP", SINGLE, CTRSettings(fields=fields, backbone=EXTRACTORS["SharedMLP"]), {**RATES, **DROPOUT})
    star = baseline("STAR", StarSettings(hidden_dims=(128,), norm="partitioned"), fields, indicator_logit=True)
    return [
        Row(single.method, single.group, single.settings, True, single.search),
        row("factorisation machine", JOINT, FactorisationMachineSettings(fields=fields), RATES),
        baseline("ShareBottom", SharedBottomSettings(hidden_dims=(128, 128), norm="none"), fields),
        replace(star, search={**star.search, **STAR_NORM}),
        row("DDTCDR", JOINT, DDTCDRSettings(fields=fields), {**RATES, **DROPOUT}, in_turn=True),
        baseline("MMoE", EXTRACTORS["MMoE"], fields),
        baseline("PLE", EXTRACTORS["PLE"], fields),
        row(
            "KEEP",
            JOINT,
            KEEPSettings(fields=fields, backbone=EXTRACTORS["SharedMLP"]),
            {**RATES, **DROPOUT},
            patience=KEEP_PATIENCE,
        ),
        baseline("ADI's backbone", EXTRACTORS["ADI"], fields),
        cdanet_row(FINE_TUNE, "MMoE", fields, translator=False),
        *(cdanet_row(f"CDAnet+{name}", name, fields) for name in EXTRACTORS),
    ]


def ablation_rows(main: Row) -> list[Row]:
    """CDAnet without each of its parts, as in the paper's Table 7, with the settings that were found for the whole."""
    ranking = main.settings.ranking
    assert isinstance(ranking, CDAnetSettings)

    def without(method: str, **changed: Any) -> Row:
        settings = main.settings.model_copy(update={"ranking": ranking.model_copy(update=changed)})
        return Row(method, CDANET, settings)

    return [
        without("w/o L_orth", beta=0.0),
        without("w/o L_cross", alpha=0.0),
        without("w/o translation network", stages="augmentation"),
        without("w/o augmentation network", stages="translation"),
        without(f"{MAIN}, a gate on what is translated", gate="sigmoid"),
    ]


def with_first_order(rows: list[Row]) -> list[Row]:
    """The rows with a weight a user and an item in their logits, which has a learning rate of its own, and a search of
    that and of the tables' rate, beside which the settings are those that were found without.

    A factorisation machine has such weights, and at the tables' rate they stay next to nothing.
    """
    return [
        one.changed(add_first_order, method=first_order(one.method), group=FIRST_ORDER, search=FIRST_ORDER_RATES)
        for one in rows
    ]


def add_first_order(settings: RankingRunSettings) -> RankingRunSettings:
    """Settings with first-order weights that learn at a rate of their own."""
    ranking = settings.ranking
    if not isinstance(ranking, FactorisationMachineSettings):
        ranking = ranking.model_copy(update={"linear": True})
    training = settings.training.model_copy(update={"first_order_learning_rate": 0.05})
    return settings.model_copy(update={"ranking": ranking, "training": training})


def first_order(method: str) -> str:
    """The name of a row with first-order weights."""
    return f"{method}, first order"


def with_statistics(rows: list[Row], fields: tuple[str, ...]) -> list[Row]:
    """The rows with statistics of training labels beside the ids, and the settings that were found without them."""
    return [
        one.changed(
            lambda settings: reading(settings, fields),
            method=f"{one.method}, statistics",
            group=STATISTICS,
            search={},
        )
        for one in rows
    ]


def reading(settings: RankingRunSettings, fields: tuple[str, ...]) -> RankingRunSettings:
    """Settings of a model that reads these fields."""
    return settings.model_copy(update={"ranking": settings.ranking.model_copy(update={"fields": fields})})


REFERENCES = [
    ReferenceRow("item mean", SIMPLE, "item mean"),
    ReferenceRow(BIASES, SIMPLE, BIASES),
    ReferenceRow(ELSEWHERE, SIMPLE, ELSEWHERE),
    ReferenceRow("LightGBM, own domain", SIMPLE, "LightGBM, own domain"),
    ReferenceRow(TREES, SIMPLE, TREES),
]
# A user who is new to the domain has no mean there.
ALL_ROWS_REFERENCES = [ReferenceRow("user mean", SIMPLE, "user mean"), *REFERENCES]
NEW_USERS_REFERENCES = [*REFERENCES, ReferenceRow(FAIR_TREES, SIMPLE, FAIR_TREES)]
