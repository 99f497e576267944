"""What a request is measured against: the bare search and the bare forward of the click model of an opened bundle."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from isthmus.batch import RankingFeatures
from isthmus.data.features import ALL_SIDES, ranking_sizes, table_sizes
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.index.filtered import faiss
from isthmus.serving.engines import OnnxRowScorer, RowScorer
from isthmus.serving.export import export_ranker, exported
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import Service


def user_vector(service: Service, user: str) -> torch.Tensor:
    row = service.view.users.row(user)
    features = service.view.user_features(row, 0, service.view.stored(row), service.view.context({}))
    return service.retriever.encode(features, 0)


def bare_search(service: Service, most: int) -> Callable[[torch.Tensor], object]:
    """FAISS itself, one query and that many items; by matrix product where the corpus is too small for it."""
    index = service.retriever.corpora[0].index
    count = min(most, index.num_items)
    if hasattr(index, "inverted_file"):
        return lambda vector: index.inverted_file.search(vector.numpy(), count)
    vectors = service.retriever.corpora[0].vectors
    return lambda vector: (vector @ vectors.T).topk(count)


@contextmanager
def reading_ahead(service: Service) -> Iterator[None]:
    """FAISS as it opens a memory-mapped inverted file: with threads that read ahead, 32 for each search."""
    index = service.retriever.corpora[0].index
    if not isinstance(index, IVFIndex):
        yield
        return
    lists = faiss.downcast_InvertedLists(index.inverted_file.invlists)
    threads, lists.prefetch_nthread = lists.prefetch_nthread, 32
    try:
        yield
    finally:
        lists.prefetch_nthread = threads


def plain_scorer(service: Service, bundle: Path, out: Path) -> RowScorer:
    """The click model by the engine that serves, as it is: every row with its user's fields, and nothing folded.

    Args:
        out: a folder for the copies that this takes.
    """
    ranker, settings = service.ranker, service.manifest.ranking
    assert ranker is not None
    assert settings is not None
    if not isinstance(ranker.scorer, OnnxRowScorer):
        return ranker.scorer
    dataset, fields = ranker.view.dataset, settings.settings.fields
    out.mkdir(exist_ok=True)
    shutil.copy(bundle / "ranking" / "ranker.safetensors", out)
    export_ranker(
        ranker.model,
        ranking_sizes(dataset, fields),
        table_sizes(dataset, fields, ALL_SIDES),
        domains=dataset.schema.domain_names,
        chosen=ranker.domains,
        folder=out,
        folded=False,
    )
    return OnnxRowScorer(exported(out, "ranker", dataset.num_domains))


def bare_forward(
    service: Service, requests: Sequence[RecommendRequest], chosen: RowScorer | None = None
) -> Callable[[int], None]:
    """The click model on the features of some requests, which lie ready: by what serves, or by the chosen one."""
    assert service.ranker is not None
    scorer = service.ranker.scorer
    kept: list[RankingFeatures] = []

    def keep(features: RankingFeatures, domain: int) -> torch.Tensor:
        kept.append(features)
        return scorer(features, domain)

    service.ranker.scorer = keep
    for request in requests:
        service.recommend(request)
    service.ranker.scorer = scorer

    def forward(number: int) -> None:
        with torch.inference_mode():
            (chosen or scorer)(kept[number % len(kept)], 0)

    return forward
