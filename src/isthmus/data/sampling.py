"""Which items a row is scored against in training, and how likely each was to be drawn (ADI eq. 4-5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.batch import Features, ItemBlock, RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.features import FeatureReader
from isthmus.domains import DomainSlices

Negatives = Literal["full", "uniform", "popularity", "in_batch", "mixed"]
PositiveWeight = Literal["letter", "expected"]


@dataclass(frozen=True)
class Corpus:
    """The items that a domain may show, and how often training took each of them there, once at the least.

    Attributes:
        item_row: ascending.
        cumulative_count: running sum of the counts, from which popularity draws.
        log_popularity: log of the item's share of the domain's training positives.
    """

    item_row: Int[Tensor, " corpus"]
    cumulative_count: Int[Tensor, " corpus"]
    log_popularity: Float[Tensor, " corpus"]

    @property
    def size(self) -> int:
        return self.item_row.numel()


def read_corpora(dataset: Dataset) -> list[Corpus]:
    """Each domain's corpus, with the domain's own training counts."""
    corpora = []
    for domain in range(dataset.num_domains):
        item_row = torch.from_numpy(dataset.corpus(domain))
        # An item that only the corpus's other domains took counts once: Q = 0 has no log, and pseudo-labels need one.
        count = torch.from_numpy(np.array(dataset.item_count[domain]))[item_row].clamp(min=1)
        log_popularity = count.double().log() - count.sum().double().log()
        corpora.append(Corpus(item_row, count.cumsum(0), log_popularity))
    return corpora


@dataclass(frozen=True)
class Draw:
    """Items drawn for one domain, and the log-probability of a single draw for any place in the corpus."""

    places: Int[Tensor, " drawn"]
    log_q: Float[Tensor, " corpus"] | float

    def log_q_at(self, places: Int[Tensor, " place"]) -> Float[Tensor, " place"]:
        if isinstance(self.log_q, float):
            return torch.full(places.shape, self.log_q, dtype=torch.float64)
        return self.log_q[places]

    def log_weight_of_positive(self, positive: Int[Tensor, " batch"], kind: PositiveWeight) -> Float[Tensor, " batch"]:
        """How a positive stands in the denominator: by eq. 4 to the letter, or as often as the draws should hold it."""
        match kind:
            case "letter":
                return -self.log_q_at(positive)
            case "expected":
                is_whole_corpus = isinstance(self.log_q, float) and self.log_q == 0.0
                return torch.full(positive.shape, 0.0 if is_whole_corpus else log(self.places.numel()))


def draw(
    corpus: Corpus,
    in_batch: Int[Tensor, " batch"],
    negatives: Negatives,
    count: int,
    generator: torch.Generator,
) -> Draw:
    """Places in the corpus to score a domain's rows against, with repeats as drawn.

    Args:
        in_batch: corpus places of the batch's positives of this domain.
        count: how many to draw; by `uniform` the whole corpus, once each, is taken instead where it is no larger.
    """
    everything = Draw(torch.arange(corpus.size), 0.0)
    uniform = -float(np.log(corpus.size))
    match negatives:
        case "full":
            return everything
        case "uniform":
            if count >= corpus.size:
                return everything
            return Draw(torch.randint(corpus.size, (count,), generator=generator), uniform)
        case "popularity":
            return Draw(draw_by_count(corpus.cumulative_count, count, generator), corpus.log_popularity)
        case "in_batch":
            return Draw(in_batch, corpus.log_popularity)
        case "mixed":
            extra = torch.randint(corpus.size, (count,), generator=generator)
            share = in_batch.numel() / (in_batch.numel() + count)
            log_q = torch.logaddexp(
                corpus.log_popularity + float(np.log(share)), torch.tensor(uniform + float(np.log1p(-share)))
            )
            return Draw(torch.cat([in_batch, extra]), log_q)


def draw_by_count(
    cumulative_count: Int[Tensor, " corpus"], count: int, generator: torch.Generator
) -> Int[Tensor, " drawn"]:
    """Places drawn with replacement, each as likely as its share of the counts."""
    ticket = torch.randint(int(cumulative_count[-1]), (count,), generator=generator)
    return torch.searchsorted(cumulative_count, ticket, right=True)


@dataclass(frozen=True)
class Positives:
    """Where each row's positive stands among its domain's items, and its weight there.

    Attributes:
        column: counted from the domain's first item.
        log_weight: minus log Q of the positive.
    """

    column: Int[Tensor, " batch"]
    log_weight: Float[Tensor, " batch"]


class CandidateSampler:
    """Builds the block of items that a step scores its rows against, each domain from its own corpus."""

    def __init__(
        self,
        dataset: Dataset,
        negatives: Negatives,
        count: int,
        fields: Sequence[str] | None,
        positive_weight: PositiveWeight = "letter",
    ) -> None:
        if count < 1:
            raise ValueError(f"the number of negatives must be 1 or more, got {count}")
        self.corpora = read_corpora(dataset)
        self.reader = FeatureReader(dataset, "item", fields)
        self.negatives = negatives
        self.count = count
        self.positive_weight = positive_weight

    def is_in_corpus(self, domain: int, item_row: Int[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """Whether a domain may show each item."""
        corpus = self.corpora[domain].item_row.to(item_row.device)
        place = torch.searchsorted(corpus, item_row).clamp_(max=max(0, corpus.numel() - 1))
        return corpus[place] == item_row if corpus.numel() else torch.zeros_like(item_row, dtype=torch.bool)

    def item_features(self, item_row: Int[Tensor, " item"], domain_slices: DomainSlices) -> Features:
        """Features of items as the domain of their slice shows them."""
        return self.reader.read(item_row.cpu().numpy(), domain_slices.row_domain().numpy())

    def block(self, batch: RetrievalBatch, generator: torch.Generator) -> tuple[ItemBlock, Positives]:
        """The batch's positives and the drawn candidates of each domain, each item once a domain, on its device."""
        device, taken = batch.item_row.device, batch.item_row.cpu()
        rows: list[Tensor] = []
        log_weights: list[Tensor] = []
        columns: list[Tensor] = []
        positive_weights: list[Tensor] = []
        counts = [0] * batch.domain_slices.num_domains
        for domain, span in batch.domain_slices:
            corpus = self.corpora[domain]
            positive = torch.searchsorted(corpus.item_row, taken[span])
            drawn = draw(corpus, positive, self.negatives, self.count, generator)
            places, column = torch.unique(torch.cat([drawn.places, positive]), return_inverse=True)
            times = torch.bincount(column[: drawn.places.numel()], minlength=places.numel())
            counts[domain] = places.numel()
            rows.append(corpus.item_row[places])
            log_weights.append(times.double().log() - drawn.log_q_at(places))
            columns.append(column[drawn.places.numel() :])
            positive_weights.append(drawn.log_weight_of_positive(positive, self.positive_weight))
        item_row = torch.cat(rows)
        slices = DomainSlices.from_counts(counts)
        features, log_weight = self.item_features(item_row, slices), torch.cat(log_weights).float()
        block = ItemBlock(features.to(device), item_row.to(device), log_weight.to(device), slices)
        return block, Positives(torch.cat(columns).to(device), torch.cat(positive_weights).float().to(device))
