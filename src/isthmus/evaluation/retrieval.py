"""How good retrieval is: held-out positives against given candidates and against the whole corpus of their domain."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.data.dataset import Dataset, Split
from isthmus.data.features import FeatureReader, HistoryReader, Rows
from isthmus.domains import DomainSlices
from isthmus.metrics import NEVER_RANKED, ndcg_at_k, rank_of_positive, recall_at_k
from isthmus.models.two_tower import TwoTower, TwoTowerSettings


@runtime_checkable
class Scorer(Protocol):
    """Scores the whole corpus of a domain for rows of one split."""

    def __call__(self, domain: int, rows: Rows) -> Float[Tensor, "row corpus"]: ...


class TwoTowerScorer:
    """A two-tower model's scores; each item is encoded once a domain, each row once."""

    def __init__(self, model: TwoTower, settings: TwoTowerSettings, dataset: Dataset, split: Split) -> None:
        self.model = model.eval()
        self.dataset = dataset
        self.events = dataset.events[split]
        self.split = split
        self.history = HistoryReader(dataset)
        self.reader = FeatureReader(dataset, "user", settings.fields)
        item_reader = FeatureReader(dataset, "item", settings.fields)
        self.items = [
            encode_items(model, item_reader, domain, dataset.num_domains, dataset.corpus(domain))
            for domain in range(dataset.num_domains)
        ]

    @torch.no_grad()
    def __call__(self, domain: int, rows: Rows) -> Float[Tensor, "row corpus"]:
        user_row = np.asarray(self.events.user_row[rows], dtype=np.int64)
        features = self.reader.read(
            user_row,
            np.full(len(rows), domain, dtype=np.int64),
            span=self.history.event_span(self.events, rows, self.split),
            events=self.events,
            event_rows=rows,
        )
        device = self.items[domain].device
        slices = DomainSlices.single(domain, len(rows), self.dataset.num_domains)
        return self.model.score(self.model.encode_user(features.to(device), slices), self.items[domain])


@torch.no_grad()
def encode_items(
    model: TwoTower, reader: FeatureReader, domain: int, num_domains: int, item_row: Rows, *, block: int = 65_536
) -> Float[Tensor, "item dim"]:
    """Vectors of items as `domain` shows them, in evaluation mode, a block of items at a time."""
    model.eval()
    device = next(model.parameters()).device
    vectors = [torch.empty(0, model.out_dim, device=device)]
    for start in range(0, len(item_row), block):
        rows = item_row[start : start + block]
        features = reader.read(rows, np.full(len(rows), domain, dtype=np.int64)).to(device)
        slices = DomainSlices.single(domain, len(rows), num_domains)
        vectors.append(model.encode_item(features, torch.from_numpy(rows).to(device), slices))
    return torch.cat(vectors)


@dataclass(frozen=True)
class RetrievalResult:
    """One line a held-out positive.

    Attributes:
        user_row: the user's row in the vocabulary; of one whom training does not know, a number above all of them.
        known: how many positives the row's user was known to have in the domain.
        item_count: how often training took the row's item in the domain; 0: never.
        metrics: values by name; `recall@k` and `ndcg@k` are against the given candidates, `corpus_recall@k` and
            `corpus_ndcg@k` against the whole corpus less the user's known items.
    """

    domain: Int[Tensor, " row"]
    user_row: Int[Tensor, " row"]
    item_row: Int[Tensor, " row"]
    known: Int[Tensor, " row"]
    item_count: Int[Tensor, " row"]
    metrics: Mapping[str, Float[Tensor, " row"]]


def evaluate_retrieval(
    scorer: Scorer,
    dataset: Dataset,
    split: Split,
    *,
    ks: tuple[int, ...] = (10,),
    corpus_ks: tuple[int, ...] = (10, 100),
    block: int = 1024,
    most_scores: int = 1 << 27,
) -> RetrievalResult:
    """Rank every held-out positive of a split, a block of rows of one domain at a time.

    Known items are excluded from the whole corpus, the row's own positive never. A positive that training never saw
    in the domain's corpus is a miss. Equal scores rank by item row, which knows nothing of the label.

    Args:
        block: rows scored at a time.
        most_scores: held at a time, of which a large corpus has fewer rows: 512 MiB by default.
    """
    events = dataset.events[split]
    history = HistoryReader(dataset)
    bounds = events.domain_bounds(dataset.num_domains)
    given_rank: list[Tensor] = []
    corpus_rank: list[Tensor] = []
    num_known: list[Tensor] = []
    for domain in range(dataset.num_domains):
        corpus = torch.from_numpy(dataset.corpus(domain))
        num_rows = max(1, min(block, most_scores // max(1, corpus.numel())))
        for start in range(bounds[domain], bounds[domain + 1], num_rows):
            rows = np.arange(start, min(start + num_rows, bounds[domain + 1]))
            score = scorer(domain, rows).cpu()
            positive = torch.from_numpy(np.asarray(events.item_row[rows], dtype=np.int64))
            if events.candidates is not None:
                listed = torch.from_numpy(np.asarray(events.candidates[rows], dtype=np.int64))
                given_rank.append(rank_among(score, corpus, listed, positive))
            own_domain = np.asarray(events.domain[rows], dtype=np.int64)
            known, offsets = history.lists(history.event_span(events, rows, split), own_domain)
            length = torch.from_numpy(np.diff(offsets))
            row = torch.repeat_interleave(torch.arange(len(rows)), length)
            num_known.append(length)
            corpus_rank.append(rank_in_corpus(score, corpus, row, torch.from_numpy(known.astype(np.int64)), positive))
            del score  # before the next block's are made
    metrics: dict[str, Tensor] = {}
    if given_rank:
        rank = torch.cat(given_rank)
        metrics |= {f"recall@{k}": recall_at_k(rank, k) for k in ks}
        metrics |= {f"ndcg@{k}": ndcg_at_k(rank, k) for k in ks}
    rank = torch.cat([torch.empty(0, dtype=torch.int64), *corpus_rank])
    metrics |= {f"corpus_recall@{k}": recall_at_k(rank, k) for k in corpus_ks}
    metrics |= {f"corpus_ndcg@{k}": ndcg_at_k(rank, k) for k in corpus_ks}
    domain_column = np.asarray(events.domain, dtype=np.int64)
    item_column = np.asarray(events.item_row, dtype=np.int64)
    return RetrievalResult(
        domain=torch.from_numpy(domain_column),
        user_row=torch.from_numpy(np.asarray(events.who, dtype=np.int64)),
        item_row=torch.from_numpy(item_column),
        known=torch.cat([torch.empty(0, dtype=torch.int64), *num_known]),
        item_count=torch.from_numpy(np.asarray(dataset.item_count[domain_column, item_column])),
        metrics=metrics,
    )


def place_in(corpus: Int[Tensor, " corpus"], item_row: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Place of each item in an ascending corpus; -1 where it is not in it."""
    if corpus.numel() == 0:
        return torch.full_like(item_row, -1)
    place = torch.searchsorted(corpus, item_row).clamp_(max=corpus.numel() - 1)
    return torch.where(corpus[place] == item_row, place, -1)


def rank_among(
    score: Float[Tensor, "row corpus"],
    corpus: Int[Tensor, " corpus"],
    listed: Int[Tensor, "row candidate"],
    positive: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """Rank of each row's positive among its listed candidates; what the corpus or the list lacks is never retrieved."""
    place = place_in(corpus, listed)
    if corpus.numel() == 0:
        return torch.full_like(positive, NEVER_RANKED)
    listed_score = score.gather(1, place.clamp(min=0)).masked_fill(place < 0, -torch.inf)
    is_positive = (listed == positive[:, None]) & (positive[:, None] > 0)
    rank = rank_of_positive(listed_score, is_positive.to(torch.int64).argmax(dim=1))
    return torch.where(is_positive.any(dim=1), rank, NEVER_RANKED)


def rank_in_corpus(
    score: Float[Tensor, "row corpus"],
    corpus: Int[Tensor, " corpus"],
    row: Int[Tensor, " known"],
    known: Int[Tensor, " known"],
    positive: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """Rank of each row's positive in the corpus less the row's known items, which lose their scores in place."""
    place = place_in(corpus, known)
    is_other = (place >= 0) & (known != positive[row])
    score[row[is_other], place[is_other]] = -torch.inf
    column = place_in(corpus, positive)
    if corpus.numel() == 0:
        return torch.full_like(positive, NEVER_RANKED)
    return torch.where(column >= 0, rank_of_positive(score, column.clamp(min=0)), NEVER_RANKED)
