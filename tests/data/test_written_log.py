"""A log that a verb has written may be written again; nothing of anyone else's ever loses its place to it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tests.data.public.test_xmrec import write_market
from tests.small_logs import write_log

from isthmus.data.public.xmrec import ingest_xmrec
from isthmus.data.simulator import simulate
from isthmus.errors import InputError

Write = Callable[[Path, Path], Path]


def simulated(_: Path, out: Path) -> Path:
    return simulate(out, num_users=60, num_items=40)


def ingested(source: Path, out: Path) -> Path:
    if not source.exists():
        write_market(source, "s1")
    return ingest_xmrec(source, out)


WRITERS = pytest.mark.parametrize("write", [simulated, ingested])


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def without_head(log: Path) -> None:
    """As an earlier version wrote it."""
    log.write_text(yaml.safe_dump(yaml.safe_load(log.read_text()), sort_keys=False))


@WRITERS
def test_a_log_that_is_as_it_was_written_is_replaced(tmp_path: Path, write: Write) -> None:
    log = write(tmp_path / "source", tmp_path / "log")
    before = content(log.parent)
    events = log.parent / "events.parquet"
    pq.write_table(pq.read_table(events).slice(0, 1), events)
    write(tmp_path / "source", tmp_path / "log")
    assert content(log.parent) == before
    without_head(log)
    write(tmp_path / "source", tmp_path / "log")
    assert content(log.parent) == before


@WRITERS
@pytest.mark.parametrize("change", ["edited", "edited before it had a head", "another name", "one more file", "own"])
def test_a_log_of_ones_own_is_not_replaced(tmp_path: Path, write: Write, change: str) -> None:
    log = write_log(tmp_path / "log") if change == "own" else write(tmp_path / "source", tmp_path / "log")
    match change:
        case "edited":
            log.write_text(log.read_text().replace("seed: 0", "seed: 1"))
        case "edited before it had a head":
            without_head(log)
            log.write_text("# Mine.\n" + log.read_text())
        case "another name":
            without_head(log)
            named = {**yaml.safe_load(log.read_text()), "name": "mine"}
            log.write_text(yaml.safe_dump(named, sort_keys=False))
        case "one more file":
            (log.parent / "notes.txt").write_text("precious")
    before = content(log.parent)
    words = "'notes.txt' in it was not written by" if change == "one more file" else "is not an output of this command"
    with pytest.raises(InputError, match=f"log: .*{words}.*; give another path or move it away"):
        write(tmp_path / "source", tmp_path / "log")
    assert content(log.parent) == before


def test_no_importer_replaces_the_log_of_another(tmp_path: Path) -> None:
    log = simulated(tmp_path, tmp_path / "log")
    before = content(log.parent)
    with pytest.raises(InputError, match="not an output of this command"):
        ingested(tmp_path / "source", tmp_path / "log")
    assert content(log.parent) == before
