from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from isthmus.data.audit import audit
from isthmus.data.init import draft_schema
from isthmus.data.prepare import prepare

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


def test_what_cannot_be_guessed_is_said(tmp_path: Path) -> None:
    table = pa.table({"customer": ["a", "b"], "asin": ["x", "y"], "ts": [1_700_000_000_000] * 2, "rating": [5, 1]})
    pq.write_table(table, tmp_path / "log.parquet")
    text, doubts = draft_schema([tmp_path / "log.parquet"])
    events = yaml.safe_load(text)["events"]
    assert (events["user"], events["item"], events["domain"]) == ("customer", "asin", "FILL_IN")
    assert events["files"] == [str(tmp_path / "log.parquet")]
    assert "time" not in events
    assert events["positive"] == {"column": "rating", "at_least": 4}
    for words in ("events.domain", "milliseconds", "goes up to 5", "there is no clock"):
        assert any(words in doubt for doubt in doubts), words
