"""Labelled rows: what is kept of a log, how they are split, what is drawn, and what a row may know."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small_logs import declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.features import RankingReader
from isthmus.data.prepare import prepare
from isthmus.errors import InputError

STATISTICS = [
    {"name": "user_mean", "side": "row", "kind": "statistic", "of": "user", "value": "mean"},
    {"name": "item_count", "side": "row", "kind": "statistic", "of": "item", "value": "count"},
]


def log_of(rows: list[str], *, clock: bool = False) -> str:
    return "user,item,domain,clicked" + (",time" if clock else "") + "\n" + "\n".join(rows) + "\n"


def ratings(seed: int = 0, *, num_users: int = 12, clock: bool = False, domains: str = "ab") -> str:
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        for number, domain in enumerate(domains):
            for item in rng.permutation(9)[:6]:
                time = f",{100 + int(rng.integers(200))}" if clock else ""
                rows.append(f"u{user:02},{domain}{item},{domain},{int((user + item + number) % 3 == 0)}{time}")
    return log_of(rows, clock=clock)


def ranked(folder: Path, events: str, *, clock: bool = False, **changes: Any) -> Dataset:
    content = declaration(split={"by": "time"} if clock else {"by": "random"}, ranking={"negatives": "explicit"})
    content["events"] = {
        "files": ["events.csv"],
        "user": "user",
        "item": "item",
        "domain": "domain",
        "positive": {"column": "clicked"},
    } | ({"time": "time"} if clock else {})
    content["fields"] = [*content["fields"], *STATISTICS]
    return prepare(write_log(folder / "log", content | changes, events=events), folder / "dataset")


def pairs(dataset: Dataset, split: str) -> list[tuple[str, str, str, int]]:
    assert dataset.impressions is not None
    rows = dataset.impressions["train" if split == "train" else "valid" if split == "valid" else "test"]
    users, items = ["", *dataset.vocabulary("user")], ["", *dataset.vocabulary("item")]
    names = dataset.schema.domain_names
    assert rows.label is not None
    columns = zip(rows.user_row, rows.item_row, rows.domain, rows.label, strict=True)
    return [(users[u], items[i], names[d], int(y)) for u, i, d, y in columns]


def test_every_labelled_row_is_in_one_split_with_its_label(tmp_path: Path) -> None:
    events = ratings()
    dataset = ranked(tmp_path, events)
    assert dataset.impressions is not None
    counts = [dataset.impressions[split].num_rows for split in ("train", "valid", "test")]
    assert counts == [144 - 14 - 14, 14, 14]
    for user, item, domain, label in pairs(dataset, "train"):
        assert f"{user},{item},{domain},{label}" in events


def test_of_equal_rows_the_positive_stays(tmp_path: Path) -> None:
    events = ratings() + "u00,a0,a,0\nu00,a0,a,1\n"
    dataset = ranked(tmp_path, events)
    found = [row for split in ("train", "valid", "test") for row in pairs(dataset, split) if row[:2] == ("u00", "a0")]
    assert found == [("u00", "a0", "a", 1)]


def test_retrieval_sees_the_positives_alone(tmp_path: Path) -> None:
    dataset = ranked(tmp_path, ratings())
    positives = {row[:3] for row in pairs(dataset, "train") if row[3]}
    users, items = ["", *dataset.vocabulary("user")], ["", *dataset.vocabulary("item")]
    train = dataset.events["train"]
    taken = {
        (users[u], items[i], "ab"[d]) for u, i, d in zip(train.user_row, train.item_row, train.domain, strict=True)
    }
    assert taken == positives


def test_a_random_split_of_a_domain_does_not_depend_on_the_others(tmp_path: Path) -> None:
    events = ratings()
    only_a = "\n".join(line for line in events.splitlines() if ",b," not in line) + "\n"
    both = ranked(tmp_path / "both", events)
    alone = ranked(tmp_path / "alone", only_a, domains={"a": {}})
    assert sorted(r for r in pairs(both, "test") if r[2] == "a") == sorted(pairs(alone, "test"))


def test_cold_users_have_no_training_row_in_the_domain_and_enough_in_the_source(tmp_path: Path) -> None:
    split = {"by": "cold_users", "domain": "a", "source": "b", "min_rows": 5, "valid": 0.2, "test": 0.3}
    dataset = ranked(tmp_path, ratings(), split=split)
    trained = {user for user, _, domain, _ in pairs(dataset, "train") if domain == "a"}
    tested = pairs(dataset, "test")
    assert {domain for _, _, domain, _ in tested} == {"a"}
    users = {user for user, *_ in tested}
    assert len(users) == 4  # three tenths of twelve
    assert not users & trained
    assert all(
        sum(user == other and domain == "b" for other, _, domain, _ in pairs(dataset, "train")) >= 5 for user in users
    )
    further = ranked(tmp_path / "more", ratings(domains="abc"), split=split, domains={"a": {}, "b": {}, "c": {}})
    assert {user for user, *_ in pairs(further, "test")} == users


@pytest.mark.parametrize(
    ("events", "changes", "message"),
    [
        (ratings() + "u00,a0,a,2\n", {}, "row 145, column 'clicked' (events.positive.column): '2' is no label"),
        (ratings().replace(",0\n", ",1\n"), {}, "no training row is a negative"),
        (ratings().replace(",a,1", ",a,0"), {}, "domains.a: no training positive"),
        (
            ratings(),
            {"split": {"by": "cold_users", "domain": "a", "source": "b", "min_rows": 50}},
            "0 users have 50 source rows or more",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(tmp_path: Path, events: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ranked(tmp_path, events, **changes)
    assert message in str(caught.value)
    assert not (tmp_path / "dataset").exists()


def test_a_row_of_the_unlabelled_fold_knows_all_of_training_and_a_training_row_not_its_own_fold(tmp_path: Path) -> None:
    dataset = ranked(tmp_path, ratings(), ranking={"negatives": "explicit", "folds": 2})
    assert dataset.impressions is not None
    train = dataset.impressions["train"]
    assert train.fold is not None
    assert set(np.asarray(train.fold).tolist()) == {0, 1}
    reader = RankingReader(dataset, None)
    features = reader.read(train, np.arange(train.num_rows), "train")
    bag = features.user.bags[0]
    positives = {
        (int(u), int(i)): int(f)
        for u, i, f, y in zip(train.user_row, train.item_row, train.fold, np.asarray(train.label), strict=True)
        if y
    }
    for row in range(train.num_rows):
        seen = bag.values[int(bag.offsets[row]) : int(bag.offsets[row + 1])].tolist()
        user, fold = int(train.user_row[row]), int(train.fold[row])
        assert sorted(seen) == sorted(i for (u, i), f in positives.items() if u == user and f != fold)
    test = dataset.impressions["test"]
    assert test.fold is not None
    assert set(np.asarray(test.fold).tolist()) == {-1}


def test_with_a_clock_splits_end_before_the_next_and_statistics_are_of_the_past(tmp_path: Path) -> None:
    dataset = ranked(tmp_path, ratings(clock=True), clock=True)
    assert dataset.impressions is not None
    parts = [dataset.impressions[split] for split in ("train", "valid", "test")]
    times = [np.asarray(part.time) for part in parts if part.time is not None]
    assert times[0].max() < times[1].min()
    assert times[1].max() < times[2].min()
    train = parts[0]
    count = np.asarray(train.context["item_count"])
    first = np.asarray(train.time) == times[0].min()
    assert np.allclose(count[first], count.min())  # nothing lies before the first moment


@pytest.mark.parametrize("draw", ["uniform", "popularity", "time_window"])
def test_negatives_are_drawn_in_the_domain_among_what_the_user_has_not_taken(tmp_path: Path, draw: str) -> None:
    rng = np.random.default_rng(1)
    rows = [
        f"u{user:02},{domain}{item},{domain},1,{int(rng.integers(1000))}"
        for user in range(20)
        for domain in "ab"
        for item in rng.permutation(30)[:5]
    ]
    dataset = ranked(
        tmp_path,
        log_of(rows, clock=True),
        clock=True,
        ranking={"negatives": {"per_positive": 3, "draw": draw, "window": 20}},
    )
    taken = {tuple(row.split(",")[:2]) for row in rows}
    negatives = 0
    for split in ("train", "valid", "test"):
        for user, item, domain, label in pairs(dataset, split):
            if label or not item:
                continue
            negatives += 1
            assert item.startswith(domain)
            if user and split == "test":
                assert (user, item) not in taken
    assert dataset.impressions is not None
    assert dataset.impressions["train"].label is not None
    assert float(np.mean(dataset.impressions["train"].label)) == pytest.approx(0.25, abs=0.02)
    assert negatives > 400


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (ranked(tmp_path / name, ratings()) for name in ("one", "other"))
    assert (one.path / "manifest.json").read_bytes() == (other.path / "manifest.json").read_bytes()
