"""Judging a click model: every held-out labelled row scored, and what these scores are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isthmus.data.dataset import Dataset, Split
from isthmus.data.features import RankingReader
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.metrics import auc_by_group, domain_means, macro_means, told_apart
from isthmus.schema import OVER_DOMAINS

BLOCK = 4096
NUM_BINS = 10
METRICS = ("auc", "grouped_auc", "log_loss", "calibration", "calibration_error")
MACRO = OVER_DOMAINS[0]


@dataclass(frozen=True)
class RankingResult:
    """A line a held-out labelled row, in the order of the dataset's impressions.

    Attributes:
        user_row: the user's row in the vocabulary; of one whom training does not know, a number above all of them.
        label: 1 for a positive, 0 for a negative.
        logit: a sigmoid of it is the predicted probability.
        user_rows, item_rows: training rows of the user, and of the item, in the row's domain.
    """

    domain: Int[Tensor, " row"]
    user_row: Int[Tensor, " row"]
    item_row: Int[Tensor, " row"]
    label: Int[Tensor, " row"]
    logit: Float[Tensor, " row"]
    user_rows: Int[Tensor, " row"]
    item_rows: Int[Tensor, " row"]

    def select(self, rows: Tensor) -> "RankingResult":
        """The lines of a mask or of row numbers."""
        return RankingResult(**{name: column[rows] for name, column in vars(self).items()})


@torch.inference_mode()
def score_impressions(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    fields: Sequence[str] | None,
    *,
    domains: Sequence[int] | None = None,
) -> Float[Tensor, " row"]:
    """The logit of each labelled row of a split, in double precision; `domains` leaves out the others' rows."""
    assert dataset.impressions is not None
    events = dataset.impressions[split]
    reader = RankingReader(dataset, fields)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    bounds = events.domain_bounds(dataset.num_domains)
    asked = [d for d in range(dataset.num_domains) if domains is None or d in domains]
    # Whole from the start: a piece a block, left between the blocks' own tensors, would scatter the heap.
    logits = torch.empty(sum(bounds[domain + 1] - bounds[domain] for domain in asked), dtype=torch.float64)
    done = 0
    for domain in asked:
        for start in range(bounds[domain], bounds[domain + 1], BLOCK):
            rows = np.arange(start, min(start + BLOCK, bounds[domain + 1]))
            slices = DomainSlices.single(domain, len(rows), dataset.num_domains)
            logits[done : done + len(rows)] = model(reader.read(events, rows, split).to(device), slices)
            done += len(rows)
    model.train(was_training)
    return logits


def evaluate_ranking(
    logit: Float[Tensor, " row"], dataset: Dataset, split: Split, *, domains: Sequence[int] | None = None
) -> RankingResult:
    """The scored rows of a split, with how much training knows of each one's user and item.

    Args:
        logit: of the rows of `domains`, in their order; None: of all.

    Raises:
        InputError: a logit is NaN.
    """
    assert dataset.impressions is not None
    events, train = dataset.impressions[split], dataset.impressions["train"]
    assert events.label is not None

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64))

    def known(train_row: np.ndarray, row: np.ndarray, num_rows: int) -> Tensor:
        count = np.bincount(
            train.domain.astype(np.int64) * num_rows + train_row, minlength=dataset.num_domains * num_rows
        )
        return column(np.where(row > 0, count[events.domain.astype(np.int64) * num_rows + row], 0))

    asked = np.isin(events.domain, range(dataset.num_domains) if domains is None else domains)
    everything = RankingResult(
        domain=column(events.domain),
        user_row=column(events.who),
        item_row=column(events.item_row),
        label=column(events.label),
        logit=torch.full((events.num_rows,), torch.nan, dtype=torch.float64),
        user_rows=known(train.user_row, events.user_row, dataset.num_users),
        item_rows=known(train.item_row, events.item_row, dataset.num_items),
    )
    result = replace(everything.select(torch.from_numpy(asked)), logit=logit.double())
    wrong = result.logit.isnan()
    if bool(wrong.any()):
        names = dataset.schema.domain_names
        where = ", ".join(names[d] for d in sorted(set(result.domain[wrong].tolist())))
        raise InputError(
            f"{dataset.path}: the model's scores of {int(wrong.sum())} {split} rows of {where} are no numbers; look "
            "for numbers far beyond those of training among their fields, or train with a lower learning rate"
        )
    return result


def ranking_metrics(result: RankingResult, names: Sequence[str], *, rows: str = "") -> dict[str, dict[str, float]]:
    """Every metric by domain name, NaN where a domain has no rows or rows of one label, and the means over domains.

    auc: of all rows of the domain. grouped_auc: of each user's rows in the domain, weighted by their number; users with
    rows of one label are left out. log_loss: nats a row. calibration: mean predicted probability by the share of
    positives; 1 is right, NaN without a positive. calibration_error: over ten bins of equal size, mean distance of the
    two.

    Args:
        rows: which rows these are, for the warning that names what is left out of a mean.
    """
    label_mean = domain_means(result.label.double(), result.domain, len(names))
    values = {
        "auc": auc_by_group(result.logit, result.label > 0, result.domain, len(names)),
        "grouped_auc": grouped_auc(result, len(names)),
        "log_loss": domain_means(row_log_loss(result.logit, result.label), result.domain, len(names)),
        # Without a positive there is no ratio to its share.
        "calibration": domain_means(result.logit.sigmoid(), result.domain, len(names))
        / torch.where(label_mean == 0, float("nan"), label_mean),
        "calibration_error": torch.stack(
            [calibration_error(result.select(result.domain == number)) for number in range(len(names))]
        ),
    }
    table = {name: {metric: float(value[d]) for metric, value in values.items()} for d, name in enumerate(names)}
    present = [d for d, name in enumerate(names) if bool((result.domain == d).any())]
    of_present = {metric: value[present] for metric, value in values.items()}
    table[MACRO] = macro_means(of_present, [names[d] for d in present], rows=rows)
    return table


def row_log_loss(logit: Float[Tensor, " row"], label: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Cross-entropy of each row, in nats."""
    return nn.functional.binary_cross_entropy_with_logits(logit, label.to(logit.dtype), reduction="none")


def grouped_auc(result: RankingResult, num_domains: int) -> Float[Tensor, " domain"]:
    """Mean of the AUC within each user's rows in a domain, weighted by the number of rows (impressions)."""
    if not result.label.numel():
        return torch.full((num_domains,), float("nan"), dtype=torch.float64)
    user = told_apart(result.user_row)
    key = result.domain * (int(user.max()) + 1) + user
    distinct, group, count = torch.unique(key, return_inverse=True, return_counts=True)
    value = auc_by_group(result.logit, result.label > 0, group, distinct.numel())
    domain = distinct // (int(user.max()) + 1)
    weight = torch.where(value.isnan(), 0, count).double()
    total = torch.zeros(num_domains, dtype=torch.float64).index_add_(0, domain, weight * value.nan_to_num())
    return total / torch.zeros(num_domains, dtype=torch.float64).index_add_(0, domain, weight)


def calibration_error(result: RankingResult, num_bins: int = NUM_BINS) -> Float[Tensor, ""]:
    """Over bins of equal size by prediction, mean distance of predicted and observed share; NaN without rows.

    Rows of one prediction, which a bin's edge may fall among, share what is observed of them, whatever their order.
    """
    if not result.label.numel():
        return torch.tensor(float("nan"), dtype=torch.float64)
    probability, order = result.logit.sigmoid().sort()
    _, place, count = torch.unique_consecutive(probability, return_inverse=True, return_counts=True)
    observed = torch.zeros_like(count, dtype=torch.float64).index_add_(0, place, result.label[order].double())
    label: Tensor = (observed / count)[place]
    sizes = bin_sizes(label.numel(), num_bins)
    parts = zip(torch.split(probability, sizes), torch.split(label, sizes), strict=True)
    distance = [(p.mean() - y.mean()).abs() * y.numel() for p, y in parts if y.numel()]
    return torch.stack(distance).sum() / label.numel()


def bin_sizes(num_rows: int, num_bins: int) -> list[int]:
    """How many rows each bin holds, which differ by one at most."""
    edges = [round(num_rows * place / num_bins) for place in range(num_bins + 1)]
    return [after - before for before, after in pairwise(edges)]


def corrected_for_sampling(
    logit: Float[Tensor, " row"], domain: Int[Tensor, " row"], kept_shares: Sequence[float]
) -> Float[Tensor, " row"]:
    """Logits of a model trained on a share w of the negatives, as they are where all occur: p / (p + (1 - p) / w).

    Within a domain all rows move alike, by log w, so that no order and no AUC of a domain changes.

    Args:
        kept_shares: w of each domain, the share of its negatives that training has kept; above 0, at most 1.

    Raises:
        ValueError: a share is out of range.

    Source: He et al. 2014, section 6.3.
    """
    for share in kept_shares:
        if not 0 < share <= 1:
            raise ValueError(f"kept_shares must be above 0 and at most 1, got {share}")
    log_share = torch.tensor(kept_shares, dtype=torch.float64, device=logit.device).log()
    return logit + log_share[domain].to(logit.dtype)
