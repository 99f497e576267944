"""Which index serves a corpus: the one place that turns settings into an index."""

from typing import assert_never

from jaxtyping import Float, Int
from torch import Tensor

from isthmus.index.exact import ExactIndex
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.index.hnsw import HNSWIndex
from isthmus.serving.index_settings import AnyIndexSettings, ExactIndexSettings, HNSWIndexSettings, IVFIndexSettings

BuiltIndex = ExactIndex | IVFIndex | HNSWIndex
"""An object that is an `Index`."""


def build_index(
    settings: AnyIndexSettings, vectors: Float[Tensor, "item dim"], item_row: Int[Tensor, " item"]
) -> BuiltIndex:
    """The index that `settings` describe, over one corpus of one item or more."""
    match settings:
        case ExactIndexSettings():
            return ExactIndex(vectors, item_row)
        case IVFIndexSettings():
            if item_row.numel() < settings.num_lists:
                return ExactIndex(vectors, item_row)
            return IVFIndex.build(
                vectors,
                item_row,
                num_lists=settings.num_lists,
                num_probes=settings.num_probes,
                eight_bits=settings.eight_bits,
                seed=settings.seed,
            )
        case HNSWIndexSettings():
            return HNSWIndex.build(
                vectors,
                item_row,
                links_per_item=settings.links_per_item,
                build_breadth=settings.build_breadth,
                search_breadth=settings.search_breadth,
            )
        case other:
            assert_never(other)
