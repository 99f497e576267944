"""Times in a log: numbers, timestamps and ISO 8601 text are the same moments, and what is neither is named."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.small_logs import declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.new_rows import read_new_rows
from isthmus.data.prepare import prepare
from isthmus.data.tables import declared_clock
from isthmus.errors import InputError
from isthmus.schema import Clock, EventLog

START = 1_795_996_800  # 2026-11-30 at midnight: 20,787 days after 1970
NUM_ROWS = 20


def csv_log(times: list[str]) -> str:
    lines = [f"u{n % 3},i{n % 7},{'ab'[n % 2]},{time}\n" for n, time in enumerate(times)]
    return "user,item,domain,time\n" + "".join(lines)


def prepared(folder: Path, times: list[str], **events: Any) -> Dataset:
    content = declaration()
    content["events"] |= events
    return prepare(write_log(folder / "log", content, events=csv_log(times)), folder / "out")


def prepared_parquet(folder: Path, times: pa.Array) -> Dataset:
    content = declaration()
    content["events"]["files"] = ["events.parquet"]
    log = write_log(folder / "log", content)
    ids = {"user": [f"u{n % 3}" for n in range(NUM_ROWS)], "item": [f"i{n % 7}" for n in range(NUM_ROWS)]}
    domains = ["ab"[n % 2] for n in range(NUM_ROWS)]
    pq.write_table(pa.table({**ids, "domain": domains, "time": times}), log.parent / "events.parquet")
    return prepare(log, folder / "out")


def times_of(dataset: Dataset) -> list[float]:
    found = [np.asarray(events.time) for events in dataset.events.values()]
    return sorted(np.concatenate(found).tolist())


def hours(form: str) -> list[str]:
    """An hour a row, from midnight on."""
    return [form.format(hour=n) for n in range(NUM_ROWS)]


HOURLY = [START + 3600 * n for n in range(NUM_ROWS)]
FORMS = {
    "2026-11-30T{hour:02}:00:00": HOURLY,
    "2026-11-30 {hour:02}:00:00": HOURLY,
    "2026-11-30T{hour:02}:00:00Z": HOURLY,
    "2026-11-30T{hour:02}:00Z": HOURLY,
    "2026-11-30T{hour:02}:00:00+02:00": [time - 7200 for time in HOURLY],
    "2026-11-30T{hour:02}:00:00-0530": [time + 19_800 for time in HOURLY],
    "2026-11-30T{hour:02}:00:00.250": [time + 0.25 for time in HOURLY],
    "2026-11-30T{hour:02}:00:00.999999Z": [time + 0.999999 for time in HOURLY],
}


@pytest.mark.parametrize("form", FORMS)
def test_iso_8601_text_is_seconds_since_1970(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # the machine's own zone says nothing of a log
    dataset = prepared(tmp_path, hours(form))
    assert times_of(dataset) == FORMS[form]
    times = dataset.events["train"].time
    assert times is not None
    assert times.dtype == (np.int64 if "." not in form else np.float64)


def test_all_forms_were_tried() -> None:
    assert len(FORMS) == 8


def test_dates_are_their_midnights(tmp_path: Path) -> None:
    days = [f"2026-11-{n + 1:02}" for n in range(NUM_ROWS)]
    assert times_of(prepared(tmp_path / "csv", days)) == [START + 86_400 * (n - 29) for n in range(NUM_ROWS)]
    as_dates = pa.array([datetime.date.fromisoformat(day) for day in days])
    assert times_of(prepared_parquet(tmp_path / "dates", as_dates)) == times_of(Dataset.open(tmp_path / "csv/out"))


@pytest.mark.parametrize(
    "times",
    [
        pa.array(hours("2026-11-30T{hour:02}:00:00.7Z")),
        pa.array(hours("2026-11-30T{hour:02}:00:00.7Z"), pa.large_string()),
        pa.array([1000 * time + 700 for time in HOURLY], pa.timestamp("ms")),
        pa.array([1000 * time + 700 for time in HOURLY], pa.timestamp("ms", tz="Asia/Tokyo")),
        pa.array([1_000_000 * time + 700_000 for time in HOURLY], pa.timestamp("us")),
        pa.array([1_000_000_000 * time + 700_000_000 for time in HOURLY], pa.timestamp("ns")),
    ],
    ids=lambda times: str(times.type),
)
def test_parquets_texts_and_timestamps_keep_the_parts_of_a_second(tmp_path: Path, times: pa.Array) -> None:
    assert times_of(prepared_parquet(tmp_path, times)) == [time + 0.7 for time in HOURLY]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_numbers_of_a_declared_unit_become_seconds(tmp_path: Path, unit: str, per_second: int) -> None:
    clock = {"column": "time", "unit": unit}
    whole = prepared(tmp_path / "whole", [str(time * per_second) for time in HOURLY], time=clock)
    assert times_of(whole) == HOURLY
    assert np.asarray(whole.events["train"].time).dtype == np.int64
    if per_second > 1:
        halves = [str(time * per_second + per_second // 2) for time in HOURLY]
        assert times_of(prepared(tmp_path / "halves", halves, time=clock)) == [time + 0.5 for time in HOURLY]
    # What says its moment itself has no unit.
    assert times_of(prepared(tmp_path / "iso", hours("2026-11-30T{hour:02}:00:00"), time=clock)) == HOURLY


MISTAKES = {
    "no time": (["noon"], {}, r"row 5, column 'time' .*'noon' is no ISO 8601 time.*as the column's first value is"),
    "no such day": (["2026-02-30"], {}, r"row 5.*'2026-02-30' is no ISO 8601 time"),
    "another order": (["30.11.2026"], {}, r"row 5.*'30.11.2026' is no ISO 8601 time"),
    "a number among texts": (
        ["1795996800", "1"],
        {},
        r"row 5.*'1795996800' is no ISO 8601 time.*\(2 such rows in all\)",
    ),
    "empty": (['""'], {}, r"row 5.*is empty; every event needs its time"),
    "unit": ([], {"time": {"column": "time", "unit": "min"}}, r"events.time.unit: 'min' is none of 's', 'ms', 'us'"),
    "key": ([], {"time": {"column": "time", "unt": "ms"}}, r"events.time.unt: unknown setting; did you mean 'unit'"),
    "column": ([], {"time": {"column": "tme", "unit": "ms"}}, r"no column 'tme' \(events.time\); did you mean 'time'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_time_is_named_with_its_file_row_and_value(tmp_path: Path, name: str) -> None:
    wrong, events, message = MISTAKES[name]
    times = hours("2026-11-30T{hour:02}:00:00Z")
    times[4 : 4 + len(wrong)] = wrong
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, times, **events)


def test_a_text_among_numbers_is_named(tmp_path: Path) -> None:
    times = [str(time) for time in HOURLY]
    times[4] = "2026-11-30"
    with pytest.raises(
        InputError, match=r"events\.csv: row 5.*'2026-11-30' is not a finite number of .*; write all rows"
    ):
        prepared(tmp_path, times)


@pytest.mark.parametrize("per_second", [1000, 1_000_000])
def test_a_finer_unit_that_is_not_declared_is_refused_with_what_to_declare(tmp_path: Path, per_second: int) -> None:
    with pytest.raises(
        InputError,
        match=r"row 1,.*milliseconds, divide by 1000 or declare .*'time: \{column: time, unit: ms\}' \(us: micro",
    ):
        prepared(tmp_path, [str(time * per_second) for time in HOURLY])


def test_a_declared_unit_that_is_too_coarse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 1,.*is past the year 5000, counted in ms"):
        prepared(tmp_path, [str(time * 10**6) for time in HOURLY], time={"column": "time", "unit": "ms"})


def test_a_plain_column_is_declared_as_before() -> None:
    plain = EventLog(files=("a.csv",), user="u", item="i", domain="d", time="t")
    assert declared_clock(plain) == Clock(column="t")
    assert plain.model_dump()["time"] == "t"
    assert declared_clock(EventLog(files=("a.csv",), user="u", item="i", domain="d")) is None


@pytest.mark.parametrize("form", ["2026-11-30T{hour:02}:00:00.5Z", "2026-11-30 {hour:02}:00:00.5", "parquet"])
def test_new_rows_are_read_as_the_log_is(tmp_path: Path, form: str) -> None:
    dataset = prepared(tmp_path, [str(time * 1000) for time in HOURLY], time={"column": "time", "unit": "ms"})
    rows = tmp_path / ("rows.parquet" if form == "parquet" else "rows.csv")
    if form == "parquet":
        moment = pa.array([START * 1000 + 500], pa.timestamp("ms"))
        pq.write_table(pa.table({"user": ["u1"], "item": ["i1"], "domain": ["a"], "time": moment}), rows)
    else:
        rows.write_text(csv_log([form.format(hour=0)]))
    time = read_new_rows(dataset, rows).events.time
    assert time is not None
    assert time.tolist() == [START + 0.5]
