"""The user tower and one index a domain: from a user's features to the items of a corpus, filtered in the search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, assert_never

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.batch import Features
from isthmus.data.dataset import Dataset
from isthmus.data.features import feature_sizes, table_sizes
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.index.exact import ExactIndex
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.index.hnsw import HNSWIndex
from isthmus.models.explanation import by_row, parts_of_tower
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.models.user_tower import field_weights, new_user_tower
from isthmus.serving.bundle_files import AGAIN, CorpusRecord, load_tensors, load_weights
from isthmus.serving.engines import EagerUserEncoder, OnnxUserEncoder, UserEncoder
from isthmus.serving.export import exported
from isthmus.serving.indexes import BuiltIndex
from isthmus.serving.serve_settings import Engine
from isthmus.serving.view import bag_of

Loaded = TypeVar("Loaded", IVFIndex, HNSWIndex)


@dataclass(frozen=True)
class Corpus:
    """One domain's items, in ascending order of their rows.

    Attributes:
        popular: places in `item_row`, from the most to the least popular.
        share: each item's share of the domain's training positives.
    """

    vectors: Float[Tensor, "item dim"]
    item_row: Int[np.ndarray, " item"]
    popular: Int[np.ndarray, " item"]
    share: Float[np.ndarray, " item"]
    index: BuiltIndex

    @classmethod
    def open(cls, folder: Path, record: CorpusRecord) -> "Corpus":
        """Open a domain's folder; vectors and index are memory-mapped."""
        tensors = load_tensors(folder / record.folder / "items.safetensors")
        vectors, item_row = tensors["vectors"], tensors["item_row"]
        index = _open_index(folder / record.folder, record.kind, vectors, item_row)
        return cls(vectors, item_row.numpy(), tensors["popular"].numpy(), tensors["share"].numpy(), index)

    def place(self, item_row: int) -> int | None:
        """Where an item stands; None where the domain does not show it."""
        place = int(np.searchsorted(self.item_row, item_row))
        return place if place < len(self.item_row) and self.item_row[place] == item_row else None


@dataclass(frozen=True)
class Found:
    """Item rows and scores, best first."""

    item_row: Int[np.ndarray, " found"]
    score: Float[np.ndarray, " found"]


class Retriever:
    """The user tower of a bundle and its corpora."""

    def __init__(
        self, folder: Path, settings: TwoTowerSettings, dataset: Dataset, corpora: Sequence[Corpus], engine: Engine
    ) -> None:
        self.sizes = feature_sizes(dataset, "user", settings.fields)
        rows = table_sizes(dataset, settings.fields, ("user", "context"))
        self.tower = new_user_tower(settings, self.sizes, rows, dataset.num_domains)
        load_weights(folder / "user.safetensors", self.tower)
        self.has_bias, self.num_domains = settings.item_bias, dataset.num_domains
        self.encoder: UserEncoder
        match engine:
            case "eager":
                self.encoder = EagerUserEncoder(self.tower, num_domains=self.num_domains, has_bias=self.has_bias)
            case "onnx":
                self.encoder = OnnxUserEncoder(exported(folder, "user", self.num_domains))
            case other:
                assert_never(other)
        self.corpora = tuple(corpora)

    @torch.inference_mode()
    def encode(self, features: Features, domain: int) -> Float[Tensor, "batch dim"]:
        """User vectors, as `TwoTower.encode_user` gives them."""
        return self.encoder(features, domain)

    def search(
        self, vector: Float[Tensor, "1 dim"], domain: int, k: int, excluded: Int[np.ndarray, " excluded"]
    ) -> Found:
        """The k best items of a domain save those at the excluded places; fewer only where no more are left."""
        corpus = self.corpora[domain]
        if isinstance(corpus.index, IVFIndex):
            place, score = corpus.index.nearest(vector[0].numpy(), k, excluded)
            return Found(corpus.item_row[place], score)
        with torch.inference_mode():
            found = corpus.index.search(vector, k, excluded=bag_of(corpus.item_row[excluded]))
        is_found = found.item_row[0] >= 0
        return Found(found.item_row[0][is_found].numpy(), found.score[0][is_found].numpy())

    def popular(self, domain: int, k: int, excluded: Int[np.ndarray, " excluded"]) -> Found:
        """The k items, not at excluded places, with the most training positives in the domain, and their share."""
        corpus = self.corpora[domain]
        first = corpus.popular[: k + len(excluded)]
        best = first[~np.isin(first, excluded)][:k]
        return Found(corpus.item_row[best], corpus.share[best])

    def scores(
        self, vector: Float[Tensor, "1 dim"], domain: int, item_row: Int[np.ndarray, " item"]
    ) -> Float[np.ndarray, " item"]:
        """The score of given items; not a number where the domain does not show one."""
        corpus = self.corpora[domain]
        scores = np.full(len(item_row), np.nan, np.float32)
        for number, row in enumerate(item_row.tolist()):
            if (place := corpus.place(row)) is not None:
                scores[number] = float(vector[0] @ corpus.vectors[place])
        return scores

    @torch.inference_mode()
    def similar(self, domain: int, place: int, k: int) -> Found:
        """The k other items of a domain whose vectors point most in the direction of one item's: cosines."""
        corpus = self.corpora[domain]
        vectors = corpus.vectors[:, :-1] if self.has_bias else corpus.vectors
        own = vectors[place]
        norm = vectors.norm(dim=1).clamp(min=torch.finfo(vectors.dtype).tiny)  # an item that training left at zero
        cosine = (vectors @ own) / (norm * norm[place])
        cosine[place] = -torch.inf
        score, best = cosine.topk(min(k, len(cosine) - 1))
        return Found(corpus.item_row[best.numpy()], score.numpy())

    @torch.inference_mode()
    def field_weights(self, features: Features, domain: int) -> dict[str, float] | None:
        """How much the domain's adaptation layer lets of each user field through; None where there is no such layer."""
        weights = field_weights(self.tower, features, DomainSlices.single(domain, 1, self.num_domains))
        if weights is None:
            return None
        names = self.sizes.names if self.tower.indicator is None else (*self.sizes.names, "domain")
        return dict(zip(names, weights[0].tolist(), strict=True))

    @torch.inference_mode()
    def part_weights(self, features: Features, domain: int) -> dict[str, float] | None:
        """The weight of each part of the user's network; None where it has no gates."""
        parts = parts_of_tower(self.tower, features, DomainSlices.single(domain, 1, self.num_domains))
        named = by_row(parts)
        return None if named is None else named[0]


def _open_index(
    folder: Path, kind: Literal["exact", "ivf", "hnsw"], vectors: Float[Tensor, "item dim"], item_row: Tensor
) -> BuiltIndex:
    match kind:
        case "exact":
            return ExactIndex(vectors, item_row)
        case "ivf":
            return _loaded(IVFIndex.load, folder, "inverted_file.faiss")
        case "hnsw":
            return _loaded(HNSWIndex.load, folder, "graph.faiss")
        case other:
            assert_never(other)


def _loaded(load: Callable[[Path], Loaded], folder: Path, name: str) -> Loaded:
    try:
        return load(folder)
    except (OSError, RuntimeError, ValueError, EOFError) as error:  # FAISS says RuntimeError of whatever it cannot read
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / name}: it, or item_row.npy beside it, is not readable ({reason}); {AGAIN} or copy it again"
        ) from error
