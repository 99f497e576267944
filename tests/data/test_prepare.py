import errno
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from tests.small_logs import BIDS, EVENTS, ITEMS, declaration, rich_declaration, write_log

from isthmus.data.dataset import SPLITS, Dataset, Lists, read_manifest
from isthmus.data.prepare import prepare
from isthmus.errors import InputError


def checksums(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def triples(dataset: Dataset, split: str) -> list[tuple[str, str, str]]:
    events = {name: dataset.events[name] for name in SPLITS if name == split}.popitem()[1]
    users, items = ["?", *dataset.vocabulary("user")], ["?", *dataset.vocabulary("item")]
    names = dataset.schema.domain_names
    rows = zip(events.user_row, events.item_row, events.domain, strict=True)
    return [(users[user], items[item], names[domain]) for user, item, domain in rows]


def test_splits_by_time_and_keeps_ids_as_text(tmp_path: Path) -> None:
    dataset = prepare(write_log(tmp_path / "log"), tmp_path / "out")
    assert triples(dataset, "train") == [
        ("007", "i1", "a"),
        ("007", "i2", "a"),
        ("u2", "i1", "a"),
        ("u3", "i2", "a"),
        ("007", "i3", "b"),
        ("u2", "i1", "b"),
        ("u2", "i3", "b"),
        ("u3", "i4", "b"),
    ]
    assert triples(dataset, "valid") == [("u3", "i1", "a")]
    # Training has no i5: its row is that of everything unseen.
    assert triples(dataset, "test") == [("u2", "?", "b")]
    assert dataset.vocabulary("item") == ["i1", "i2", "i3", "i4"]


def test_counts_and_histories_are_of_training_and_validation(tmp_path: Path) -> None:
    dataset = prepare(write_log(tmp_path / "log"), tmp_path / "out")
    # Columns: unseen, i1, i2, i3, i4. In a: i1 by 007 and u2, i2 by 007 and u3. In b: i1 and i3 by u2, i3, i4.
    assert dataset.item_count.tolist() == [[0, 2, 2, 0, 0], [0, 1, 0, 2, 1]]
    history = dataset.history
    # 007: i1 i2 i3; u2: i1 (b), i3, i1 (a); u3: i2 i4, then i1 of validation.
    assert history.item_row.tolist() == [1, 2, 3, 1, 3, 1, 2, 4, 1]
    assert history.domain.tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 0]
    assert history.time is not None
    assert history.time.tolist() == [1, 2, 8, 3, 4, 5, 6, 7, 9]
    assert history.offsets.tolist() == [0, 0, 3, 6, 9]
    assert history.train_end.tolist() == [0, 3, 6, 8]


def test_fields_are_encoded_with_what_training_rows_hold(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", rich_declaration(), items=ITEMS, bids=BIDS)
    dataset = prepare(log, tmp_path / "out")
    # i5 is not in training, so black, w and the price of 1000 are unknown to everything.
    assert dataset.vocabulary("colour") == ["blue", "green", "red"]
    assert dataset.vocabulary("tags") == ["x", "y", "z"]
    colour, tags, price, bid = (dataset.features[name] for name in ("colour", "tags", "price", "bid"))
    assert isinstance(colour, np.ndarray)
    assert colour.tolist() == [0, 3, 1, 3, 2]
    assert isinstance(tags, Lists)
    assert tags.offsets.tolist() == [0, 0, 2, 3, 3, 5]
    assert tags.values.tolist() == [1, 2, 2, 3, 1]
    # Mean 25, deviation sqrt((15^2 + 5^2) / 2) = sqrt(125).
    assert isinstance(price, np.ndarray)
    assert price.tolist() == pytest.approx([0, *((p - 25) / 125**0.5 for p in (10, 20, 30, 40))])
    # Bids that training uses: 1, 3 in a and 2, 6, 8 in b: mean 4, deviation sqrt((9 + 1 + 4 + 4 + 16) / 5) = sqrt(6.8).
    expected = [[0, 1 - 4, 3 - 4, 0, 0], [0, 2 - 4, 0, 6 - 4, 8 - 4]]
    assert isinstance(bid, np.ndarray)
    assert bid.reshape(2, 5) == pytest.approx(np.array(expected) / 6.8**0.5)
    titles = dataset.titles()
    assert titles is not None
    assert titles.tolist() == ["", "First", "Second", "Third", "Fourth"]
    # Hours of training: 10, 11, 12, 9 in the order of their text; 13 and 14 came later.
    assert dataset.vocabulary("hour") == ["10", "11", "12", "9"]
    context = [dataset.events[name].context["hour"] for name in SPLITS]
    assert [column.tolist() for column in context if isinstance(column, np.ndarray)] == [
        [4, 1, 4, 3, 1, 4, 2, 4],
        [0],
        [0],
    ]
    assert read_manifest(dataset.path)["numbers"]["price"] == pytest.approx({"mean": 25, "std": 125**0.5})


def test_a_field_of_the_log_has_the_value_of_the_latest_training_row(tmp_path: Path) -> None:
    content = declaration()
    content["fields"].append({"name": "hour", "side": "user", "kind": "categorical"})
    dataset = prepare(write_log(tmp_path / "log", content), tmp_path / "out")
    hours = ["?", *dataset.vocabulary("hour")]
    column = dataset.features["hour"]
    assert isinstance(column, np.ndarray)
    # 007's last training event is at 8 (hour 10), u2's at 5 (hour 9), u3's at 7 (hour 9).
    assert [hours[row] for row in column] == ["?", "10", "9", "9"]


def test_same_input_gives_the_same_bytes_in_any_order_of_rows(tmp_path: Path) -> None:
    content = {**rich_declaration(), "candidates": {"sampled": 2, "seed": 3}}
    # Rows that repeat each other but for the hour: which of them stays must not depend on their order either.
    header, *rows = EVENTS.splitlines()
    rows += ["007,i1,a,1,12", "007,i1,a,1,10", "u3,i3,a,9,1", "u3,i4,a,9,1"]
    ordered, shuffled = "\n".join([header, *rows]) + "\n", "\n".join([header, *rows[::-1]]) + "\n"
    first, again, other = (
        prepare(write_log(tmp_path / f"log{n}", content, items=ITEMS, bids=BIDS, events=text), tmp_path / str(n))
        for n, text in enumerate((ordered, ordered, shuffled))
    )
    assert len(checksums(first.path)) > 30
    assert checksums(first.path) == checksums(again.path) == checksums(other.path)


def test_the_form_of_the_file_makes_no_difference(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    from_csv = checksums(prepare(log, tmp_path / "a").path)
    table = pacsv.read_csv(
        log.parent / "events.csv", convert_options=pacsv.ConvertOptions(column_types={"user": "string"})
    )
    pq.write_table(table.slice(0, 4), log.parent / "part1.parquet")
    pq.write_table(table.slice(4), log.parent / "part2.parquet")
    (log.parent / "events.tsv").write_text(EVENTS.replace(",", "\t"))
    for files in (["part*.parquet"], ["part1.parquet", "part2.parquet"], ["events.tsv"]):
        content = declaration()
        content["events"]["files"] = files
        columns = checksums(prepare(write_log(tmp_path / "log", content), tmp_path / "b").path)
        assert {**columns, "manifest.json": ""} == {**from_csv, "manifest.json": ""}, files


def test_a_repeat_at_another_time_is_training_but_never_asked_for_again(tmp_path: Path) -> None:
    events = EVENTS.replace("u2,i5,b,10,14", "u2,i3,b,10,14") + "u2,i1,b,4,9\nu2,i1,b,3,9\n"
    dataset = prepare(write_log(tmp_path / "log", events=events), tmp_path / "out")
    # u2 takes i1 in b at 3 and at 4; the second row at 3 says it again; i3 at 10 was taken before.
    assert triples(dataset, "train").count(("u2", "i1", "b")) == 2
    assert dataset.events["test"].num_rows == 0
    counts = read_manifest(dataset.path)["counts"]["domains"]["b"]
    assert (counts["repeats"], counts["dropped_by_split"]) == (1, 1)


def test_without_a_clock_a_pair_counts_once(tmp_path: Path) -> None:
    events = {"files": ["events.csv"], "user": "user", "item": "item", "domain": "domain"}
    content = declaration(events=events, split={"by": "last_out", "seed": 0})
    dataset = prepare(write_log(tmp_path / "log", content, events=EVENTS + "007,i1,a,20,1\n"), tmp_path / "out")
    assert sum(dataset.events[name].num_rows for name in SPLITS) == 10
    assert dataset.history.time is None
    assert dataset.events["train"].time is None


def test_positives_are_chosen_by_their_label(tmp_path: Path) -> None:
    log = "user,item,domain,split,rating\nu1,i1,a,train,5\nu1,i2,a,train,3\nu1,i3,a,test,4.5\nu1,i4,a,valid,4\n"
    content = declaration(domains={"a": {}}, split={"by": "given"})
    for rule, kept in (({"at_least": 4}, 3), ({"values": ["5", "3"]}, 2), ({"values": ["5"]}, 1)):
        content["events"] = {
            "files": ["events.csv"],
            "user": "user",
            "item": "item",
            "domain": "domain",
            "positive": {"column": "rating", **rule},
        }
        if kept > 1:
            dataset = prepare(write_log(tmp_path / "log", content, events=log), tmp_path / "out")
            assert sum(dataset.events[name].num_rows for name in SPLITS) == kept


def test_domains_have_the_numbers_of_their_declaration(tmp_path: Path) -> None:
    first = prepare(write_log(tmp_path / "1"), tmp_path / "a")
    second = prepare(write_log(tmp_path / "2", declaration(domains={"b": {}, "a": {}})), tmp_path / "b")
    assert sorted(triples(first, "train")) == sorted(triples(second, "train"))
    assert second.item_count.tolist() == first.item_count[::-1].tolist()


def test_unknown_domains_go_to_the_declared_fallback(tmp_path: Path) -> None:
    content = declaration(domains={"a": {}, "other": {}}, unknown_domain="other")
    dataset = prepare(write_log(tmp_path / "log", content), tmp_path / "out")
    assert [row for row in triples(dataset, "train") if row[2] == "other"] == [
        ("007", "i3", "other"),
        ("u2", "i1", "other"),
        ("u2", "i3", "other"),
        ("u3", "i4", "other"),
    ]


def test_a_domain_with_one_row_and_a_user_with_one_event_work(tmp_path: Path) -> None:
    content = declaration(domains={"a": {}, "b": {}, "c": {}})
    dataset = prepare(write_log(tmp_path / "log", content, events=EVENTS + "u9,i9,c,0,1\n"), tmp_path / "out")
    assert triples(dataset, "train")[-1] == ("u9", "i9", "c")
    assert dataset.events["train"].domain_bounds(3) == [0, 4, 8, 9]


def test_given_candidates_are_rows_in_ascending_order(tmp_path: Path) -> None:
    lists = 'user,domain,items\nu2,b,"i5,i4,i2,unheard,i4"\nu3,a,"i1,i2"\nnobody,a,i1\n'
    content = declaration(candidates={"files": ["lists.csv"], "sampled": 2})
    dataset = prepare(write_log(tmp_path / "log", content, lists=lists), tmp_path / "out")
    candidates = dataset.events["test"].candidates
    assert candidates is not None
    # i5 (the positive) and the unheard are unseen; i4, listed twice, stands once.
    assert candidates.tolist() == [[0, 0, 2, 4]]


def test_drawn_candidates_come_from_the_corpus_and_leave_out_what_the_user_took(tmp_path: Path) -> None:
    content = declaration(candidates={"sampled": 9}, domains={"a": {"corpus": ["a", "b"]}, "b": {}})
    dataset = prepare(write_log(tmp_path / "log", content), tmp_path / "out")
    valid, test = dataset.events["valid"].candidates, dataset.events["test"].candidates
    assert valid is not None
    assert test is not None
    # u3 took i2, i4 and now i1; a may show i1 to i4, so only i3 is left. u2 took i1, i3; b may show i1, i3, i4.
    assert valid.tolist() == [[1, 3, *[-1] * 8]]
    assert test.tolist() == [[0, 4, *[-1] * 8]]


def test_times_of_a_split_end_before_the_next_begins_with_ties(tmp_path: Path) -> None:
    rows = [f"u{n},i{n},a,{n // 7}" for n in range(70)]
    content = declaration(domains={"a": {}})
    log = write_log(tmp_path / "log", content, events="\n".join(["user,item,domain,time", *rows]) + "\n")
    dataset = prepare(log, tmp_path / "out")
    times = [dataset.events[name].time for name in SPLITS]
    for before, after in pairwise(times):
        assert before is not None
        assert after is not None
        assert before.max() < after.min()
    assert [len(time) for time in times if time is not None] == [56, 7, 7]


@pytest.mark.parametrize("earlier", ["dataset", "nothing", "empty folder"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str) -> None:
    log = write_log(tmp_path / "log")
    out = tmp_path / "out"
    if earlier == "dataset":
        prepare(log, out)
    elif earlier == "empty folder":
        out.mkdir()
    before = checksums(out)

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("isthmus.data.write.DatasetFiles.array", fail)
    with pytest.raises(InputError, match="no space left"):
        prepare(log, out)
    assert checksums(out) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["log", *(["out"] if earlier != "nothing" else [])]
    )


def test_a_dataset_is_shown_as_a_line(tmp_path: Path) -> None:
    dataset = prepare(write_log(tmp_path / "log"), tmp_path / "out")
    assert repr(dataset) == f"Dataset({str(tmp_path / 'out')!r}, 'small' with 10 positives in a, b)"
    lines = "".join(f"u{n % 7},i{n % 5},{'abcdefg'[n % 7]},{n},{int(n % 3 > 0)}\n" for n in range(2100))
    many = declaration(domains={name: {} for name in "abcdefg"}, ranking={"negatives": "explicit"})
    many["events"]["positive"] = {"column": "clicked"}
    shown = repr(
        prepare(write_log(tmp_path / "many", many, events="user,item,domain,time,clicked\n" + lines), tmp_path / "m")
    )
    assert re.search(r"'small' with [0-9,]+ positives and 2,100 labelled rows in a, b, c, d, e and 2 more\)$", shown)


def test_replaces_a_dataset_but_nothing_else(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    first = checksums(prepare(log, tmp_path / "out").path)
    assert checksums(prepare(log, tmp_path / "out").path) == first
    with pytest.raises(InputError, match="not an output of this command"):
        prepare(log, tmp_path / "log")
    assert (tmp_path / "log" / "events.csv").read_text() == EVENTS


@pytest.mark.parametrize(
    ("manifest", "is_replaced"),
    [
        ({"format": 0}, True),
        ({"format": "1.0"}, True),
        ({"kind": "isthmus bundle"}, False),
        ({"schema_hash": None}, False),
        ({"files": []}, False),
        (None, False),
    ],
)
def test_a_manifest_alone_makes_no_dataset(tmp_path: Path, manifest: dict[str, Any] | None, is_replaced: bool) -> None:
    """Bundles and web pages have a file of that name too; a dataset of another format is still one."""
    log = write_log(tmp_path / "log")
    file = prepare(log, tmp_path / "out").path / "manifest.json"
    first = file.read_text()
    changed = {key: value for key, value in (json.loads(first) | (manifest or {})).items() if value is not None}
    file.write_text("no JSON" if manifest is None else json.dumps(changed))
    if is_replaced:
        prepare(log, tmp_path / "out")
        assert file.read_text() == first
        return
    before = checksums(tmp_path / "out")
    with pytest.raises(InputError, match="out: exists and is not an output of this command"):
        prepare(log, tmp_path / "out")
    assert checksums(tmp_path / "out") == before


def test_a_file_of_ones_own_in_a_dataset_is_not_lost(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    prepare(log, tmp_path / "out")
    for name in ("more.txt", "events/notes.txt"):
        (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(InputError, match=r"out: 'events/notes.txt' in it was not written by this command, nor 1 more"):
        prepare(log, tmp_path / "out")
    assert (tmp_path / "out" / "more.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("num_values", "kind"), [(127, np.int8), (128, np.int16), (32_767, np.int16), (32_768, np.int32)]
)
def test_a_field_is_kept_as_narrow_as_its_values_allow(tmp_path: Path, num_values: int, kind: type) -> None:
    lines = (f"u,i{n},{'ab'[n % 2]},{n},s{n % num_values:05}\n" for n in range(2 * num_values))
    schema = declaration(
        fields=[
            {"name": "user", "side": "user", "kind": "id"},
            {"name": "item", "side": "item", "kind": "id"},
            {"name": "shade", "side": "context", "kind": "categorical"},
        ],
        split={"by": "time", "valid": 0.1, "test": 0.1},
    )
    events = "user,item,domain,time,shade\n" + "".join(lines)
    dataset = prepare(write_log(tmp_path / "log", schema, events=events), tmp_path / "out")
    rows = dataset.events["train"].context["shade"]
    assert isinstance(rows, np.ndarray)
    assert rows.dtype == kind
    assert np.unique(rows).tolist() == list(range(1, num_values + 1))
