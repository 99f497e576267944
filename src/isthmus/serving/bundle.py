"""A bundle: all that serving needs, in one folder that needs no dataset and no run beside it.

    manifest.json               kind, format, versions, settings, and of each file its SHA-256 and length
    retrieval/user.safetensors  the user tower; the item tower is not needed, items lie ready as vectors
    retrieval/corpus/N/         of domain number N: items.safetensors (`vectors`, `item_row`, and `popular`, places in
                                both from the most to the least popular, with `share` of the domain's positives), and
                                the FAISS index where the corpus is large
    ranking/ranker.safetensors  the click model, where there is one
    retrieval/user-N.onnx, ranking/ranker-N.onnx    copies of both for ONNX Runtime, unless made without; see `export`
    ranking/statistics.safetensors      what training rows say of users, items and values, as the click model reads it
    retrieval/data/, ranking/data/      a dataset without log rows: vocabularies (Parquet, and Arrow to be mapped),
                                fields, histories, counts, titles; one for both runs of the same dataset
    drift.json                  what requests are like for users as training had them, unless made without; see `drift`

Nothing is pickled. Users' histories are in the bundle: keep it as safe as the log.
"""

import platform
import shutil
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isthmus.data.dataset import Dataset, file_checksum
from isthmus.data.dataset import read_manifest as read_dataset_manifest
from isthmus.data.features import ALL_SIDES, FeatureReader, feature_sizes, ranking_sizes, table_sizes
from isthmus.data.write import DatasetFiles, files_by_manifest, new_folder
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.evaluation.retrieval import encode_items
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.models.ranker import AnyRankingSettings
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.serving.bundle_files import (
    KIND,
    MANIFEST,
    CorpusRecord,
    Manifest,
    RankingRecord,
    RetrievalRecord,
    Shard,
    Source,
    save_tensors,
    write_manifest,
)
from isthmus.serving.drift import write_reference
from isthmus.serving.drift_reference import measured
from isthmus.serving.export import export_ranker, export_user_tower
from isthmus.serving.index_settings import AnyIndexSettings, ExactIndexSettings, IVFIndexSettings
from isthmus.serving.indexes import build_index
from isthmus.serving.row_counts import statistic_table
from isthmus.serving.service import open_service
from isthmus.serving.view import View, write_mapped

LEAST_RECALL = 0.98  # of an index that is chosen here, on sampled users; .97 on others is what is promised
TUNING_USERS = 200
DEPTH = 100  # to which that holds where no click model says how many items it takes
PACKAGES = ("isthmus", "torch", "numpy", "faiss-cpu", "safetensors")


@dataclass(frozen=True)
class RetrievalParts:
    """A trained two-tower model, its dataset, and how its items are to be searched.

    Attributes:
        weights: the file that the model's weights were read from.
    """

    model: TwoTower
    settings: TwoTowerSettings
    index: AnyIndexSettings
    dataset: Dataset
    weights: Path


@dataclass(frozen=True)
class RankingParts:
    """A trained click model, its dataset, and the domains that it is for.

    Attributes:
        targets: of CDAnet: the numbers of the domains with an augmentation network.
        num_candidates: items that retrieval hands over.
        score_field: the field of side `row` that takes retrieval's score.
        kept_shares: of each domain's negatives, the share that it was trained on; probabilities are corrected.
    """

    model: nn.Module
    settings: AnyRankingSettings
    dataset: Dataset
    domains: tuple[str, ...]
    targets: tuple[int, ...]
    num_candidates: int
    score_field: str | None
    kept_shares: tuple[float, ...]
    weights: Path


def write_bundle(
    out: Path,
    retrieval: RetrievalParts,
    ranking: RankingParts | None,
    *,
    exact_below: int,
    now: datetime,
    with_onnx: bool,
    drift_rows: int,
    shard: Shard | None = None,
) -> Manifest:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        exact_below: a corpus of fewer items is searched exactly, a larger one by the run's index, or, where that is the
            exact one, by a FAISS inverted file with 8 bits a number.
        now: noted in the manifest.
        with_onnx: also write copies of the networks for ONNX Runtime, each compared with its model.
        drift_rows: of each domain, the training rows that drift is measured from; 0: none, and no drift is measured.
        shard: which part of every corpus; None: all of it.

    Raises:
        InputError: `out` holds something else than a bundle, the ranker does not fit the retrieval model (no domain or
            no item in common, or a `score_field` that it does not have), or a copy is not like its model.
    """
    known_items = {} if ranking is None else _require_fit(retrieval, ranking, shard)
    with new_folder(out, written=bundle_files) as folder:
        save_tensors(folder / "retrieval" / "user.safetensors", retrieval.model.user_tower.state_dict())
        _copy_without_rows(retrieval.dataset, folder / "retrieval" / "data")
        depth = DEPTH if ranking is None else ranking.num_candidates
        corpora = [
            _write_corpus(folder, retrieval, domain, exact_below, depth, shard)
            for domain in range(retrieval.dataset.num_domains)
        ]
        content: dict[str, Any] = {
            "created": now.isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "domains": retrieval.dataset.schema.domain_names,
            "retrieval": RetrievalRecord(
                data="retrieval/data",
                settings=retrieval.settings,
                source=_source(retrieval.dataset, retrieval.weights),
                corpora=tuple(corpora),
                shard=shard,
            ),
            "ranking": None,
        }
        if ranking is not None:
            content["ranking"] = _write_ranking(folder, retrieval, ranking, known_items)
        if with_onnx:
            _write_copies(folder, retrieval, ranking)
        manifest = write_manifest(folder, content)
        service = open_service(folder, check=False)  # what cannot be opened is not put in place
        if not drift_rows:
            return manifest
        of_ranking = None if ranking is None else ranking.dataset
        reference = measured(service, retrieval.dataset, of_ranking, num_rows=drift_rows, seed=0)
        (folder / MANIFEST).unlink()
        write_reference(folder, reference)
        return write_manifest(folder, content)


def bundle_files(folder: Path) -> frozenset[str]:
    """The files of a bundle, of any format; none where the folder is no bundle."""
    return files_by_manifest(folder, lambda manifest: manifest.get("kind") == KIND)


def _write_copies(folder: Path, retrieval: RetrievalParts, ranking: RankingParts | None) -> None:
    dataset, settings = retrieval.dataset, retrieval.settings
    export_user_tower(
        retrieval.model.user_tower,
        feature_sizes(dataset, "user", settings.fields),
        table_sizes(dataset, settings.fields, ("user", "context")),
        domains=dataset.schema.domain_names,
        has_bias=settings.item_bias,
        folder=folder / "retrieval",
    )
    if ranking is not None:
        fields = ranking.settings.fields
        export_ranker(
            ranking.model,
            ranking_sizes(ranking.dataset, fields),
            table_sizes(ranking.dataset, fields, ALL_SIDES),
            domains=ranking.dataset.schema.domain_names,
            chosen=ranking.domains,
            folder=folder / "ranking",
        )


def _write_corpus(
    folder: Path, retrieval: RetrievalParts, domain: int, exact_below: int, num_candidates: int, shard: Shard | None
) -> CorpusRecord:
    dataset, name = retrieval.dataset, retrieval.dataset.schema.domain_names[domain]
    place = f"retrieval/corpus/{domain}"
    corpus = _shown(dataset, domain, shard)
    if not len(corpus):
        if shard is not None and len(dataset.corpus(domain)):
            raise InputError(f"shard: domain {name!r} has no item in {shard.place} of {shard.count}; make fewer shards")
        raise InputError(f"{dataset.path}: domain {name!r} has no item in training, so there is nothing to serve in it")
    reader = FeatureReader(dataset, "item", retrieval.settings.fields)
    vectors = encode_items(retrieval.model, reader, domain, dataset.num_domains, corpus).cpu()
    count = np.asarray(dataset.item_count[domain])
    popular = np.argsort(-count[corpus], kind="stable")
    tensors = {
        "vectors": vectors,
        "item_row": torch.from_numpy(corpus),
        "popular": torch.from_numpy(popular),
        "share": torch.from_numpy((count[corpus] / max(1, count.sum())).astype(np.float32)),
    }
    save_tensors(folder / place / "items.safetensors", tensors)
    settings = index_for(retrieval.index, len(corpus), exact_below)
    recall = None
    if not isinstance(settings, ExactIndexSettings):
        index = build_index(settings, vectors, tensors["item_row"])
        queries, k = _some_users(retrieval, domain), min(num_candidates, len(corpus))
        best = tensors["item_row"][(queries @ vectors.T).topk(k, dim=1).indices]
        if isinstance(index, IVFIndex) and isinstance(retrieval.index, ExactIndexSettings):
            recall = index.tune(queries, best, recall=LEAST_RECALL)
        index.save(folder / place)
    return CorpusRecord(domain=name, folder=place, kind=settings.kind, num_items=len(corpus), recall=recall)


def _shown(dataset: Dataset, domain: int, shard: Shard | None) -> Int[np.ndarray, " item"]:
    """The rows of the items that a domain shows, or of its part of them."""
    corpus = dataset.corpus(domain)
    return corpus if shard is None else corpus[corpus % shard.count == shard.place]


def _some_users(retrieval: RetrievalParts, domain: int) -> Float[Tensor, "user dim"]:
    """The vectors of users who have taken something in a domain, as they will be asked for."""
    dataset = retrieval.dataset
    view = View(dataset, retrieval.settings.fields, by_time=False)
    lengths = np.diff(np.asarray(dataset.history.offsets))
    rows = np.unique(np.repeat(np.arange(len(lengths)), lengths)[np.asarray(dataset.history.domain) == domain])
    chosen = np.random.default_rng(0).permutation(rows)[:TUNING_USERS]
    slices = DomainSlices.single(domain, 1, dataset.num_domains)
    with torch.inference_mode():
        features = [view.user_features(int(row), domain, view.stored(int(row)), view.context({})) for row in chosen]
        return torch.cat([retrieval.model.encode_user(one, slices) for one in features])


def index_for(settings: AnyIndexSettings, num_items: int, exact_below: int) -> AnyIndexSettings:
    """How a corpus of that size is searched: exactly also where it has fewer items than an inverted file would lists.

    The inverted file has four lists for the square root of the items, one in eight read until it is tuned.
    """
    if num_items < exact_below:
        return ExactIndexSettings()
    chosen = settings
    if isinstance(settings, ExactIndexSettings):
        num_lists = max(1, int(4 * num_items**0.5))
        chosen = IVFIndexSettings(num_lists=num_lists, num_probes=max(1, num_lists // 8), eight_bits=True)
    too_small = isinstance(chosen, IVFIndexSettings) and num_items < chosen.num_lists
    return ExactIndexSettings() if too_small else chosen


def _write_ranking(
    folder: Path, retrieval: RetrievalParts, ranking: RankingParts, known_items: dict[str, float]
) -> RankingRecord:
    save_tensors(folder / "ranking" / "ranker.safetensors", ranking.model.state_dict())
    statistics: dict[str, Tensor] = {}
    for field in ranking.dataset.schema.fields:
        if field.kind == "statistic":
            statistics[field.name] = torch.from_numpy(statistic_table(ranking.dataset, field))
    save_tensors(folder / "ranking" / "statistics.safetensors", statistics)
    data = "retrieval/data"
    if _manifest_sum(ranking.dataset) != _manifest_sum(retrieval.dataset):
        data = "ranking/data"
        _copy_without_rows(ranking.dataset, folder / data)
    return RankingRecord(
        data=data,
        settings=ranking.settings,
        source=_source(ranking.dataset, ranking.weights),
        domains=ranking.domains,
        targets=ranking.targets,
        num_candidates=ranking.num_candidates,
        score_field=ranking.score_field,
        kept_shares=ranking.kept_shares,
        known_items=known_items,
    )


def _require_fit(retrieval: RetrievalParts, ranking: RankingParts, shard: Shard | None) -> dict[str, float]:
    """The share of each common domain's corpus that the ranker knows by id; raises InputError where nothing fits."""
    names = retrieval.dataset.schema.domain_names
    common = [name for name in ranking.domains if name in names]
    if not common:
        raise InputError(
            f"{ranking.dataset.path}: the ranker is for {', '.join(ranking.domains)}, the retrieval model for "
            f"{', '.join(names)}; give runs that share a domain"
        )
    schema = ranking.dataset.schema
    of_row = [field.name for field in schema.fields if field.side == "row" and field.kind == "number"]
    if ranking.score_field is not None and ranking.score_field not in of_row:
        known = f"it has {', '.join(of_row)}" if of_row else "it has none"
        raise InputError(
            f"score_field: {ranking.score_field!r} is no number field of side 'row' in the ranker's data; {known}"
        )
    texts = ["", *retrieval.dataset.vocabulary("item")]
    of_ranker = frozenset(ranking.dataset.vocabulary("item"))  # NumPy's isin compares every pair of texts
    is_known = np.array([text in of_ranker for text in texts])
    shares = {name: float(is_known[_shown(retrieval.dataset, names.index(name), shard)].mean()) for name in common}
    if not any(shares.values()):
        raise InputError(
            f"{ranking.dataset.path}: none of its item ids is an id of {retrieval.dataset.path}, such as "
            f"{texts[1]!r}; give runs whose logs name items alike"
        )
    return shares


def _copy_without_rows(dataset: Dataset, out: Path) -> None:
    """Copy a dataset folder with every log row left out: what describes users and items stays."""
    manifest = read_dataset_manifest(dataset.path)
    files = DatasetFiles(out)
    out.mkdir(parents=True)
    for name in manifest["files"]:
        if not name.startswith(("events/", "impressions/")):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.path / name, out / name)
            files.files[name] = manifest["files"][name]
            if file_checksum(out / name) != manifest["files"][name]["sha256"]:
                raise InputError(f"{dataset.path / name}: damaged; run 'isthmus prepare' again")
            if name.startswith("vocabularies/"):
                write_mapped(out / name)
            continue
        values = np.load(dataset.path / name, mmap_mode=None if 0 in manifest["files"][name]["shape"] else "r")
        # a list column without rows has one offset, which is 0
        is_offsets = name.endswith(".offsets.npy")
        files.array(name.removesuffix(".npy"), np.zeros_like(values[:1]) if is_offsets else values[:0])
    files.manifest({key: value for key, value in manifest.items() if key != "files"})


def _source(dataset: Dataset, weights: Path) -> Source:
    return Source(
        schema_hash=dataset.schema_hash, dataset_sha256=_manifest_sum(dataset), weights_sha256=file_checksum(weights)
    )


def _manifest_sum(dataset: Dataset) -> str:
    return file_checksum(dataset.path / "manifest.json")
