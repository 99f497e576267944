"""What training labels say of a user, an item or a field's value, as tables that a request reads from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isthmus.data.dataset import Dataset
from isthmus.data.new_rows import keys
from isthmus.data.row_statistics import NO_ROWS_MEAN
from isthmus.schema import FieldSpec


@dataclass(frozen=True)
class LabelCounts:
    """Training rows and positives of each key in each domain; key 0, the unseen one, takes part in the totals only."""

    count: Int[np.ndarray, "domain key"]
    positives: Int[np.ndarray, "domain key"]

    def statistic(
        self, key: Int[np.ndarray, " row"], domain: int, field: FieldSpec, *, prior: float
    ) -> Float[np.ndarray, " row"]:
        """The statistic of rows that come after all of training; see `label_statistics`, whose formula it is."""
        count, total = self._in_scope(self.count, key, domain, field)
        if field.value == "count":
            logarithm: np.ndarray = np.log1p(count)
            return logarithm
        positives, total_positives = self._in_scope(self.positives, key, domain, field)
        mean = total_positives / total if total else NO_ROWS_MEAN
        weight = count + prior
        shrunk: np.ndarray = np.divide(
            positives + prior * mean, weight, out=np.full(len(key), mean, np.float64), where=weight > 0
        )
        return shrunk

    def _in_scope(
        self, amount: np.ndarray, key: Int[np.ndarray, " row"], domain: int, field: FieldSpec
    ) -> tuple[Float[np.ndarray, " row"], float]:
        own, everywhere = amount[domain, key], amount[:, key].sum(axis=0)
        own_total, total = float(amount[domain].sum()), float(amount.sum())
        match field.scope:
            case "own":
                values = own
            case "other":
                values, own_total = everywhere - own, total - own_total
            case "all":
                values, own_total = everywhere, total
        return np.where(key > 0, values, 0).astype(np.float64), own_total


def label_counts(dataset: Dataset, field: FieldSpec) -> LabelCounts:
    """Count the training rows of a dataset by what a statistic is about."""
    assert dataset.impressions is not None
    assert field.of is not None
    train = dataset.impressions["train"]
    assert train.label is not None
    num_keys = dataset.vocabulary_sizes[_vocabulary(dataset, field.of)]
    cell = np.asarray(train.domain, np.int64) * num_keys + np.asarray(keys(dataset, train, field.of), np.int64)
    shape = (dataset.num_domains, num_keys)
    is_positive = np.asarray(train.label) == 1
    size = shape[0] * shape[1]
    return LabelCounts(
        np.bincount(cell, minlength=size).reshape(shape).astype(np.int64),
        np.bincount(cell[is_positive], minlength=size).reshape(shape).astype(np.int64),
    )


def _vocabulary(dataset: Dataset, of: str) -> str:
    if of in ("user", "item"):
        return of
    return next(field for field in dataset.schema.fields if field.name == of).vocabulary_name
