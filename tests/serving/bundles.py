"""Small bundles: an untrained model with a wide start tells users apart as a trained one does."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from isthmus.backbones.settings import MMoESettings
from isthmus.data.dataset import Dataset
from isthmus.data.simulator import simulate
from isthmus.models.cdanet import CDAnet, CDAnetSettings
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.serving.bundle import RankingParts, RetrievalParts, write_bundle
from isthmus.serving.bundle_files import Manifest, Shard
from isthmus.serving.index_settings import AnyIndexSettings, ExactIndexSettings
from isthmus.training.ranking import RankingTrainingSettings
from isthmus.training.ranking_stages import new_ranking_model
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import new_model

PERSONAL = TwoTowerSettings(embedding_dim=8, initial_std=1.0, adaptation="se")
CDANET = CDAnetSettings(
    extractor=MMoESettings(hidden_dims=(8,), num_experts=2),
    embedding_dim=4,
    latent_dim=6,
    gate="sigmoid",
    initial_std=1.0,
)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def two_tower(dataset: Dataset, settings: TwoTowerSettings = PERSONAL) -> TwoTower:
    return new_model(dataset, settings, TrainingSettings(seed=0, epochs=1)).eval()


def click_model(dataset: Dataset, settings: CDAnetSettings = CDANET) -> CDAnet:
    """Untrained, its towers widened so that logits differ, and its gates told apart."""
    model = new_ranking_model(dataset, settings, RankingTrainingSettings(seed=0, epochs=1))
    assert isinstance(model, CDAnet)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "tower" in name or ".gate." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def new_bundle(
    out: Path,
    retrieval: Dataset,
    ranking: Dataset | None = None,
    *,
    settings: TwoTowerSettings = PERSONAL,
    domains: tuple[str, ...] | None = None,
    score_field: str | None = None,
    kept_shares: tuple[float, ...] | None = None,
    index: AnyIndexSettings | None = None,
    exact_below: int = 1000,
    with_onnx: bool = False,
    drift_rows: int = 0,
    shard: Shard | None = None,
) -> Manifest:
    """A bundle of untrained models; `domains` are those of the ranker, None is all."""
    (weights := out.with_name(f"{out.name}.pt")).write_bytes(b"weights")
    parts = RetrievalParts(two_tower(retrieval, settings), settings, index or ExactIndexSettings(), retrieval, weights)
    click = None
    if ranking is not None:
        model, names = click_model(ranking), domains or ranking.schema.domain_names
        shares = kept_shares or (1.0,) * ranking.num_domains
        click = RankingParts(model, CDANET, ranking, names, model.targets, 15, score_field, shares, weights)
    return write_bundle(
        out,
        parts,
        click,
        exact_below=exact_below,
        now=NOW,
        with_onnx=with_onnx,
        drift_rows=drift_rows,
        shard=shard,
    )


def rich_log(folder: Path, *, has_clock: bool = True) -> Path:
    """A labelled log with every kind of context and row field; without a clock, statistics go by folds."""
    log = simulate(folder / "log", num_users=100, num_items=50, seed=2, num_shown=2)
    events = pq.read_table(log.parent / "events.parquet")
    number = np.arange(events.num_rows)
    for name, values in (
        ("device", np.array(["phone", "desk"])[number % 2]),
        ("tags", np.array(["a|b", "c", ""])[number % 3]),
        ("hour", number % 24 + 0.5),
        ("slot", np.array(["top", "side", "foot"])[number % 3]),
        ("found", np.sin(number)),
    ):
        events = events.append_column(name, pa.array(values))
    pq.write_table(events, log.parent / "events.parquet")
    content = yaml.safe_load(log.read_text())
    for name, side, kind in (
        ("device", "context", "categorical"),
        ("tags", "context", "multi_valued"),
        ("hour", "context", "number"),
        ("slot", "row", "categorical"),
        ("found", "row", "number"),
    ):
        content["fields"].append({"name": name, "side": side, "kind": kind})
    for scope in ("own", "other"):
        shown = {"name": f"taken_{scope}", "side": "user", "kind": "history", "scope": scope, "max_length": 3}
        content["fields"].append({**shown, "table": "history"})
    for of, scope, value in (
        *(("category", "all", "mean"), ("device", "own", "mean"), ("slot", "other", "mean")),
        *(("item", "own", "adjusted_mean"), ("user", "other", "adjusted_mean"), ("category", "own", "adjusted_mean")),
    ):
        statistic = {"name": f"{value}_of_{of}", "side": "row", "kind": "statistic", "of": of}
        content["fields"].append(statistic | {"scope": scope, "value": value})
    if not has_clock:
        del content["events"]["time"]
        content["split"] = {"by": "random", "seed": 1}
    log.write_text(yaml.safe_dump(content, sort_keys=False))
    return log
