"""What training rows say of a row's user, item or field value, never the row itself."""

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from isthmus.schema import Scope, StatisticValue

NO_ROWS_MEAN = 0.5  # of a scope of which nothing at all is known yet


def row_statistics(
    key: Int[np.ndarray, " row"],
    domain: Int[np.ndarray, " row"],
    outcome: Num[np.ndarray, " row"],
    time: Num[np.ndarray, " row"] | None,
    fold: Int[np.ndarray, " row"] | None,
    is_training: Bool[np.ndarray, " row"],
    *,
    scope: Scope,
    value: StatisticValue,
    num_domains: int,
    prior: float,
    unknown: float = NO_ROWS_MEAN,
    other: Int[np.ndarray, " row"] | None = None,
) -> Float[np.ndarray, " row"]:
    """For each row, a statistic of the training rows that it may know and that share its key.

    A row knows the training rows strictly before it in time; without a clock, those of another fold than its own, all
    where its fold is negative. Of these, the ones of its own domain, of the others, or all of them count.

    Args:
        key: number of the user, item or value; 0, the unseen one, has no rows.
        outcome: each row's label, or another number that is known once the row has happened, such as a rating.
        prior: how many rows of the scope's mean outcome a mean is mixed with; that mean too is of rows it may know.
        unknown: the mean of a scope of which nothing at all is known yet.
        other: number of what the row's key met, such as an item's user, for an adjusted mean; see `adjusted_outcome`.

    Returns:
        log(1 + n), or (s + prior * m) / (n + prior), of n rows of sum s in a scope whose mean outcome is m.
    """
    if value == "adjusted_mean":
        assert other is not None, "an adjusted mean needs the other side"

        def adjusted_mean(fold: np.ndarray | None, known_fold: np.ndarray | None, counted: np.ndarray) -> np.ndarray:
            adjusted = adjusted_outcome(
                key, other, domain, outcome, time, fold, counted, num_domains=num_domains, prior=prior
            )
            return row_statistics(
                *(key, domain, adjusted, time, known_fold, counted),
                scope=scope,
                value="mean",
                num_domains=num_domains,
                prior=prior,
                unknown=unknown,
            )

        if time is not None:
            return adjusted_mean(None, None, is_training)
        # A row's fold is left out of the adjustment too: what it adjusts by would else have seen the row's label.
        assert fold is not None, "statistics without a clock need folds"
        found = np.empty(len(key))
        for own in np.unique(fold):
            rows = fold == own
            found[rows] = adjusted_mean(fold, np.full_like(fold, -1), is_training & (fold != own))[rows]
        return found
    time_rank = None if time is None else np.unique(time, return_inverse=True)[1].astype(np.int64)

    def known(group: np.ndarray, is_counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if time_rank is not None:
            return _before(group, outcome, time_rank, is_counted)
        assert fold is not None, "statistics without a clock need folds"
        return _of_other_folds(group, outcome, fold, is_counted)

    def in_scope(group: np.ndarray, is_counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own_group = group.astype(np.int64) * num_domains + domain
        if scope == "own":
            return known(own_group, is_counted)
        count, total = known(group.astype(np.int64), is_counted)
        if scope == "other":
            own_count, own_total = known(own_group, is_counted)
            return count - own_count, total - own_total
        return count, total

    count, total = in_scope(key, is_training & (key > 0))
    if value == "count":
        logarithm: np.ndarray = np.log1p(count.astype(np.float64))
        return logarithm
    all_count, all_total = in_scope(np.ones_like(key), is_training)
    mean = np.divide(all_total, all_count, out=np.full(len(key), unknown), where=all_count > 0)
    weight = count + prior
    shrunk: np.ndarray = np.divide(total + prior * mean, weight, out=mean.copy(), where=weight > 0)
    return shrunk


def adjusted_outcome(
    key: Int[np.ndarray, " row"],
    other: Int[np.ndarray, " row"],
    domain: Int[np.ndarray, " row"],
    outcome: Num[np.ndarray, " row"],
    time: Num[np.ndarray, " row"] | None,
    fold: Int[np.ndarray, " row"] | None,
    is_training: Bool[np.ndarray, " row"],
    *,
    num_domains: int,
    prior: float,
) -> Float[np.ndarray, " row"]:
    """Each outcome less how far its `other` usually lies above its keys, in all domains: a strict user's 4 is more.

    How far is the mean over the other's rows of their outcome less their key's mean in the domain. Everything is of
    rows that the row may know; where nothing is known, nothing is taken away.
    """

    def known_mean(of: np.ndarray, value: np.ndarray, counted: np.ndarray, scope: Scope, unknown: float) -> np.ndarray:
        return row_statistics(
            *(of, domain, value, time, fold, counted),
            scope=scope,
            value="mean",
            num_domains=num_domains,
            prior=prior,
            unknown=unknown,
        )

    above = outcome - known_mean(key, outcome, is_training, "own", np.nan)
    counted = is_training & ~np.isnan(above)
    adjusted: np.ndarray = outcome - known_mean(other, np.where(counted, above, 0.0), counted, "all", 0.0)
    return adjusted


def _before(
    group: np.ndarray, outcome: np.ndarray, time_rank: np.ndarray, is_counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and summed outcomes of each row's group strictly before it, by one sort."""
    num_times = int(time_rank.max(initial=0)) + 1
    place = group.astype(np.int64) * num_times + time_rank
    order = np.argsort(place, kind="stable")
    place = place[order]
    number = np.concatenate([[0], np.cumsum(is_counted[order])])
    total = np.concatenate([[0], np.cumsum(np.where(is_counted, outcome, 0)[order])])
    start, end = _starts(place // num_times), _starts(place)
    found_number, found_total = np.empty(len(place), np.int64), np.empty(len(place), total.dtype)
    found_number[order] = number[end] - number[start]
    found_total[order] = total[end] - total[start]
    return found_number, found_total


def _starts(ordered: np.ndarray) -> np.ndarray:
    """For each place of a sorted column, the first place of its value."""
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    starts: np.ndarray = np.maximum.accumulate(np.where(is_first, np.arange(len(ordered)), 0))
    return starts


def _of_other_folds(
    group: np.ndarray, outcome: np.ndarray, fold: np.ndarray, is_counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and summed outcomes of each row's group, less those of its fold."""
    _, number = np.unique(group, return_inverse=True)
    num_folds = int(fold.max(initial=0)) + 1
    cell = number * num_folds + np.maximum(fold, 0)
    size = (int(number.max(initial=0)) + 1) * num_folds
    weight = is_counted.astype(np.float64)
    result = []
    for amount in (weight, weight * outcome):
        of_cell = np.bincount(cell, amount, minlength=size)
        of_group = of_cell.reshape(-1, num_folds).sum(axis=1)
        result.append(of_group[number] - np.where(fold >= 0, of_cell[cell], 0.0))
    return np.rint(result[0]).astype(np.int64), result[1]
