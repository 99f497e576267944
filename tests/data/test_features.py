from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import HISTORY, ITEM_ID, Positive, rich_dataset, sizes_of, tiny_dataset, tiny_schema

from isthmus.batch import Bag
from isthmus.data.dataset import Dataset
from isthmus.data.features import (
    FeatureReader,
    HistoryReader,
    HistorySpan,
    first_not_before,
    gather_lists,
    keep_values,
)

LISTS = st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=6)


def offsets_of(lists: list[list[int]]) -> np.ndarray:
    return np.array([0, *accumulate(map(len, lists))], dtype=np.int64)


def values_of(lists: list[list[int]]) -> np.ndarray:
    return np.array([value for values in lists for value in values], dtype=np.int64)


def lists_from(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    assert offsets[-1] == len(values)
    return [values[start:end].tolist() for start, end in pairwise(offsets.tolist())]


def bag_lists(bag: Bag) -> list[list[int]]:
    return lists_from(bag.values.numpy(), bag.offsets.numpy())


@given(LISTS, st.data(), st.one_of(st.none(), st.integers(1, 4)))
def test_gathered_lists_are_slices_and_keep_their_last_values(
    lists: list[list[int]], data: st.DataObject, max_length: int | None
) -> None:
    values, offsets = values_of(lists), offsets_of(lists)
    rows = np.array(data.draw(st.lists(st.integers(0, max(0, len(lists) - 1)), max_size=7 if lists else 0)), np.int64)
    gathered = gather_lists(values, offsets[rows], offsets[rows + 1] if len(rows) else offsets[rows], max_length)
    assert lists_from(*gathered) == [lists[row][-max_length:] if max_length else lists[row] for row in rows]


@given(LISTS, st.sets(st.integers(0, 5)))
def test_kept_values_stay_in_their_lists(lists: list[list[int]], kept: set[int]) -> None:
    values = values_of(lists)
    keep = np.array([value in kept for value in values.tolist()], dtype=bool)
    assert lists_from(*keep_values(values, offsets_of(lists), keep)) == [[v for v in vs if v in kept] for vs in lists]


@given(LISTS, st.data())
def test_first_not_before_is_where_a_scan_stops(lists: list[list[int]], data: st.DataObject) -> None:
    lists = [sorted(values) for values in lists]
    limit = [data.draw(st.integers(-1, 7)) for _ in lists]
    offsets = offsets_of(lists)
    span = HistorySpan(offsets[:-1], offsets[1:], np.full(len(lists), -1))
    expected = [
        start + sum(value < bound for value in values)
        for start, values, bound in zip(offsets.tolist(), lists, limit, strict=False)
    ]
    assert first_not_before(values_of(lists), span, np.array(limit, np.int64)).tolist() == expected


USER = 1
TRAIN: list[Positive] = [(USER, 11, 0, 1), (USER, 12, 1, 2), (USER, 13, 0, 3), (USER, 11, 0, 4), (USER, 14, 0, 4)]
VALID: list[Positive] = [(USER, 15, 0, 5), (USER, 16, 1, 6)]
TEST: list[Positive] = [(USER, 17, 0, 9), (USER, 18, 1, 6)]


def dataset_of(*, clock: bool, valid: list[Positive] = VALID, test: list[Positive] = TEST) -> Dataset:
    return tiny_dataset(TRAIN, valid, test, num_users=3, num_items=20, schema=tiny_schema(clock=clock))


def seen(dataset: Dataset, split: str, *, scope: str, max_length: int | None = None) -> dict[Positive, list[int]]:
    """The history that each row of a split may see."""
    events = dataset.events["train" if split == "train" else "valid" if split == "valid" else "test"]
    rows = np.arange(events.num_rows)
    reader = HistoryReader(dataset)
    own = np.asarray(events.domain, dtype=np.int64) if scope == "own" else None
    lists = lists_from(*reader.lists(reader.event_span(events, rows, split), own, max_length))
    source = {"train": TRAIN, "valid": VALID, "test": TEST}[split]
    ordered = sorted(source, key=lambda p: (p[2], p[0], p[3]))
    assert [p[1] for p in ordered] == events.item_row.tolist()
    return dict(zip(ordered, lists, strict=True))


def test_with_a_clock_a_training_row_sees_only_what_came_strictly_before_it() -> None:
    own = seen(dataset_of(clock=True), "train", scope="own")
    assert own[(USER, 11, 0, 1)] == []
    assert own[(USER, 12, 1, 2)] == []
    assert own[(USER, 13, 0, 3)] == [11]
    # Items 11 and 14 come at one moment: neither sees the other; the earlier 11 is part of the past.
    assert own[(USER, 11, 0, 4)] == [11, 13]
    assert own[(USER, 14, 0, 4)] == [11, 13]
    everywhere = seen(dataset_of(clock=True), "train", scope="all")
    assert everywhere[(USER, 12, 1, 2)] == [11]
    assert everywhere[(USER, 14, 0, 4)] == [11, 12, 13]


def test_with_a_clock_held_out_rows_see_the_past_of_their_splits() -> None:
    valid = seen(dataset_of(clock=True), "valid", scope="all")
    assert valid[(USER, 15, 0, 5)] == [11, 12, 13, 11, 14]
    assert valid[(USER, 16, 1, 6)] == [11, 12, 13, 11, 14]  # 15 came before, but belongs to validation
    test = seen(dataset_of(clock=True), "test", scope="all")
    assert test[(USER, 17, 0, 9)] == [11, 12, 13, 11, 14, 15, 16]
    assert test[(USER, 18, 1, 6)] == [11, 12, 13, 11, 14, 15]  # 16 comes at the same moment


def test_a_test_row_sees_no_training_row_of_its_future() -> None:
    # Held out by user and domain, not by one clock: validation rows may be older than training rows.
    test = seen(dataset_of(clock=True, valid=[(USER, 15, 0, 2), (USER, 16, 1, 3)]), "test", scope="all")
    assert test[(USER, 18, 1, 6)] == [11, 12, 15, 13, 16, 11, 14]  # in order of time, over both parts
    early = tiny_dataset(
        [(USER, 11, 0, 1), (USER, 12, 1, 8), (USER, 13, 1, 9)],
        [(USER, 14, 0, 3), (USER, 15, 0, 4)],
        [(USER, 16, 0, 5)],
        num_users=2,
        num_items=20,
        schema=tiny_schema(),
    )
    reader = HistoryReader(early)
    span = reader.event_span(early.events["test"], np.arange(1), "test")
    assert lists_from(*reader.lists(span, None)) == [[11, 14, 15]]
    assert lists_from(*reader.lists(span, None, 2)) == [[14, 15]]


@pytest.mark.parametrize("scope", ["own", "all"])
def test_without_a_clock_a_training_row_never_sees_its_own_target(scope: str) -> None:
    histories = seen(dataset_of(clock=False), "train", scope=scope)
    assert len(histories) == 5
    for row, items in histories.items():
        assert row[1] not in items  # 11 is taken twice: both are left out
    others = {"own": [13, 14], "all": [12, 13, 14]}
    assert histories[(USER, 11, 0, 1)] == others[scope]
    assert histories[(USER, 11, 0, 4)] == others[scope]


def test_without_a_clock_held_out_rows_see_the_splits_before_theirs() -> None:
    valid = seen(dataset_of(clock=False), "valid", scope="own")
    assert valid == {(USER, 15, 0, 5): [11, 13, 11, 14], (USER, 16, 1, 6): [12]}
    test = seen(dataset_of(clock=False), "test", scope="own")
    assert test == {(USER, 17, 0, 9): [11, 13, 11, 14, 15], (USER, 18, 1, 6): [12, 16]}


@pytest.mark.parametrize("clock", [True, False])
def test_max_length_keeps_the_latest_of_the_scope(clock: bool) -> None:
    test = seen(dataset_of(clock=clock), "test", scope="own", max_length=2)
    assert test == {(USER, 17, 0, 9): [14, 15], (USER, 18, 1, 6): [12] if clock else [12, 16]}


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["train", "valid", "test"]))
def test_histories_are_those_of_a_plain_loop(seed: int, clock: bool, split: str) -> None:
    rng = np.random.default_rng(seed)

    def positives(count: int) -> list[Positive]:
        return [tuple(rng.integers((1, 1, 0, 0), (4, 6, 2, 5)).tolist()) for _ in range(count)]

    train, valid, test = positives(12), positives(4), positives(4)
    schema = tiny_schema(domains=("a", "b"), clock=clock)
    dataset = tiny_dataset(train, valid, test, num_users=4, num_items=6, schema=schema)
    events = dataset.events["train" if split == "train" else "valid" if split == "valid" else "test"]
    reader = HistoryReader(dataset)
    span = reader.event_span(events, np.arange(events.num_rows), split)
    found = lists_from(*reader.lists(span, np.asarray(events.domain, np.int64)))
    past = train + (valid if split == "test" else [])
    for row, items in enumerate(found):
        user, item, domain = int(events.user_row[row]), int(events.item_row[row]), int(events.domain[row])
        before = [p for p in past if p[0] == user and p[2] == domain]
        if events.time is not None:
            before = [p for p in before if p[3] < events.time[row]]
        elif split == "train":
            before = [p for p in before if p[1] != item]
        assert sorted(items) == sorted(p[1] for p in before)


def test_features_are_the_stored_values_of_the_right_rows() -> None:
    dataset = rich_dataset()
    events = dataset.events["train"]
    rows = np.array([3, 50, 70, 41])
    user, domain = np.asarray(events.user_row[rows], np.int64), np.asarray(events.domain[rows], np.int64)
    span = HistoryReader(dataset).event_span(events, rows, "train")
    reader = FeatureReader(dataset, "user", None)
    features = reader.read(user, domain, span=span, events=events, event_rows=rows)
    hour = events.context["hour"]
    assert isinstance(hour, np.ndarray)
    age = dataset.features["age"]
    assert isinstance(age, np.ndarray)
    assert features.categorical.tolist() == [
        [u, int(age[u]), int(hour[row])] for u, row in zip(user.tolist(), rows.tolist(), strict=True)
    ]
    income = dataset.features["income"]
    assert isinstance(income, np.ndarray)
    assert features.number[:, 0].tolist() == income[user].tolist()
    names = sizes_of(dataset)[0].names
    assert names == ("user", "age", "hour", "taken", "anywhere", "tags", "income")
    taken, anywhere, tags = features.bags
    assert max(len(items) for items in bag_lists(anywhere)) == 3
    items = np.asarray(events.item_row[rows])
    expected_tags = [
        [1 + (u + k) % 5 for k in range(i % 3)] for u, i in zip(user.tolist(), items.tolist(), strict=True)
    ]
    assert bag_lists(tags) == expected_tags
    assert len(bag_lists(taken)) == 4


def test_a_field_by_domain_is_read_from_the_domains_own_block() -> None:
    dataset = rich_dataset()
    price, seller = dataset.features["price"], dataset.features["seller"]
    assert isinstance(price, np.ndarray)
    assert isinstance(seller, np.ndarray)
    items, domain = np.array([5, 5, 5, 20]), np.array([0, 1, 2, 2])
    features = FeatureReader(dataset, "item", None).read(items, domain)
    blocks = [5, 21 + 5, 42 + 5, 42 + 20]  # 21 items a block
    assert features.number[:, 0].tolist() == price[blocks].tolist()
    assert features.categorical.tolist() == [[i, int(seller[b])] for i, b in zip(items.tolist(), blocks, strict=True)]
    genre = dataset.features["genre"]
    assert not isinstance(genre, np.ndarray)
    assert bag_lists(features.bags[0]) == [
        genre.values[genre.offsets[i] : genre.offsets[i + 1]].tolist() for i in items
    ]


def test_sizes_name_tables_and_the_domains_that_have_a_field() -> None:
    dataset = rich_dataset()
    user, item, tables = sizes_of(dataset)
    assert user.categorical == ("user", "age", "hour")
    assert user.bags == ("item", "anywhere", "genre")
    assert (user.num_numbers, item.num_numbers) == (1, 1)
    assert item.names == ("item", "seller", "genre", "price")
    assert item.present == ((True, True, True, True), (True, False, True, True), (True, True, True, True))
    assert tables == {"user": 13, "age": 5, "hour": 4, "item": 21, "anywhere": 21, "genre": 6, "seller": 7}


def test_chosen_fields_alone_are_read() -> None:
    dataset = rich_dataset()
    reader = FeatureReader(dataset, "item", ["price", "item", "user"])
    features = reader.read(np.array([4]), np.array([1]))
    assert features.categorical.tolist() == [[4]]
    assert features.bags == ()
    assert features.number.shape == (1, 1)


@pytest.mark.parametrize(("chosen", "message"), [(["itme"], "unknown field 'itme'"), (["user"], "side 'item'")])
def test_a_choice_that_cannot_be_read_is_refused(chosen: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureReader(rich_dataset(), "item", chosen)


def test_reading_no_rows_gives_no_rows() -> None:
    dataset = tiny_dataset(TRAIN, num_users=3, num_items=20, schema=tiny_schema(fields=(HISTORY, ITEM_ID)))
    none = np.empty(0, dtype=np.int64)
    span = HistoryReader(dataset).span(none, "train")
    features = FeatureReader(dataset, "user", None).read(none, none, span=span)
    assert features.num_rows == 0
    assert features.bags[0].offsets.tolist() == [0]
    assert features.number.dtype == torch.float32
