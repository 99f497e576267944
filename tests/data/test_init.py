from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml

from isthmus.data.audit import audit
from isthmus.data.init import draft_schema
from isthmus.data.prepare import prepare
from isthmus.errors import InputError

COLOURS = ("red", "blue", "green")


def write_csv(file: Path) -> None:
    lines = ["UserId,ItemId,market,timestamp,clicked,colour,tags,price,hour,constant"]
    for number in range(240):
        user, item = number % 12, number * 7 % 60
        tags = "x|y" if item % 2 else "y|z"
        lines.append(
            f"00{user},i{item},{'uk' if number % 3 else 'de'},{1_700_000_000 + number * 60},{int(number % 4 > 0)},"
            f"{COLOURS[item % 3]},{tags},{item * 1.5},{number % 24},same"
        )
    file.write_text("\n".join(lines) + "\n")


def test_a_log_is_drafted_so_that_it_can_be_prepared(tmp_path: Path) -> None:
    write_csv(tmp_path / "clicks.csv")
    text, doubts = draft_schema([tmp_path / "clicks.csv"], folder=tmp_path)
    content = yaml.safe_load(text)
    assert content["events"] == {
        "files": ["clicks.csv"],
        "user": "UserId",
        "item": "ItemId",
        "domain": "market",
        "time": "timestamp",
        "positive": {"column": "clicked", "at_least": 1},
    }
    assert content["domains"] == {"de": {}, "uk": {}}
    assert content["split"]["by"] == "time"
    # What the item determines is the item's, the hour is the event's, and one value for all says nothing.
    assert {field["name"]: (field["side"], field["kind"]) for field in content["fields"][3:]} == {
        "colour": ("item", "categorical"),
        "tags": ("item", "multi_valued"),
        "price": ("item", "number"),
        "hour": ("context", "categorical"),
    }
    for doubt in doubts:
        assert f"# Doubt: {doubt}\n" in text
    assert any("'constant'" in doubt for doubt in doubts)
    assert any(doubt.startswith("ranking: ") and "{negatives: explicit}" in doubt for doubt in doubts)
    (tmp_path / "log.yaml").write_text(text)
    dataset = prepare(tmp_path / "log.yaml", tmp_path / "out")
    assert "001" in dataset.vocabulary("user")
    assert [finding for finding in audit(dataset.path) if not finding.ok] == []


@pytest.mark.parametrize(("domain", "label"), [("shop", "bought"), ("Site", "is_buy"), ("region", "liked")])
def test_common_names_of_domains_and_labels_are_known(tmp_path: Path, domain: str, label: str) -> None:
    write_csv(tmp_path / "clicks.csv")
    text = (tmp_path / "clicks.csv").read_text()
    (tmp_path / "clicks.csv").write_text(text.replace("market", domain, 1).replace("clicked", label, 1))
    events = yaml.safe_load(draft_schema([tmp_path / "clicks.csv"], folder=tmp_path)[0])["events"]
    assert (events["domain"], events["positive"]["column"]) == (domain, label)


def test_what_cannot_be_guessed_is_said(tmp_path: Path) -> None:
    table = pa.table({"customer": ["a", "b"], "asin": ["x", "y"], "ts": ["30.11.2026"] * 2, "rating": [5, 1]})
    pq.write_table(table, tmp_path / "log.parquet")
    text, doubts = draft_schema([tmp_path / "log.parquet"])
    events = yaml.safe_load(text)["events"]
    assert (events["user"], events["item"], events["domain"]) == ("customer", "asin", "FILL_IN")
    assert events["files"] == [str(tmp_path / "log.parquet")]
    assert "time" not in events
    assert events["positive"] == {"column": "rating", "at_least": 4}
    for words in ("events.domain", "not ISO 8601", "goes up to 5", "there is no clock"):
        assert any(words in doubt for doubt in doubts), words


START = 1_795_996_800  # 2026-11-30 at midnight
CLOCKS = {
    "ts_ms": (pa.array([(START + n) * 1000 for n in range(240)]), {"column": "ts_ms", "unit": "ms"}),
    "event_ts": (pa.array([(START + n) * 1_000_000 for n in range(240)]), {"column": "event_ts", "unit": "us"}),
    "ts": (pa.array([START + n for n in range(240)]), "ts"),
    "created_at": (pa.array([f"2026-11-30T12:{n // 60:02}:{n % 60:02}.5Z" for n in range(240)]), "created_at"),
    "date": (pa.array([f"2026-11-{n // 10 + 1:02}" for n in range(240)]), "date"),
    "moment": (pa.array([(START + n) * 1000 for n in range(240)], pa.timestamp("ms", tz="UTC")), "moment"),
    "day": (pa.array([20_000 + n for n in range(240)], pa.int32()).cast(pa.date32()), "day"),
}


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_of_times_is_the_clock_and_the_draft_can_be_prepared(tmp_path: Path, name: str, form: str) -> None:
    times, clock = CLOCKS[name]
    ids = {"user": [f"u{n % 12}" for n in range(240)], "item": [f"i{n * 7 % 60}" for n in range(240)]}
    table = pa.table({**ids, "market": [("uk", "de")[n % 2] for n in range(240)], name: times})
    file = tmp_path / f"log.{form}"
    if form == "csv":
        pacsv.write_csv(table, file)
    else:
        pq.write_table(table, file)
    text, _ = draft_schema([file], folder=tmp_path)
    content = yaml.safe_load(text)
    assert content["events"]["time"] == clock
    assert content["split"]["by"] == "time"
    assert [field["name"] for field in content["fields"]] == ["user_id", "history", "item_id"]
    (tmp_path / "log.yaml").write_text(text)
    time = prepare(tmp_path / "log.yaml", tmp_path / "out").events["train"].time
    assert time is not None
    assert 1e9 < float(time[0]) < 2e9


def test_a_second_column_of_times_is_no_field(tmp_path: Path) -> None:
    lines = [f"u{n % 5},i{n % 7},a,{START + n},2026-11-30 12:{n // 60:02}:{n % 60:02}" for n in range(200)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,domain,time,seen", *lines]) + "\n")
    text, doubts = draft_schema([tmp_path / "log.csv"])
    assert "seen" not in [field["name"] for field in yaml.safe_load(text)["fields"]]
    assert any("'seen' is left out, it holds times" in doubt for doubt in doubts)


def test_a_folder_is_said_to_be_one_with_the_files_in_it(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is a folder; give files of it \(events.files\), such as a.parquet, b.csv$"):
        draft_schema([tmp_path])
    with pytest.raises(InputError, match=r"empty: is a folder; .*, no .parquet, .csv or .tsv is there$"):
        draft_schema([tmp_path / "empty"])


def test_a_column_with_a_comma_in_its_name_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('"price, net",when\n1,2\n3,4\n')
    _, doubts = draft_schema([tmp_path / "log.csv"])
    assert any("(columns: 'price, net', when)" in doubt for doubt in doubts)
