"""Datasets in memory, small enough to be worked by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isthmus.batch import FeatureSizes
from isthmus.data.dataset import SPLITS, Column, Dataset, Events, History, Lists, Split
from isthmus.data.features import feature_sizes, table_sizes
from isthmus.schema import Domain, EventLog, FeatureTable, FieldSpec, GivenSplit, Schema

Positive = tuple[int, int, int, int]
"""User row, item row, domain, time."""

HISTORY = FieldSpec(name="taken", side="user", kind="history", table="item")
ITEM_ID = FieldSpec(name="item", side="item", kind="id")
USER_ID = FieldSpec(name="user", side="user", kind="id")

RICH_FIELDS = (
    USER_ID,
    FieldSpec(name="age", side="user", kind="categorical", source="people"),
    FieldSpec(name="hour", side="context", kind="categorical"),
    HISTORY,
    FieldSpec(name="anywhere", side="user", kind="history", scope="all", max_length=3),
    FieldSpec(name="tags", side="context", kind="multi_valued", vocabulary="genre", table="genre"),
    FieldSpec(name="income", side="user", kind="number", source="people"),
    ITEM_ID,
    FieldSpec(name="seller", side="item", kind="categorical", source="offers", domains=("a", "c")),
    FieldSpec(name="genre", side="item", kind="multi_valued", source="things"),
    FieldSpec(name="price", side="item", kind="number", source="offers"),
)
"""Every kind of field: of both sides and of the context, one value or many, the same in all domains or by domain."""

TABLES = {
    "people": FeatureTable(files=("people.csv",), user="u"),
    "things": FeatureTable(files=("things.csv",), item="i"),
    "offers": FeatureTable(files=("offers.csv",), item="i", domain="d"),
}


def tiny_schema(
    *,
    domains: Sequence[str] = ("a", "b", "c"),
    corpora: Mapping[str, tuple[str, ...]] | None = None,
    fields: Sequence[FieldSpec] = (HISTORY, ITEM_ID),
    clock: bool = True,
) -> Schema:
    return Schema(
        name="tiny",
        events=EventLog(files=("log.csv",), user="u", item="i", domain="d", time="t" if clock else None),
        domains={name: Domain(corpus=(corpora or {}).get(name)) for name in domains},
        tables=TABLES,
        fields=tuple(fields),
        split=GivenSplit(by="given"),
    )


def tiny_dataset(
    train: Sequence[Positive],
    valid: Sequence[Positive] = (),
    test: Sequence[Positive] = (),
    *,
    num_users: int,
    num_items: int,
    schema: Schema,
    sizes: Mapping[str, int] | None = None,
    features: Mapping[str, Column | Lists] | None = None,
    context: Callable[[Positive], Mapping[str, int | list[int]]] | None = None,
    candidates: Callable[[Positive], list[int]] | None = None,
) -> Dataset:
    """A dataset of the given positives; `num_users` and `num_items` count row 0 too.

    Args:
        sizes: vocabulary sizes beside those of users and items.
        features: the stored columns.
        context: the context fields of one positive.
        candidates: the list of one held-out positive.
    """
    clock = schema.events.time is not None
    splits: dict[Split, Sequence[Positive]] = {"train": train, "valid": valid, "test": test}
    item_count = np.zeros((len(schema.domains), num_items), dtype=np.int64)
    for _, item, domain, _ in train:
        item_count[domain, item] += 1
    return Dataset(
        path=Path("nowhere"),
        schema=schema,
        schema_hash=schema.hash(),
        vocabulary_sizes={"user": num_users, "item": num_items, **(sizes or {})},
        events={s: _events(splits[s], schema, clock, context, None if s == "train" else candidates) for s in SPLITS},
        history=_history(train, valid, num_users, clock),
        item_count=item_count,
        features=features or {},
    )


def _events(
    positives: Sequence[Positive],
    schema: Schema,
    clock: bool,
    context: Callable[[Positive], Mapping[str, int | list[int]]] | None,
    candidates: Callable[[Positive], list[int]] | None,
) -> Events:
    rows = sorted(positives, key=lambda p: (p[2], p[0], p[3]))
    values = [context(row) for row in rows] if context else []
    columns: dict[str, Column | Lists] = {}
    for field in schema.fields:
        if field.side == "context":
            column = [value[field.name] for value in values]
            if field.kind == "multi_valued":
                columns[field.name] = lists_of([value for value in column if isinstance(value, list)])
            else:
                columns[field.name] = np.array(column, dtype=np.int32)
    listed = None
    if candidates is not None:
        lists = [sorted(candidates(row)) for row in rows]
        width = max((len(items) for items in lists), default=0)
        padded = [[*items, *[-1] * (width - len(items))] for items in lists]
        listed = np.array(padded, dtype=np.int32).reshape(len(rows), width)
    return Events(
        user_row=np.array([row[0] for row in rows], dtype=np.int32),
        item_row=np.array([row[1] for row in rows], dtype=np.int32),
        domain=np.array([row[2] for row in rows], dtype=np.int16),
        time=np.array([row[3] for row in rows], dtype=np.int64) if clock else None,
        context=columns,
        candidates=listed,
    )


def _history(train: Sequence[Positive], valid: Sequence[Positive], num_users: int, clock: bool) -> History:
    offsets, train_end, taken = [0], [], []
    for user in range(num_users):
        for part in (train, valid):
            own = [p for p in part if p[0] == user and p[0] > 0 and p[1] > 0]
            taken += sorted(own, key=lambda p: p[3]) if clock else own
            if part is train:
                train_end.append(len(taken))
        offsets.append(len(taken))
    return History(
        offsets=np.array(offsets, dtype=np.int64),
        train_end=np.array(train_end, dtype=np.int64),
        item_row=np.array([p[1] for p in taken], dtype=np.int32),
        domain=np.array([p[2] for p in taken], dtype=np.int16),
        time=np.array([p[3] for p in taken], dtype=np.int64) if clock else None,
    )


def lists_of(lists: Sequence[Sequence[int]]) -> Lists:
    values = np.array([value for values in lists for value in values], dtype=np.int32)
    return Lists(values, np.cumsum([0, *(len(values) for values in lists)]).astype(np.int64))


def random_positives(seed: int, counts: Sequence[int], *, num_users: int, num_items: int) -> list[Positive]:
    """`counts[d]` positives of domain d, none of row 0; popular items come more often; times may repeat."""
    rng = np.random.default_rng(seed)
    rows: list[Positive] = []
    for domain, count in enumerate(counts):
        users = rng.integers(1, num_users, count)
        items = 1 + (rng.random(count) ** 2 * (num_items - 1)).astype(int)
        times = rng.integers(0, 50, count)
        rows += [(int(u), int(i), domain, int(t)) for u, i, t in zip(users, items, times, strict=True)]
    return rows


def rich_dataset(
    counts: Sequence[int] = (40, 25, 9),
    *,
    seed: int = 0,
    clock: bool = True,
    corpora: Mapping[str, tuple[str, ...]] | None = None,
) -> Dataset:
    """A dataset with every kind of field, three domains and 12 users, and items 1 to 20."""
    rng = np.random.default_rng(seed)
    num_users, num_items = 13, 21
    genres = [rng.integers(1, 6, rng.integers(0, 4)).tolist() for _ in range(num_items)]

    def number(count: int) -> NDArray[np.float32]:
        return rng.standard_normal(count).astype(np.float32)

    return tiny_dataset(
        random_positives(seed, counts, num_users=num_users, num_items=num_items),
        random_positives(seed + 1, [6] * len(counts), num_users=num_users, num_items=num_items),
        random_positives(seed + 2, [6] * len(counts), num_users=num_users, num_items=num_items),
        num_users=num_users,
        num_items=num_items,
        schema=tiny_schema(corpora=corpora, fields=RICH_FIELDS, clock=clock),
        sizes={"age": 5, "hour": 4, "seller": 7, "genre": 6},
        features={
            "age": rng.integers(0, 5, num_users).astype(np.int32),
            "income": number(num_users),
            "seller": rng.integers(0, 7, 3 * num_items).astype(np.int32),
            "genre": lists_of(genres),
            "price": number(3 * num_items),
        },
        context=lambda p: {"hour": 1 + p[3] % 3, "tags": [1 + (p[0] + k) % 5 for k in range(p[1] % 3)]},
        candidates=lambda p: sorted({p[1], *range(1, 21, 3)}),
    )


def sizes_of(dataset: Dataset) -> tuple[FeatureSizes, FeatureSizes, dict[str, int]]:
    """What a model of all fields is told: the user's sizes, the item's, and the rows of each table."""
    return feature_sizes(dataset, "user", None), feature_sizes(dataset, "item", None), table_sizes(dataset, None)
