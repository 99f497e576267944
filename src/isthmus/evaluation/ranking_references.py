"""Simple methods that rank labelled rows: fitted on training rows alone, a logit a row out."""

from collections.abc import Sequence
from typing import Any, Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.data.dataset import Dataset, Events, Split
from isthmus.data.row_statistics import row_statistics
from isthmus.errors import InputError
from isthmus.evaluation.item_knn import item_knn_scores
from isthmus.evaluation.text_knn import text_knn_scores
from isthmus.metrics import auc_by_group
from isthmus.schema import Scope, StatisticValue

RankingReference = Literal[
    "item mean",
    "user mean",
    "user and item biases",
    "item bias and the user's bias elsewhere",
    "popularity",
    "popularity at the time",
    "item-kNN, own domain",
    "item-kNN, all domains",
    "text-kNN, own domain",
    "text-kNN, all domains",
    "LightGBM, own domain",
    "LightGBM, all domains",
    "LightGBM, without the user's own domain",
]
EVERY_SCOPE: tuple[Scope, ...] = ("own", "other")
SHRINK = 5.0  # rows of nothing that a mean is mixed with
SHRINKS = (SHRINK, 1.0, 2.0, 10.0, 20.0)  # of a bias; the best by validation AUC is taken, the first where none has one
BIAS_ROUNDS = 10
POPULARITY_SECONDS = 180 * 86_400
SMALLEST = 1e-6
LIGHTGBM = {"objective": "binary", "metric": "auc", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 50}
LIGHTGBM_ROUNDS, LIGHTGBM_PATIENCE = 1000, 30


def reference_logits(reference: RankingReference, dataset: Dataset, split: Split) -> Float[Tensor, " row"]:
    """The logit of each labelled row of a split, in double precision.

    item mean, user mean: share of positives in the domain, shrunk to the domain's.
    user and item biases: what is added to the domain's share, fitted in turn, each shrunk to 0, how much is chosen by
    validation AUC.
    item bias and the user's bias elsewhere: the user's bias is of all other domains; for users new to the domain.
    item-kNN: sum of the item's cosines to the user's history before the row, in the row's domain or in all.
    text-kNN: mean cosine of the item's text to the texts of that history.
    popularity: training positives of the item in the domain.
    popularity at the time: positives of the item in the domain in the 180 days before the row.
    LightGBM: on counts of the user's and the item's training rows, means of their labels, and of the outcomes that the
    dataset declares statistics of, and the adjusted means that it declares, out of fold or before the row, chosen early
    by validation AUC; of the row's domain, of the others too, or of the user only what the others say, for users new to
    a domain: training rows of other users, who are not, would teach to lean on what a new one does not have.

    Raises:
        InputError: the method needs a clock, a text of items, or a package that is not there.
    """
    match reference:
        case "item mean":
            probability = statistic(dataset, split, "item", "own", "mean")
        case "user mean":
            probability = statistic(dataset, split, "user", "own", "mean")
        case "user and item biases":
            probability = best_biases(dataset, split, elsewhere=False)
        case "item bias and the user's bias elsewhere":
            probability = best_biases(dataset, split, elsewhere=True)
        case "popularity":
            rows = rows_of(dataset, split)
            count = np.asarray(dataset.item_count)[np.asarray(rows.domain, np.int64), np.asarray(rows.item_row)]
            return torch.from_numpy(np.log1p(count.astype(np.float64)))
        case "popularity at the time":
            return torch.from_numpy(np.log1p(popularity_at_the_time(dataset, split)))
        case "item-kNN, own domain":
            return torch.from_numpy(item_knn_scores(dataset, split, "own"))
        case "item-kNN, all domains":
            return torch.from_numpy(item_knn_scores(dataset, split, "all"))
        case "text-kNN, own domain":
            return torch.from_numpy(text_knn_scores(dataset, split, "own"))
        case "text-kNN, all domains":
            return torch.from_numpy(text_knn_scores(dataset, split, "all"))
        case "LightGBM, own domain":
            return torch.from_numpy(lightgbm_logits(dataset, split, user=("own",), item=("own",)))
        case "LightGBM, all domains":
            return torch.from_numpy(lightgbm_logits(dataset, split, user=EVERY_SCOPE, item=EVERY_SCOPE))
        case "LightGBM, without the user's own domain":
            return torch.from_numpy(lightgbm_logits(dataset, split, user=("other",), item=EVERY_SCOPE))
        case other:
            assert_never(other)
    clipped = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return torch.from_numpy(np.log(clipped) - np.log1p(-clipped))


def rows_of(dataset: Dataset, split: Split) -> Events:
    """The labelled rows of a split."""
    assert dataset.impressions is not None
    return dataset.impressions[split]


def statistic(
    dataset: Dataset,
    split: Split,
    of: Literal["user", "item"],
    scope: Scope,
    value: StatisticValue,
    outcome: str | None = None,
) -> Float[np.ndarray, " row"]:
    """A statistic of training labels, or of another outcome, for each row of a split: of what the row may know."""
    train, rows = rows_of(dataset, "train"), rows_of(dataset, split)
    every = [train] if split == "train" else [train, rows]
    num_rows = sum(part.num_rows for part in every)

    def column(name: Literal["user_row", "item_row", "domain"]) -> Int[np.ndarray, " row"]:
        return np.concatenate([np.asarray(vars(part)[name], np.int64) for part in every])

    user, item = column("user_row"), column("item_row")
    of_train = train.label if outcome is None else train.outcomes[outcome]
    assert of_train is not None
    known = np.zeros(num_rows)
    known[: train.num_rows] = of_train
    found = row_statistics(
        user if of == "user" else item,
        column("domain"),
        known,
        None if train.time is None else np.concatenate([np.asarray(part.time) for part in every]),
        None if train.fold is None else np.concatenate([np.asarray(part.fold, np.int64) for part in every]),
        np.arange(num_rows) < train.num_rows,
        scope=scope,
        value=value,
        num_domains=dataset.num_domains,
        prior=SHRINK,
        other=item if of == "user" else user,
    )
    return found[-rows.num_rows :]


def best_biases(dataset: Dataset, split: Split, *, elsewhere: bool) -> Float[np.ndarray, " row"]:
    """The biases, shrunk as much as is best by validation AUC: its mean over domains whose rows have both labels."""
    valid = rows_of(dataset, "valid")
    assert valid.label is not None
    label = torch.from_numpy(np.asarray(valid.label) > 0)
    domain = torch.from_numpy(np.asarray(valid.domain, np.int64))

    def valid_auc(shrink: float) -> float:
        score = torch.from_numpy(biases(dataset, "valid", shrink, elsewhere=elsewhere))
        return float(auc_by_group(score, label, domain, dataset.num_domains).nanmean())

    return biases(dataset, split, max(SHRINKS, key=valid_auc), elsewhere=elsewhere)


def biases(dataset: Dataset, split: Split, shrink: float, *, elsewhere: bool) -> Float[np.ndarray, " row"]:
    """Domain mean plus the item's and the user's bias, fitted in turn on training labels.

    Args:
        shrink: how many rows of nothing a bias is mixed with.
    """
    train, rows = rows_of(dataset, "train"), rows_of(dataset, split)
    assert train.label is not None
    label, domain = np.asarray(train.label, np.float64), np.asarray(train.domain, np.int64)
    mean = np.bincount(domain, label, minlength=dataset.num_domains) / np.maximum(
        1, np.bincount(domain, minlength=dataset.num_domains)
    )
    user = domain * dataset.num_users + np.asarray(train.user_row, np.int64)
    item = domain * dataset.num_items + np.asarray(train.item_row, np.int64)
    of_user, of_item = (
        np.zeros(dataset.num_domains * dataset.num_users),
        np.zeros(dataset.num_domains * dataset.num_items),
    )
    for _ in range(BIAS_ROUNDS):
        of_item = shrunk(label - mean[domain] - of_user[user], item, len(of_item), shrink)
        of_user = shrunk(label - mean[domain] - of_item[item], user, len(of_user), shrink)
    by_domain = of_user.reshape(dataset.num_domains, -1)
    if elsewhere:
        count = np.bincount(user, minlength=len(of_user)).reshape(dataset.num_domains, -1)
        total, number = (by_domain * (count + shrink) * (count > 0)).sum(axis=0), count.sum(axis=0)
        other = total - by_domain * (count + shrink) * (count > 0)
        by_domain = other / (number - count + shrink)
    asked_domain, asked_user = np.asarray(rows.domain, np.int64), np.asarray(rows.user_row, np.int64)
    asked_item = np.asarray(rows.item_row, np.int64)
    item_bias = np.where(asked_item > 0, of_item[asked_domain * dataset.num_items + asked_item], 0.0)
    user_bias = np.where(asked_user > 0, by_domain[asked_domain, asked_user], 0.0)
    return mean[asked_domain] + item_bias + user_bias


def shrunk(residual: np.ndarray, key: np.ndarray, num_keys: int, shrink: float) -> np.ndarray:
    """Mean residual of each key, mixed with `shrink` rows of 0."""
    total, count = np.bincount(key, residual, minlength=num_keys), np.bincount(key, minlength=num_keys)
    result: np.ndarray = total / (count + shrink)
    return result


def popularity_at_the_time(dataset: Dataset, split: Split) -> Float[np.ndarray, " row"]:
    """Training positives of the row's item in its domain within the 180 days strictly before the row."""
    train, rows = rows_of(dataset, "train"), rows_of(dataset, split)
    if train.time is None or rows.time is None:
        raise InputError(f"{dataset.path}: has no clock, so nothing is popular at a time; declare events.time")
    assert train.label is not None
    positive = np.asarray(train.label) > 0
    cell = train.domain[positive].astype(np.int64) * dataset.num_items + train.item_row[positive]
    first = min(int(train.time.min()), int(rows.time.min())) - POPULARITY_SECONDS - 1
    width = max(int(train.time.max()), int(rows.time.max())) - first + 1
    place = np.sort(cell * width + (np.asarray(train.time[positive], np.int64) - first))
    asked = (rows.domain.astype(np.int64) * dataset.num_items + rows.item_row) * width
    at = np.asarray(rows.time, np.int64) - first
    count = np.searchsorted(place, asked + at) - np.searchsorted(place, asked + at - POPULARITY_SECONDS)
    return np.where(rows.item_row > 0, count, 0).astype(np.float64)


def lightgbm_logits(
    dataset: Dataset, split: Split, *, user: Sequence[Scope], item: Sequence[Scope]
) -> Float[np.ndarray, " row"]:
    """Boosted trees on statistics of training labels, one model for all domains with the domain as a feature.

    Args:
        user: which training rows of its user a row's statistics are of: those of its domain, of the others.
        item: the same of its item.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise InputError("the LightGBM row needs the package: pip install 'isthmus[references]'") from error

    asked: list[tuple[Literal["user", "item"], Scope]] = [
        *(("user", scope) for scope in user),
        *(("item", scope) for scope in item),
    ]
    adjusted = [
        (of, scope, field.value, field.column)
        for field in dataset.schema.fields
        for of, scope in asked
        if field.value == "adjusted_mean" and (field.of, field.scope) == (of, scope)
    ]

    def features(part: Split) -> np.ndarray:
        columns = []
        for of, scope in asked:
            columns.append(statistic(dataset, part, of, scope, "count"))
            columns += [
                statistic(dataset, part, of, scope, "mean", outcome)
                for outcome in (None, *dataset.schema.outcome_columns)
            ]
        columns += [statistic(dataset, part, *one) for one in adjusted]
        return np.column_stack([*columns, np.asarray(rows_of(dataset, part).domain)])

    def labelled(part: Split, reference: Any = None) -> Any:
        return lightgbm.Dataset(features(part), label=np.asarray(rows_of(dataset, part).label), reference=reference)

    parameters = {**LIGHTGBM, "num_threads": 1, "deterministic": True, "seed": 0, "verbose": -1}
    train = labelled("train")
    booster = lightgbm.train(
        parameters,
        train,
        LIGHTGBM_ROUNDS,
        valid_sets=[labelled("valid", train)],
        callbacks=[lightgbm.early_stopping(LIGHTGBM_PATIENCE, verbose=False)],
    )
    logits: np.ndarray = booster.predict(features(split), raw_score=True, num_iteration=booster.best_iteration)
    return logits
