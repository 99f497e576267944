"""Labelled rows: what is kept of a log, how they are split, what is drawn, and what a row may know."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small_logs import declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.features import RankingReader
from isthmus.data.new_rows import read_new_rows
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


STARS = {"name": "stars", "side": "row", "kind": "statistic", "of": "user", "value": "mean", "column": "rating"}


def rated(**changes: Any) -> dict[str, Any]:
    """A declaration of a log with ratings, a positive from four stars on, and the mean rating of the row's user."""
    events = {
        "files": ["events.csv"],
        "user": "user",
        "item": "item",
        "domain": "domain",
        "time": "time",
        "positive": {"column": "rating", "at_least": 4},
    }
    ranking = {"negatives": "explicit", "prior": 0.0}
    fields = [*declaration()["fields"], STARS | changes]
    return declaration(events=events, ranking=ranking, fields=fields, split={"by": "time", "valid": 0.2, "test": 0.2})


RATED = """user,item,domain,time,rating
u1,i1,a,1,5
u1,i2,a,2,2
u1,i1,b,3,1
u2,i2,b,4,4
u1,i3,a,5,4
u2,i1,a,6,1
u1,i2,b,7,3
u2,i3,b,8,5
u1,i4,a,9,5
u2,i4,b,10,2
"""


def test_the_mean_of_an_outcome_is_of_the_rows_before_and_new_rows_know_it_too(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", rated(), events=RATED)
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.impressions is not None
    train, test = dataset.impressions["train"], dataset.impressions["test"]
    assert np.asarray(train.outcomes["rating"]).tolist() == [5.0, 2.0, 4.0, 1.0, 1.0, 4.0]  # by domain, user, time
    assert not test.outcomes
    # In a: u1 knows nothing, 5, then 5 and 2; u2 nothing of his own, so the 11 / 3 of the domain. In b: u1 nothing;
    # u2 the 1 of the domain. Over what is known the mean is 3.2916... and 0 stands for what is not.
    known = np.array([5.0, 3.5, 11 / 3, 1.0])
    expected = (known - known.mean()) / known.std()
    stored = np.asarray(train.context["stars"])
    assert stored.tolist() == pytest.approx([0.0, expected[0], expected[1], expected[2], 0.0, expected[3]], abs=1e-6)
    # Of the two test rows u1 has 5, 2 and 4 in a, and u2 the single 4 in b.
    of_test = [(11 / 3 - known.mean()) / known.std(), (4.0 - known.mean()) / known.std()]
    assert np.asarray(test.context["stars"]).tolist() == pytest.approx(of_test, abs=1e-6)
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item,domain,time\nu2,i4,b,10\nu1,i4,a,9\n", encoding="utf-8")
    assert np.asarray(read_new_rows(dataset, rows).events.context["stars"]).tolist() == pytest.approx(of_test, abs=1e-6)


@pytest.mark.parametrize("of", ["user", "item"])
def test_an_adjusted_mean_is_stored_as_new_rows_know_it(tmp_path: Path, of: str) -> None:
    content = rated(value="adjusted_mean", of=of, scope="all")
    content["fields"].append(STARS | {"name": "plain", "of": of, "scope": "all"})
    dataset = prepare(write_log(tmp_path / "log", content, events=RATED), tmp_path / "dataset")
    assert dataset.impressions is not None
    test = dataset.impressions["test"]
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item,domain,time\nu1,i4,a,9\nu2,i4,b,10\n", encoding="utf-8")
    new = read_new_rows(dataset, rows).events
    for name in ("stars", "plain"):
        assert np.asarray(new.context[name]).tolist() == pytest.approx(np.asarray(test.context[name]).tolist())
    train = dataset.impressions["train"]
    assert not np.allclose(np.asarray(train.context["stars"]), np.asarray(train.context["plain"]))


@pytest.mark.parametrize(
    ("content", "events", "message"),
    [
        (
            rated(value="count"),
            RATED,
            "an outcome is for a 'mean' or 'adjusted_mean' over explicit negatives; a count has",
        ),
        (rated() | {"ranking": {"negatives": {"per_positive": 1}}}, RATED, "nor has a drawn negative"),
        (rated(column="seconds"), RATED, "no column 'seconds'"),
        (rated(), RATED.replace("2,i4,b,10,2", "2,i4,b,10,"), "row 10, column 'rating'"),
    ],
)
def test_an_outcome_that_is_not_there_is_refused(
    tmp_path: Path, content: dict[str, Any], events: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        prepare(write_log(tmp_path / "log", content, events=events), tmp_path / "dataset")
    assert message in str(caught.value)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("draw", ["uniform", "popularity", "same_split", "time_window"])
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


@pytest.mark.parametrize(("draw", "share"), [("popularity", 0.0), ("same_split", 0.5)])
def test_items_that_training_does_not_know_are_as_many_of_the_negatives_as_of_the_positives_of_a_split(
    tmp_path: Path, draw: str, share: float
) -> None:
    rows = ["u000,b1,b,1,1", "u000,b2,b,1,2", "u000,b3,b,1,3"]
    for user in range(200):
        last = f"new{user % 9}" if user % 2 else f"a{(user + 3) % 7}"
        taken = (f"a{user % 7}", f"a{10 + user % 7}", last)
        rows += [f"u{user:03},{item},a,1,{time}" for time, item in enumerate(taken)]
    negatives = {"per_positive": 2, "draw": draw}
    dataset = ranked(
        tmp_path, log_of(rows, clock=True), clock=True, split={"by": "last_out"}, ranking={"negatives": negatives}
    )
    test = [(item == "", label) for _, item, domain, label in pairs(dataset, "test") if domain == "a"]
    unknown = [[is_unknown for is_unknown, label in test if label == kind] for kind in (0, 1)]
    assert sum(unknown[1]) == 100
    assert len(unknown[0]) > 350
    assert sum(unknown[0]) / len(unknown[0]) == pytest.approx(share, abs=0.06)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (ranked(tmp_path / name, ratings()) for name in ("one", "other"))
    assert (one.path / "manifest.json").read_bytes() == (other.path / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("split", "how"),
    [({"by": "random"}, "at random"), ({"by": "cold_users", "domain": "a", "source": "b", "min_rows": 1}, "by users")],
)
def test_splits_that_ask_no_clock_are_warned_of_on_a_log_that_has_one(
    tmp_path: Path, split: dict[str, Any], how: str
) -> None:
    with pytest.warns(UserWarning, match=f"{how} on a log with a clock"):
        ranked(tmp_path, ratings(clock=True), clock=True, split=split)
