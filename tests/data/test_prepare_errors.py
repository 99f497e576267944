"""What a user can get wrong in a log or its declaration: the message names the place, the value and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.small_logs import BIDS, EVENTS, ITEMS, declaration, rich_declaration, write_log

from isthmus.data.prepare import prepare
from isthmus.errors import InputError


@dataclass(frozen=True)
class Mistake:
    """A change to a log that works, and words of the message."""

    name: str
    words: tuple[str, ...]
    change: Callable[[dict[str, Any]], None] = lambda content: None
    files: dict[str, str] = field(default_factory=dict)


def events(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["events"].update(changes)


def whole(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(changes)


MISTAKES = (
    Mistake("unknown key", ("log.yaml", "events.usr", "did you mean 'user'"), events(usr="user")),
    Mistake("unknown key of a field", ("fields.0.colunm", "'column'"), lambda c: c["fields"][0].update(colunm="x")),
    Mistake("unknown key of a split", ("split.tset", "'test'"), lambda c: c["split"].update(tset=0.1)),
    Mistake("share out of range", ("split.test", "1.5"), lambda c: c["split"].update(test=1.5)),
    Mistake("missing key", ("fields", "missing"), lambda c: c.pop("fields")),
    Mistake("domain that YAML reads as a number", ("domains.1", "quotes"), whole(domains={1: {}, "b": {}})),
    Mistake("missing file", ("evnts.csv", "did you mean 'events.csv'"), events(files=["evnts.csv"])),
    Mistake("no file matches", ("part*.csv", "no file matches"), events(files=["part*.csv"])),
    Mistake("file listed twice", ("events.csv", "listed twice"), events(files=["events.csv", "events.csv"])),
    Mistake("unknown ending", ("log.yaml", ".yaml", ".parquet"), events(files=["log.yaml"])),
    Mistake("mixed endings", (".csv", ".yaml"), events(files=["events.csv", "log.yaml"])),
    Mistake("empty file", ("events.csv", "empty"), files={"events": ""}),
    Mistake("header alone", ("events.csv", "only a header"), files={"events": EVENTS.splitlines()[0] + "\n"}),
    Mistake("missing column", ("'usr'", "events.user", "did you mean 'user'"), events(user="usr")),
    Mistake("missing user", ("row 2", "'user'", "empty"), files={"events": EVENTS.replace("007,i2", ",i2")}),
    Mistake("missing domain", ("row 3", "'domain'"), files={"events": EVENTS.replace("u2,i1,b,3", "u2,i1,,3")}),
    Mistake("time is text", ("row 4", "'time'", "'noon'"), files={"events": EVENTS.replace(",4,", ",noon,")}),
    Mistake("time is missing", ("row 4", "'time'"), files={"events": EVENTS.replace(",4,", ",,")}),
    Mistake(
        "milliseconds",
        ("1700000000000", "{column: time, unit: ms}"),
        files={"events": EVENTS.replace(",4,", ",1700000000000,")},
    ),
    Mistake("infinite number", ("row 2", "price", "'inf'"), files={"items": ITEMS.replace(",20,", ",inf,")}),
    Mistake("too large", ("row 2", "price", "'1e300'", "1e+30"), files={"items": ITEMS.replace(",20,", ",1e300,")}),
    Mistake("not a number", ("row 2", "price", "'nan'"), files={"items": ITEMS.replace(",20,", ",nan,")}),
    Mistake(
        "missing number", ("fields.price", "1 of 4", "missing: mean"), files={"items": ITEMS.replace(",20,", ",,")}
    ),
    Mistake("two rows of an item", ("items.csv", "'i1'", "2 rows"), files={"items": ITEMS + "i1,red,x,1,Again\n"}),
    Mistake("two bids", ("bids.csv", "'i1'", "for each domain"), files={"bids": BIDS + "i1,a,9\n"}),
    Mistake("unknown domain", ("row 3", "'b'", "unknown_domain"), whole(domains={"a": {}})),
    Mistake("domain without events", ("domains.c", "no training positive"), whole(domains={"a": {}, "b": {}, "c": {}})),
    Mistake("no positives", ("no row is a positive",), events(positive={"column": "hour", "at_least": 99})),
    Mistake("label is text", ("row 1", "'item'", "'i1'"), events(positive={"column": "item", "at_least": 1})),
    Mistake("too few rows", ("split", "too few"), files={"events": "\n".join(EVENTS.splitlines()[:3]) + "\n"}),
    Mistake("strange split", ("row 1", "'hour'", "train, valid, test"), whole(split={"by": "given", "column": "hour"})),
    Mistake(
        "positive without a list",
        ("'u2'", "'i5'", "no candidate list"),
        whole(candidates={"files": ["lists.csv"]}),
        {"lists": "user,domain,items\nu3,b,i5\n"},
    ),
    Mistake(
        "positive is not in its list",
        ("'u2'", "'i5'", "not in its user's"),
        whole(candidates={"files": ["lists.csv"]}),
        {"lists": "user,domain,items\nu2,b,i1\n"},
    ),
    Mistake("table of the other side", ("fields.tags.source",), lambda c: c["fields"][5].update(side="user")),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_place_and_remedy(tmp_path: Path, mistake: Mistake) -> None:
    content = rich_declaration()
    mistake.change(content)
    log = write_log(tmp_path / "log", content, **{"items": ITEMS, "bids": BIDS, **mistake.files})
    with pytest.raises(InputError) as caught:
        prepare(log, tmp_path / "out")
    message = str(caught.value)
    assert str(tmp_path) in message
    for word in mistake.words:
        assert word in message, message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_all_mistakes_were_tried() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == 34


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    (log.parent / "events.csv").write_bytes(EVENTS.replace("u3", "caf\xe9").encode("latin-1"))
    with pytest.raises(InputError, match=r"events\.csv.*UTF-8"):
        prepare(log, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.rindex(",")], r"line \d+ has 4 values, the header names 5; was the file cut off"),
        (lambda text: text + 'u1,"i1,a,9\n', r"line \d+: unexpected end of data; is a quote not closed"),
        (lambda text: text.replace("user,", "user,user,", 1), "column 'user' stands 2 times in the header"),
        (lambda text: text.replace("user,", "User,user,", 1), "columns 'User' and 'user' differ in capitals alone"),
    ],
)
def test_a_text_file_that_is_cut_or_ambiguous_is_named_with_its_line(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    log = write_log(tmp_path / "log")
    (log.parent / "events.csv").write_text(change(EVENTS), encoding="utf-8")
    with pytest.raises(InputError, match=rf"events\.csv: {message}"):
        prepare(log, tmp_path / "out")


def test_columns_without_a_name_are_let_be(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    lines = [f"{line},," for line in EVENTS.strip().splitlines()]
    (log.parent / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert prepare(log, tmp_path / "out").events["train"].num_rows > 0


def test_a_file_without_any_line_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    (log.parent / "events.csv").write_bytes(b"x" * 200_000)
    with pytest.raises(InputError, match=r"events\.csv"):
        prepare(log, tmp_path / "out")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    content = declaration()
    content["events"]["files"] = ["events.parquet"]
    log = write_log(tmp_path / "log", content)
    (log.parent / "events.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"events\.parquet.*not readable"):
        prepare(log, tmp_path / "out")


def test_floating_point_ids_are_refused(tmp_path: Path) -> None:
    content = declaration()
    content["events"]["files"] = ["events.parquet"]
    log = write_log(tmp_path / "log", content)
    table = pa.table({"user": [1.0, 2.0], "item": ["a", "b"], "domain": ["a", "b"], "time": [1, 2]})
    pq.write_table(table, log.parent / "events.parquet")
    with pytest.raises(InputError, match=r"'user'.*floating-point"):
        prepare(log, tmp_path / "out")


@pytest.mark.parametrize("column", ["time", "clicked"])
def test_a_number_that_is_none_is_refused_in_parquet_too(tmp_path: Path, column: str) -> None:
    """A Parquet file's own bounds know no NaN, so that an engine may skip a file that has one."""
    content = declaration()
    content["events"] |= {"files": ["events.parquet"], "positive": {"column": "clicked", "at_least": 1}}
    log = write_log(tmp_path / "log", content)
    numbers = {"time": [float(n) for n in range(1, 9)], "clicked": [1.0] * 8}
    numbers[column][2] = float("nan")
    ids = {"user": ["u"] * 8, "item": list("stuvwxyz"), "domain": ["a", "b"] * 4}
    pq.write_table(pa.table({**ids, **numbers}), log.parent / "events.parquet")
    with pytest.raises(InputError, match=rf"row 3, column '{column}'.*nan is not a finite number"):
        prepare(log, tmp_path / "out")


@pytest.mark.parametrize("name", ["events[1]", "events?", "events*"])
def test_a_name_with_the_signs_of_a_pattern_is_that_files_alone(tmp_path: Path, name: str) -> None:
    content = declaration()
    content["events"]["files"] = [f"{name}.csv"]
    log = write_log(tmp_path / "log", content, **{name: EVENTS, "events1": "user,item,domain,time\nu9,i1,a,5\n"})
    plain = prepare(write_log(tmp_path / "plain"), tmp_path / "same")
    assert prepare(log, tmp_path / "out").vocabulary("user") == plain.vocabulary("user")


def test_a_table_that_knows_nobody_of_the_log_is_told_of(tmp_path: Path) -> None:
    content = rich_declaration()
    content["fields"] = [field for field in content["fields"] if field["name"] not in ("price", "bid")]
    log = write_log(tmp_path / "log", content, items=ITEMS.replace("\ni", "\nI"))
    with pytest.warns(UserWarning, match=r"items\.csv: column 'item' .*has no item of training, its first value is 'I"):
        prepare(log, tmp_path / "out")


def test_the_wrong_one_of_several_files_is_named(tmp_path: Path) -> None:
    content = declaration()
    content["events"]["files"] = ["events.csv", "more.csv"]
    log = write_log(tmp_path / "log", content, more="user,item,domain,time\nu1,i1,a,5\nu1,i2,a,late\n")
    with pytest.raises(InputError, match=r"more\.csv: row 2.*'late'"):
        prepare(log, tmp_path / "out")
