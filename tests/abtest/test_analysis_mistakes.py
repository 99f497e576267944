"""What cannot be measured, or not be read, is refused in words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.abtest.small_logs import shown, write_logs

import isthmus
from isthmus.errors import InputError


def test_rows_that_stand_twice_are_refused(logs: Path) -> None:
    shutil.copy(logs / "impressions-1.parquet", logs / "impressions-2.parquet")
    with pytest.raises(InputError, match=r"impressions-1.parquet: request 'r1' stands there twice, or also in impress"):
        isthmus.ab(logs)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"start": "yesterday"}, "--from 'yesterday': not a time; write 2026-11-01"),
        ({"start": "2026-11-02", "end": "2026-11-01"}, "is not before to"),
        ({"start": "2027-01-01"}, "no impressions of 'trial' between --from and --to; they run from 2026-11-01T12"),
        ({"attribution_h": 0.0}, "attribution 0: must be above 0"),
        ({"attribution_h": 1e9}, "at most 8784 hours"),
        ({"segments": "none.csv"}, "none.csv: no such file"),
    ],
)
def test_what_cannot_be_asked_is_refused(logs: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        isthmus.ab(logs, **asked)


def test_a_process_that_measures_loads_no_torch_takes_times_as_utc_and_tells_a_wrong_kind_of_revenue(
    logs: Path,
) -> None:
    # In a process without shape checks, as a user's is.
    code = f"""
import sys, isthmus
analysis = isthmus.ab({str(logs)!r}, start="2026-11-01T13:00")
print(analysis.overview.rows_in_span, "torch" in sys.modules)
try:
    isthmus.ab({str(logs)!r}, revenue="view")
except isthmus.InputError as error:
    print(error)
"""
    environment = {**os.environ, "TZ": "Asia/Tokyo"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert done.stdout.splitlines() == ["{'trial': 5} False", "revenue: 'view' is none of 'click', 'order'"]
    assert done.stderr == ""


def test_files_that_are_no_logs_are_named(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no impressions-"):
        isthmus.ab(tmp_path)
    write_logs(tmp_path / "empty", [])
    with pytest.raises(InputError, match="nothing was shown yet"):
        isthmus.ab(tmp_path / "empty")
    write_logs(tmp_path / "none", shown("r1", "u1", None, "a"))
    with pytest.raises(InputError, match="no impression there is of an experiment; serve with --experiment FILE"):
        isthmus.ab(tmp_path / "none")
    (logs / "impressions-2.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"impressions-2.parquet: cannot be read"):
        isthmus.ab(logs)
    pq.write_table(pa.table({"time": [1]}), logs / "impressions-2.parquet")
    with pytest.raises(InputError, match=r"impressions-2.parquet: has columns time; expected time, request, user"):
        isthmus.ab(logs)
    (logs / "impressions-2.parquet").unlink()
    pq.write_table(pa.table({"request": ["r"]}), logs / "feedback-2.parquet")
    with pytest.raises(InputError, match=r"feedback-2.parquet: has columns request"):
        isthmus.ab(logs)
