"""Metrics of retrieval and ranking, and the statistics that compare two runs: tensors in, tensors out."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEVER_RANKED = torch.iinfo(torch.int64).max  # above any k, also where a list has fewer than k candidates

COUNTED_TOGETHER = 64  # rows, so that what is compared stays in the cache
BLOCK_ELEMENTS = 1 << 22  # random numbers held at a time: 32 MiB


class NaNError(ValueError):
    """A score is NaN, which would compare as neither above nor below."""

    def __init__(self) -> None:
        super().__init__("a score is NaN")


def told_apart(user: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Users by number, in which 0 is of any whom nobody numbered: each such row becomes a user of its own."""
    return torch.where(user == 0, user.max() + torch.arange(1, user.numel() + 1), user) if user.numel() else user


def rank_of_positive(score: Float[Tensor, "row candidate"], positive: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Rank, from 1, of each row's positive among its candidates; of equal scores the lower column comes first.

    Columns are distinct candidates in an order that does not know the label, such as that of item rows. A score of
    minus infinity is no candidate: a positive with it gets `NEVER_RANKED`.

    Args:
        positive: column of the row's positive.

    Raises:
        NaNError: a score is NaN.
    """
    if score.numel() and bool(score.max().isnan()):  # a maximum is NaN where any value is
        raise NaNError
    column = positive[:, None]
    own = score.gather(1, column)
    above, at_least = count_above(score, own)
    is_ranked = own[:, 0] != -torch.inf
    # A row whose positive shares its score with others is rare: only there the columns are looked at.
    tied = ((at_least - above > 1) & is_ranked).nonzero()[:, 0]
    columns = torch.arange(score.shape[1], device=score.device)
    before = ((score[tied] == own[tied]) & (columns < column[tied])).sum(dim=1)
    rank = (above + 1).index_add_(0, tied, before)
    return torch.where(is_ranked, rank, NEVER_RANKED)


def count_above(
    score: Float[Tensor, "row candidate"], own: Float[Tensor, "row 1"]
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """How many of each row's scores are above its `own`, and how many are at least that.

    On the processor by NumPy, a few rows at a time and eight comparisons a byte: about ten times as fast as PyTorch's
    comparisons and sums of booleans.
    """
    if score.device.type != "cpu":
        return (score > own).sum(dim=1), (score >= own).sum(dim=1)
    above, at_least = (np.zeros(score.shape[0], np.int64) for _ in range(2))
    scores, limits = score.numpy(), own.numpy()
    for start in range(0, len(scores), COUNTED_TOGETHER):
        rows = slice(start, start + COUNTED_TOGETHER)
        for compare, counts in ((np.greater, above), (np.greater_equal, at_least)):
            bits = np.packbits(compare(scores[rows], limits[rows]), axis=1)
            counts[rows] = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    return torch.from_numpy(above), torch.from_numpy(at_least)


def recall_at_k(rank: Int[Tensor, " row"], k: int) -> Float[Tensor, " row"]:
    """1 where the row's one positive is among the first k, else 0."""
    return (rank <= _at_least_one(k)).double()


def ndcg_at_k(rank: Int[Tensor, " row"], k: int) -> Float[Tensor, " row"]:
    """1 / log2(1 + rank) where the row's one positive is among the first k, else 0; the ideal list has 1."""
    return torch.where(rank <= _at_least_one(k), 1 / torch.log2(1 + rank.double()), 0.0)


def recall_of_lists(retrieved: Int[Tensor, "user k"], clicked: Int[Tensor, "user click"]) -> Float[Tensor, " user"]:
    """Share of each user's clicked items that are among the k retrieved; NaN for a user without clicks.

    Args:
        retrieved: items, best first; -1 where there were fewer.
        clicked: distinct items; -1 fills shorter lists.

    Raises:
        ValueError: an item was retrieved twice for one user.
    """
    hits = _hits(retrieved, clicked)
    return hits.sum(dim=1).double() / (clicked != -1).sum(dim=1)


def ndcg_of_lists(retrieved: Int[Tensor, "user k"], clicked: Int[Tensor, "user click"]) -> Float[Tensor, " user"]:
    """Sum of 1 / log2(1 + rank) over a user's hits, by that of the best list of k; NaN for a user without clicks.

    Arguments and errors are those of `recall_of_lists`. The best list has min(k, number clicked) hits in front.
    """
    hits = _hits(retrieved, clicked)
    discount = 1 / torch.log2(torch.arange(2, hits.shape[1] + 2, dtype=torch.float64, device=hits.device))
    best = torch.cat([discount.new_zeros(1), discount.cumsum(dim=0)])
    num_clicked = (clicked != -1).sum(dim=1)
    return (hits * discount).sum(dim=1) / best[num_clicked.clamp(max=hits.shape[1])]


def auc(score: Float[Tensor, " row"], label: Bool[Tensor, " row"]) -> Float[Tensor, ""]:
    """Probability that a positive row scores above a negative one, ties counting half; NaN with one class only.

    Raises:
        NaNError: a score is NaN.
    """
    return auc_by_group(score, label, torch.zeros_like(label, dtype=torch.int64), 1)[0]


def auc_by_group(
    score: Float[Tensor, " row"], label: Bool[Tensor, " row"], group: Int[Tensor, " row"], num_groups: int
) -> Float[Tensor, " group"]:
    """AUC within each group (a domain, a user); NaN where a group has one class only.

    Raises:
        ValueError: a score is NaN (NaNError), or a group number is not in 0..num_groups - 1.
    """
    if bool(score.isnan().any()):
        raise NaNError
    _require_numbers(group, num_groups, "group")
    ordered, order = score.sort()
    if num_groups > 1:
        by_group = group[order].argsort(stable=True)
        ordered, order = ordered[by_group], order[by_group]
    is_positive, row_group = label[order], group[order]
    starts = torch.ones_like(is_positive)  # rows that begin a tie: another score or another group than the row before
    starts[1:] = (ordered[1:] != ordered[:-1]) | (row_group[1:] != row_group[:-1])
    tie = starts.cumsum(dim=0) - 1
    tie_group = row_group[starts]
    tie_positive = torch.bincount(tie[is_positive], minlength=tie_group.numel()).double()
    tie_negative = torch.bincount(tie[~is_positive], minlength=tie_group.numel()).double()
    num_positive, num_negative = (
        torch.zeros(num_groups, dtype=torch.float64, device=score.device).index_add_(0, tie_group, count)
        for count in (tie_positive, tie_negative)
    )
    in_groups_before = num_negative.cumsum(dim=0) - num_negative
    negative_below = tie_negative.cumsum(dim=0) - tie_negative - in_groups_before[tie_group]
    pairs = torch.zeros_like(num_positive).index_add_(0, tie_group, tie_positive * (negative_below + tie_negative / 2))
    return pairs / (num_positive * num_negative)  # 0 / 0 with one class only


def domain_means(
    values: Float[Tensor, " row"], domain: Int[Tensor, " row"], num_domains: int
) -> Float[Tensor, " domain"]:
    """Mean of each domain's rows; NaN for a domain without rows.

    Raises:
        ValueError: a domain number is not in 0..num_domains - 1.
    """
    _require_numbers(domain, num_domains, "domain")
    total = torch.zeros(num_domains, dtype=torch.float64, device=values.device).index_add_(0, domain, values.double())
    return total / torch.bincount(domain, minlength=num_domains)


def macro_mean(value: Float[Tensor, " domain"], names: Sequence[str], *, metric: str) -> Float[Tensor, ""]:
    """Mean over domains, each counting the same; a domain whose value is NaN is named in a warning and left out."""
    _warn_of_missing({metric: value}, names, "")
    return value[~value.isnan()].mean()


def macro_means(
    values: Mapping[str, Float[Tensor, " domain"]], names: Sequence[str], *, rows: str = ""
) -> dict[str, float]:
    """Each metric's mean over domains as by `macro_mean`, with one warning for all of them.

    Args:
        rows: which rows the values are of, for the warning.
    """
    _warn_of_missing(values, names, rows)
    return {metric: float(value[~value.isnan()].mean()) for metric, value in values.items()}


def traffic_weighted_mean(
    value: Float[Tensor, " domain"], traffic: Float[Tensor, " domain"], names: Sequence[str], *, metric: str
) -> Float[Tensor, ""]:
    """Mean over domains weighted by traffic (rows, users or impressions); NaN domains are left out as in the macro."""
    _warn_of_missing({metric: value}, names, "")
    kept = ~value.isnan()
    return (value[kept] * traffic[kept]).sum() / traffic[kept].sum()


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile bootstrap interval.

    Attributes:
        standard_error: standard deviation of the resampled estimates.
    """

    estimate: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class PairedTest:
    """How much run a is above run b on the same rows.

    Attributes:
        difference: macro mean of a - b, with its interval.
        p_value: two-sided; the share of random sign flips of the rows' differences whose macro mean is as far from 0.
    """

    difference: Interval
    p_value: float


def bootstrap_interval(
    values: Float[Tensor, " row"],
    domain: Int[Tensor, " row"],
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    generator: torch.Generator,
) -> Interval:
    """Interval of the macro mean: rows are drawn anew within each domain; with one domain, of the plain mean.

    A row must be the unit that varies independently: where a user has many rows, pass the users' means.

    Raises:
        ValueError: there are no rows, a value is not finite, or `level` is not between 0 and 1.
    """
    _require_comparable(values, num_resamples)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    parts = [values[domain == number].double() for number in torch.bincount(domain).nonzero()[:, 0].tolist()]
    resampled = torch.zeros(num_resamples, dtype=torch.float64, device=values.device)
    for part in parts:
        for rows in _blocks(num_resamples, part.numel()):
            shape = (rows.stop - rows.start, part.numel())
            drawn = torch.randint(part.numel(), shape, generator=generator, device=generator.device)
            resampled[rows] += part[drawn.to(part.device)].mean(dim=1) / len(parts)
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=values.device)
    low, high = resampled.quantile(tail).tolist()
    estimate = torch.stack([part.mean() for part in parts]).mean()
    return Interval(float(estimate), low, high, float(resampled.std()))


def paired_test(
    a: Float[Tensor, " row"],
    b: Float[Tensor, " row"],
    domain: Int[Tensor, " row"],
    *,
    num_resamples: int = 10_000,
    level: float = 0.95,
    generator: torch.Generator,
) -> PairedTest:
    """Compares two runs by the macro mean of their rows' metric, row for row.

    The interval is bootstrapped within domains; the test flips the sign of each row's difference at random, which is
    what would happen if the runs' names did not matter. The p value counts the observed signs too, so it is never 0.

    Raises:
        ValueError: there are no rows, or a value is not finite.
    """
    difference = a.double() - b.double()
    interval = bootstrap_interval(difference, domain, num_resamples=num_resamples, level=level, generator=generator)
    weighted = difference / torch.bincount(domain)[domain]  # the macro mean is their sum by the number of domains
    weighted = weighted[weighted != 0]
    observed = weighted.sum().abs()
    tolerance = 1e-12 * weighted.abs().sum()  # the same sum in another order must count as as far from 0
    num_as_far = 0
    for rows in _blocks(num_resamples, weighted.numel()):
        sign = torch.empty(rows.stop - rows.start, weighted.numel(), dtype=torch.float64, device=generator.device)
        sign.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        num_as_far += int(((sign.to(weighted.device) @ weighted).abs() >= observed - tolerance).sum())
    return PairedTest(interval, (1 + num_as_far) / (1 + num_resamples))


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    return k


def _hits(retrieved: Int[Tensor, "user k"], clicked: Int[Tensor, "user click"]) -> Bool[Tensor, "user k"]:
    """Which of the retrieved were clicked."""
    ordered = retrieved.sort(dim=1).values
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)).any(dim=1)
    if bool(repeated.any()):
        raise ValueError(f"an item was retrieved twice for user {int(repeated.nonzero()[0])}")
    return ((retrieved[:, :, None] == clicked[:, None, :]) & (clicked != -1)[:, None, :]).any(dim=2)


def _warn_of_missing(values: Mapping[str, Float[Tensor, " domain"]], names: Sequence[str], rows: str) -> None:
    metrics_of: dict[str, list[str]] = {}
    for metric, value in values.items():
        for number in value.isnan().nonzero()[:, 0].tolist():
            metrics_of.setdefault(names[number], []).append(metric)
    if metrics_of:
        left_out = "; ".join(f"{domain} ({', '.join(metrics)})" for domain, metrics in metrics_of.items())
        of_rows = f"{rows}: " if rows else ""
        warnings.warn(f"{of_rows}left out of the mean over domains, having no value: {left_out}", stacklevel=3)


def _require_numbers(number: Int[Tensor, " row"], count: int, what: str) -> None:
    if number.numel() and not 0 <= int(number.min()) <= int(number.max()) < count:
        raise ValueError(f"{what} numbers must lie in 0..{count - 1}, got {int(number.min())}..{int(number.max())}")


def _require_comparable(values: Float[Tensor, " row"], num_resamples: int) -> None:
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be 2 or more, got {num_resamples}")
    if not values.numel():
        raise ValueError("there are no rows")
    if not bool(values.isfinite().all()):
        raise ValueError("a value is not finite")


def _blocks(num_resamples: int, num_rows: int) -> Iterator[slice]:
    """Spans of resamples whose random numbers fit into one block."""
    step = max(1, BLOCK_ELEMENTS // max(1, num_rows))
    for start in range(0, num_resamples, step):
        yield slice(start, min(start + step, num_resamples))
