"""A bundle of any size for load tests: a log drawn at random, models as they start, the real writer.

One domain has all the items, a second one a fiftieth of them, so that the click model has something to translate. The
j-th of a vector's numbers is normal with a variance of 1 / j, since the principal axes of what is learnt weigh ever
less; with `--flat` all weigh the same, the hardest case for an index, whose lists then lie around no centres.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from torch import nn

from isthmus.backbones.settings import MMoESettings
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.models.cdanet import CDAnet, CDAnetSettings
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.serving.bundle import RankingParts, RetrievalParts, write_bundle
from isthmus.serving.bundle_files import MANIFEST
from isthmus.serving.index_settings import ExactIndexSettings
from isthmus.training.ranking import RankingTrainingSettings
from isthmus.training.ranking_stages import new_ranking_model
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import new_model

DOMAINS = ("shop", "video")
START = 1_700_000_000
NOW = datetime(2026, 1, 2, tzinfo=UTC)
RETRIEVAL = TwoTowerSettings(
    embedding_dim=64, fields=("user_id", "history", "item_id"), adaptation="se", item_bias=False, initial_std=1.0
)
RANKING = CDAnetSettings(
    extractor=MMoESettings(hidden_dims=(256,), num_experts=4),
    embedding_dim=16,
    latent_dim=128,
    tower_dims=(64,),
    gate="sigmoid",
    targets=("shop",),
    initial_std=0.3,
)


def load_bundle(folder: Path, *, num_items: int, num_candidates: int, seed: int = 0, is_flat: bool = False) -> Path:
    """The bundle `folder`/bundle-SEED, made where it is not there yet, over a dataset that all seeds share."""
    out = folder / f"{'flat' if is_flat else 'bundle'}-{seed}"
    if (out / MANIFEST).is_file():
        return out
    data = folder / "dataset"
    dataset = Dataset.open(data) if data.is_dir() else prepare(write_log(folder / "log", num_items), data)
    tower = new_model(dataset, RETRIEVAL, TrainingSettings(seed=seed, epochs=1)).eval()
    model = new_ranking_model(dataset, RANKING, RankingTrainingSettings(seed=seed, epochs=1)).eval()
    assert isinstance(model, CDAnet)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if not is_flat:
            for module in tower.modules():
                if isinstance(module, nn.Embedding):
                    module.weight.mul_(torch.arange(1, RETRIEVAL.embedding_dim + 1) ** -0.5)
        for name, parameter in model.named_parameters():
            if "tower" in name:  # as they start, all logits would be nearly one number
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    (weights := folder / "weights").write_bytes(b"as they start")
    write_bundle(
        out,
        RetrievalParts(tower, RETRIEVAL, ExactIndexSettings(), dataset, weights),
        RankingParts(model, RANKING, dataset, ("shop",), model.targets, num_candidates, None, (1.0, 1.0), weights),
        exact_below=100_000,
        now=NOW,
        with_onnx=True,
        drift_rows=1000,
    )
    return out


def write_log(folder: Path, num_items: int) -> Path:
    """A log in which training has every item; gives the path of its declaration."""
    rng = np.random.default_rng(0)
    num_users = max(50, num_items // 40)
    num_small = max(20, num_items // 50)
    every = rng.permutation(num_items)
    again = rng.integers(num_items, size=num_items // 2)
    small = np.concatenate([rng.permutation(num_small), rng.integers(num_small, size=9 * num_small)])
    item = np.concatenate([every, again, small])
    domain = np.repeat([0, 1], [num_items + len(again), len(small)])
    clicked = np.ones(len(item), np.int64)
    clicked[num_items : num_items + len(again)] = rng.random(len(again)) < 0.5
    clicked[num_items + len(again) + num_small :] = rng.random(9 * num_small) < 0.5
    time = START + rng.integers(10_000, 20_000, size=len(item))
    first = np.concatenate([np.arange(num_items), num_items + len(again) + np.arange(num_small)])
    time[first] = START + rng.integers(10_000, size=len(first))  # before all that is held out
    user = rng.integers(num_users, size=len(item))
    order = np.argsort(time, kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    events = {
        "user_id": _ids("u", user[order]),
        "item_id": _ids("item-", item[order]),
        "domain": pa.array(np.array(DOMAINS)[domain[order]]),
        "time": pa.array(time[order]),
        "clicked": pa.array(clicked[order]),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    category = rng.integers(200, size=num_items)
    items = {
        "item_id": _ids("item-", np.arange(num_items)),
        "category": _ids("c", category),
        "price": pa.array(np.exp(rng.normal(3.0, 0.8, num_items)).round(2)),
        "title": pa.array([f"Item {number} of category {kind}" for number, kind in enumerate(category.tolist())]),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    (folder / "log.yaml").write_text(yaml.safe_dump(_declaration(), sort_keys=False), encoding="utf-8")
    return folder / "log.yaml"


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in numbers.tolist()])


def _declaration() -> dict[str, object]:
    statistics = [
        {"name": f"{of}_{value}", "side": "row", "kind": "statistic", "of": of, "value": value, "scope": "own"}
        for of in ("user", "item")
        for value in ("mean", "count")
    ]
    return {
        "name": "load",
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "time": "time",
            "positive": {"column": "clicked"},
        },
        "domains": {domain: {} for domain in DOMAINS},
        "tables": {"items": {"files": ["items.parquet"], "item": "item_id"}},
        "fields": [
            {"name": "user_id", "side": "user", "kind": "id"},
            {"name": "history", "side": "user", "kind": "history", "scope": "all", "table": "history"},
            {"name": "item_id", "side": "item", "kind": "id"},
            {"name": "category", "side": "item", "kind": "categorical", "source": "items"},
            {"name": "price", "side": "item", "kind": "number", "source": "items"},
            *statistics,
        ],
        "split": {"by": "time", "valid": 0.02, "test": 0.02},
        "candidates": {"sampled": 9, "seed": 0},
        "title": {"name": "title", "side": "item", "kind": "categorical", "source": "items"},
        "ranking": {"negatives": "explicit"},
    }
