"""What training rows say of a user, an item or a field's value, as tables that requests read from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from isthmus.data.dataset import Dataset, read_manifest
from isthmus.data.row_statistics import NO_ROWS_MEAN, adjusted_outcome
from isthmus.data.statistics import Spread
from isthmus.schema import FieldSpec


@dataclass(frozen=True)
class RowCounts:
    """Training rows of each key in each domain and the sum of their labels, or of what else a statistic is a mean of.

    Key 0, the unseen one, takes part in the totals only.
    """

    count: Int[np.ndarray, "domain key"]
    total: Float[np.ndarray, "domain key"]

    def statistic(
        self, key: Int[np.ndarray, " row"], domain: int, field: FieldSpec, *, prior: float
    ) -> Float[np.ndarray, " row"]:
        """The statistic of rows that come after all of training; see `row_statistics`, whose formula it is."""
        count, all_count = self._in_scope(self.count, key, domain, field)
        if field.value == "count":
            logarithm: np.ndarray = np.log1p(count)
            return logarithm
        total, all_total = self._in_scope(self.total, key, domain, field)
        unknown = NO_ROWS_MEAN if field.column is None else float("nan")
        mean = all_total / all_count if all_count else unknown
        weight = count + prior
        shrunk: np.ndarray = np.divide(
            total + prior * mean, weight, out=np.full(len(key), mean, np.float64), where=weight > 0
        )
        return shrunk

    def _in_scope(
        self, amount: np.ndarray, key: Int[np.ndarray, " row"], domain: int, field: FieldSpec
    ) -> tuple[Float[np.ndarray, " row"], float]:
        of_key, of_domain = self._sums["count" if amount is self.count else "total"]
        match field.scope:
            case "own":
                values, total = amount[domain, key], of_domain[domain]
            case "other":
                values, total = of_key[key] - amount[domain, key], of_domain.sum() - of_domain[domain]
            case "all":
                values, total = of_key[key], of_domain.sum()
        return np.where(key > 0, values, 0).astype(np.float64), float(total)

    @cached_property
    def _sums(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of all domains by key and of all keys by domain: once, not for each domain again."""
        amounts = {"count": self.count, "total": self.total}
        return {name: (amount.sum(axis=0), amount.sum(axis=1)) for name, amount in amounts.items()}


def row_counts(dataset: Dataset, field: FieldSpec) -> RowCounts:
    """Count the training rows of a dataset by what a statistic is about."""
    assert dataset.impressions is not None
    assert field.of is not None
    train = dataset.impressions["train"]
    outcome = train.label if field.column is None else train.outcomes[field.column]
    assert outcome is not None
    key, domain = np.asarray(dataset.keys(train, field.of), np.int64), np.asarray(train.domain, np.int64)
    if field.value == "adjusted_mean":
        assert dataset.schema.ranking is not None
        outcome = adjusted_outcome(
            key,
            np.asarray(dataset.keys(train, dataset.schema.other_side(field.of)), np.int64),
            domain,
            np.asarray(outcome, np.float64),
            train.time,
            None if train.fold is None else np.asarray(train.fold, np.int64),
            np.ones(train.num_rows, bool),
            num_domains=dataset.num_domains,
            prior=dataset.schema.ranking.prior,
        )
    num_keys = dataset.vocabulary_sizes[_vocabulary(dataset, field.of)]
    cell = domain * num_keys + key
    shape = (dataset.num_domains, num_keys)
    size = shape[0] * shape[1]
    return RowCounts(
        np.bincount(cell, minlength=size).reshape(shape).astype(np.int64),
        np.bincount(cell, np.asarray(outcome, np.float64), minlength=size).reshape(shape),
    )


def statistic_table(dataset: Dataset, field: FieldSpec) -> Float[np.ndarray, "domain key"]:
    """A statistic of rows that come after all of training, standardised as the click model reads it, float32."""
    assert dataset.schema.ranking is not None
    prior = dataset.schema.ranking.prior
    counts = row_counts(dataset, field)
    spread = read_manifest(dataset.path)["numbers"][field.name]
    standardise = Spread(spread["mean"], spread["std"]).standardise
    keys = np.arange(counts.count.shape[1])
    return np.stack(
        [standardise(counts.statistic(keys, domain, field, prior=prior)) for domain in range(dataset.num_domains)]
    )


def _vocabulary(dataset: Dataset, of: str) -> str:
    if of in ("user", "item"):
        return of
    return next(field for field in dataset.schema.fields if field.name == of).vocabulary_name
