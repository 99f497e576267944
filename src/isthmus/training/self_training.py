"""Self-training across domains (ADI Algorithm 1): what one domain's rows would be in another, as the model sees it."""

import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from isthmus.batch import Features, RetrievalBatch
from isthmus.data.sampling import CandidateSampler
from isthmus.domains import DomainSlices
from isthmus.models.two_tower import TwoTower


class SelfTrainingSettings(BaseModel):
    """Which share of a domain's rows becomes pseudo-positives of another domain.

    share: p of Algorithm 1 in the first epoch, a share of the step's rows of one domain, for each other domain.
    share_growth: delta p, added every epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.05, ge=0, le=1)
    share_growth: float = Field(default=0.05, ge=0, le=1)

    def share_at(self, epoch: int) -> float:
        return min(1.0, self.share + epoch * self.share_growth)


def no_counts(num_domains: int) -> list[list[int]]:
    """Zero labelled rows for each source and target domain."""
    return [[0] * num_domains for _ in range(num_domains)]


def named_pairs(counts: list[list[int]], names: tuple[str, ...]) -> dict[str, int]:
    """Counts by source and target domain as `source->target`, those that are not 0."""
    return {
        f"{source}->{target}": count
        for source, row in zip(names, counts, strict=True)
        for target, count in zip(names, row, strict=True)
        if count
    }


def pseudo_batch(
    model: TwoTower,
    batch: RetrievalBatch,
    sampler: CandidateSampler,
    share: float,
    counts: list[list[int]],
) -> RetrievalBatch | None:
    """The rows that become pseudo-positives of other domains in this step, sorted by the domain they go to.

    The teacher is the model itself with its current weights in evaluation mode. For each ordered pair (i, j) it scores
    domain i's rows, with the features they have in i, as domain j would; of the rows whose item domain j may show, the
    best-scored `share` of domain i's rows are taken. None where no row is. Reading: what is known of a row's user, and
    so is no negative of it, stays what he took in domain i.

    Source: ADI Algorithm 1, lines 6-13, and eq. 27.
    """
    num_domains = batch.domain_slices.num_domains
    taken: list[Tensor] = []
    was_training = model.training
    model.eval()
    for target in range(num_domains):
        chosen = [batch.item_row[:0]]
        for source, span in batch.domain_slices:
            if source != target:
                rows = best_rows(model, batch, span, target, sampler, share)
                counts[source][target] += rows.numel()
                chosen.append(rows)
        taken.append(torch.cat(chosen))
    model.train(was_training)
    rows = torch.cat(taken)
    if rows.numel() == 0:
        return None
    slices = DomainSlices.from_counts([len(part) for part in taken])
    return RetrievalBatch(batch.user.take(rows), batch.item_row[rows], batch.known.take(rows), slices)


@torch.no_grad()
def best_rows(
    model: TwoTower, batch: RetrievalBatch, span: slice, target: int, sampler: CandidateSampler, share: float
) -> Int[Tensor, " taken"]:
    """The rows of one domain that the model scores highest as `target` would show them."""
    rows = torch.arange(span.start, span.stop, device=batch.item_row.device)
    rows = rows[sampler.is_in_corpus(target, batch.item_row[rows])]
    num_taken = min(rows.numel(), int(share * (span.stop - span.start)))
    if num_taken == 0:
        return rows[:0]
    slices = DomainSlices.single(target, rows.numel(), batch.domain_slices.num_domains)
    item_row, place = torch.unique(batch.item_row[rows], return_inverse=True)
    item_slices = DomainSlices.single(target, item_row.numel(), batch.domain_slices.num_domains)
    features: Features = sampler.item_features(item_row, item_slices).to(rows.device)
    user = model.encode_user(batch.user.take(rows), slices)
    item = model.encode_item(features, item_row, item_slices)
    score = (user * item[place]).sum(dim=1)
    return rows[score.topk(num_taken).indices].sort().values
