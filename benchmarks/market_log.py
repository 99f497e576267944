"""A log in memory in the shape of the WSDM Cup 2022 cross-market data: markets share items and no users."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isthmus.data.dataset import Dataset, Events
from isthmus.data.history import build_history
from isthmus.data.splits import TEST, TRAIN, Taken
from isthmus.schema import Domain, EventLog, FieldSpec, GivenSplit, Schema

LIST_LENGTH = 100
FIELDS = ("history", "item_id")


@dataclass(frozen=True)
class Market:
    """One domain of the log."""

    users: int
    items: int
    positives: int


MARKETS = (Market(6466, 9762, 77_200), Market(7109, 2198, 48_300), Market(3328, 1245, 23_400))


def market_log(markets: Sequence[Market], *, shared: float = 0.5, num_rows: int | None = None) -> Dataset:
    """A dataset whose users are in one market each and have a held-out positive there; a power law takes the items.

    Args:
        shared: share of the items of each later market that the first one has too.
        num_rows: rows of the item vocabulary, over which the same items are spread evenly; None: no rows between.
    """
    rng = np.random.default_rng(0)
    overlap = [0, *(min(markets[0].items, int(shared * market.items)) for market in markets[1:])]
    num_distinct = sum(market.items for market in markets) - sum(overlap)
    num_rows = num_rows or num_distinct + 1
    stride = (num_rows - 1) // num_distinct
    if stride < 1:
        raise ValueError(f"{num_distinct} items do not fit into {num_rows} rows")
    list_length = min(LIST_LENGTH, min(market.items for market in markets) // 2)
    users, items, splits, candidates = [], [], [], []
    next_user, next_item = 1, 0
    for market, common in zip(markets, overlap, strict=True):
        own = np.arange(next_item, next_item + market.items - common)
        chosen = np.concatenate([rng.choice(markets[0].items, size=common, replace=False), own])
        corpus = 1 + stride * np.sort(chosen)
        user, place, split = _draw_positives(market, rng)
        users.append(next_user + user)
        items.append(corpus[place])
        splits.append(split)
        lists = _draw_lists(market.items, place[split == TEST], list_length, rng)
        candidates.append(corpus[lists].astype(np.int32))
        next_user, next_item = next_user + market.users, next_item + len(own)
    domain = np.repeat(np.arange(len(markets)), [len(user) for user in users])
    taken, split = Taken(np.concatenate(users), np.concatenate(items), domain, None), np.concatenate(splits)
    item_count = np.zeros((len(markets), num_rows), dtype=np.int64)
    np.add.at(item_count, (domain[split == TRAIN], taken.item[split == TRAIN]), 1)
    schema = _schema(len(markets))
    return Dataset(
        path=Path("in-memory"),
        schema=schema,
        schema_hash=schema.hash(),
        vocabulary_sizes={"user": next_user, "item": num_rows},
        events={
            "train": _events(taken.select(split == TRAIN), None),
            "valid": _events(taken.select(np.zeros(0, dtype=np.int64)), None),
            "test": _events(taken.select(split == TEST), np.concatenate(candidates)),
        },
        history=build_history(taken, split, next_user),
        item_count=item_count,
        features={},
    )


def _draw_positives(market: Market, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User and item, both from 0, and split of a market's positives; training takes every item once or more."""
    weight = rng.permutation(1 / np.arange(1, market.items + 1) ** 0.7)
    activity = rng.dirichlet(np.full(market.users, 3.0))
    user = rng.choice(market.users, size=market.positives + market.positives // 4, p=activity)
    item = rng.choice(market.items, size=len(user), p=weight / weight.sum())
    pairs = rng.permutation(np.unique(user * market.items + item))[: market.positives]
    user, item = pairs // market.items, pairs % market.items
    split = np.full(len(user), TRAIN)
    first = np.unique(user, return_index=True)[1]
    split[first[np.bincount(user)[user[first]] > 1]] = TEST
    missing = np.setdiff1d(np.arange(market.items), item[split == TRAIN])
    user = np.concatenate([user, rng.integers(market.users, size=len(missing))])
    item, split = np.concatenate([item, missing]), np.concatenate([split, np.full(len(missing), TRAIN)])
    order = np.lexsort((item, user))
    return user[order], item[order], split[order]


def _draw_lists(num_items: int, positive: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each positive a list of places that holds it, distinct and ascending."""
    place = np.sort(rng.integers(num_items - count + 1, size=(len(positive), count)), axis=1) + np.arange(count)
    lacks = ~(place == positive[:, None]).any(axis=1)
    place[lacks, rng.integers(count, size=int(lacks.sum()))] = positive[lacks]
    return np.sort(place, axis=1)


def _events(taken: Taken, candidates: np.ndarray | None) -> Events:
    return Events(taken.user, taken.item, taken.domain, time=None, context={}, candidates=candidates)


def _schema(num_domains: int) -> Schema:
    return Schema(
        name="benchmark",
        events=EventLog(files=("log.csv",), user="user", item="item", domain="domain"),
        domains={f"d{domain}": Domain() for domain in range(num_domains)},
        fields=(
            FieldSpec(name="history", side="user", kind="history"),
            FieldSpec(name="item_id", side="item", kind="id"),
        ),
        split=GivenSplit(by="given"),
    )
