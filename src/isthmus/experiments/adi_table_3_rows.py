"""The rows of ADI Table 3, each a complete set of settings.

All were chosen on validation rows, by hand and once: the settings that rows of one part share were tried on the history
tower (embedding size, dropout, learning rate, schedule, negatives) and on ADI (network width, norm, learning rate).
"""

import re
from dataclasses import dataclass
from typing import Literal

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.settings import RunSettings
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.self_training import SelfTrainingSettings

FIELDS = ("history", "item_id")
GROUPS = (
    "simple methods",
    "no network",
    "the paper's networks to the letter",
    "the same networks, added to the tower from zero",
    "ADI and its parts, added to the tower from zero",
)
SIMPLE, PLAIN, LITERAL, RESIDUAL, PARTS = GROUPS
TOWER = "history tower"
BEST_ADI = "ADI: backbone"
NETWORK_BUDGET = 240_000
TOWER_NETWORK_BUDGET = 800_000


@dataclass(frozen=True)
class Row:
    """One trained method.

    Attributes:
        folder: where its runs lie.
        published: the paper's Recall@10 in s1, s2, s3; empty where it has no such row.
    """

    method: str
    group: str
    folder: str
    settings: RunSettings
    published: tuple[float, ...] = ()


NETWORKS: dict[str, AnyBackboneSettings] = {
    "DNN": DNNSettings(hidden_dims=(64,)),
    "Shared-Bottom": SharedBottomSettings(hidden_dims=(64,), forward_dims=(64,)),
    "Cross-Stitch": CrossStitchSettings(hidden_dims=(64,)),
    "MMoE": MMoESettings(hidden_dims=(64,), num_experts=4),
    "PLE": PLESettings(hidden_dims=(64,)),
    "STAR": StarSettings(hidden_dims=(64,)),
    "ADI": ADISettings(hidden_dims=(64,)),
}
"""Shapes of the paper's networks for three domains; their widths are fitted to one number of parameters."""

PUBLISHED = {
    "DNN-Single": (0.250, 0.535, 0.572),
    "DNN": (0.193, 0.380, 0.460),
    "Shared-Bottom": (0.261, 0.507, 0.537),
    "Cross-Stitch": (0.252, 0.404, 0.510),
    "MMoE": (0.273, 0.611, 0.368),
    "PLE": (0.201, 0.548, 0.525),
    "ADI": (0.266, 0.614, 0.519),
}


def tower_training(self_training: SelfTrainingSettings | None = None) -> TrainingSettings:
    """How the tower and all that is added to it is trained."""
    return TrainingSettings(
        seed=0,
        epochs=7,
        patience=2,
        num_negatives=1024,
        learning_rate=4e-3,
        network_learning_rate=3e-4,
        self_training=self_training,
    )


def literal(method: str, backbone: AnyBackboneSettings, *, tables_by_domain: bool = False) -> Row:
    """A network of the paper as it is written: the network alone makes the vectors, 64 numbers wide."""
    settings = RunSettings(
        retrieval=TwoTowerSettings(
            embedding_dim=64,
            fields=FIELDS,
            backbone=backbone,
            connection="literal",
            tables_by_domain=tables_by_domain,
            dropout=0.3,
        ),
        training=TrainingSettings(seed=0, epochs=12, patience=2, num_negatives=1024),
        parameter_budget=NETWORK_BUDGET,
    )
    folder = f"literal-{method.lower()}"
    return Row(method, LITERAL, folder, settings, PUBLISHED.get(method, ()))


def on_tower(
    method: str,
    group: str,
    backbone: AnyBackboneSettings | None,
    *,
    adaptation: Literal["none", "linear", "attention", "se"] = "none",
    self_training: SelfTrainingSettings | None = None,
) -> Row:
    """The history tower, and a network that is added to it and starts at zero."""
    settings = RunSettings(
        retrieval=TwoTowerSettings(
            embedding_dim=256, fields=FIELDS, backbone=backbone, adaptation=adaptation, dropout=0.5
        ),
        training=tower_training(self_training),
        parameter_budget=None if backbone is None else TOWER_NETWORK_BUDGET,
    )
    folder = "-".join(re.findall(r"\w+", method.lower()))
    return Row(method, group, folder, settings)


def adi_rows() -> list[Row]:
    """ADI on the tower: whole, each part left out, and the other adaptation layers."""
    plain = ADISettings(hidden_dims=(64,), norm="none")
    dsbn = ADISettings(hidden_dims=(64,), norm="domain")
    pseudo = SelfTrainingSettings()
    return [
        on_tower("ADI: backbone", PARTS, plain),
        on_tower("ADI: backbone + LT", PARTS, plain, adaptation="linear"),
        on_tower("ADI: backbone + DSBN", PARTS, dsbn),
        on_tower("ADI: backbone + DSBN + LT", PARTS, dsbn, adaptation="linear"),
        on_tower("ADI: backbone + DSBN + VA", PARTS, dsbn, adaptation="attention"),
        on_tower("ADI: backbone + DSBN + SE", PARTS, dsbn, adaptation="se"),
        on_tower("ADI: backbone + DSBN + SE + self-training", PARTS, dsbn, adaptation="se", self_training=pseudo),
        on_tower("ADI: backbone + DSBN + self-training", PARTS, dsbn, self_training=pseudo),
        on_tower("ADI: backbone + SE + self-training", PARTS, plain, adaptation="se", self_training=pseudo),
    ]


ROWS: tuple[Row, ...] = (
    on_tower(TOWER, PLAIN, None),
    literal("DNN-Single", IndependentSettings(hidden_dims=(64,)), tables_by_domain=True),
    *(literal(method, backbone) for method, backbone in NETWORKS.items()),
    *(
        on_tower(f"tower + {method}", RESIDUAL, NETWORKS[method].model_copy(update={"norm": "none"}))
        for method in ("DNN", "Shared-Bottom", "Cross-Stitch", "MMoE", "PLE", "STAR")
    ),
    *adi_rows(),
)
QUICK_ROWS = (TOWER, "DNN", "MMoE", "PLE", "ADI", "ADI: backbone")
