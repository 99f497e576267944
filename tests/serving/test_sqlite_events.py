"""Recent events in a file: opened by several at once, of an older version, locked, removed."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import monotonic, sleep, time

import pytest

from isthmus.serving.event_store import MOST_RECENT, Event, EventsUnavailableError
from isthmus.serving.sqlite_events import SqliteEvents
from isthmus.serving.stored_events import open_store


def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    together, num_openings = Barrier(6), 0

    def open_and_write(file: str) -> int:
        together.wait()
        return open_store(file, retention_s=100.0).add([Event("u", "i", "a")], now=0.0)

    with ThreadPoolExecutor(6) as threads:
        for turn in range(20):
            file = str(tmp_path / f"{turn}.sqlite")
            assert list(threads.map(open_and_write, [file] * 6)) == [1] * 6
            assert len(open_store(file, retention_s=100.0).recent("u", now=0.0)) == 6
            num_openings += 6
    assert num_openings == 120


OPENS = """
import sys
from pathlib import Path
from time import sleep, time
from isthmus.serving.event_store import Event
from isthmus.serving.sqlite_events import SqliteEvents
folder = Path(sys.argv[1])
(folder / f"ready-{sys.argv[2]}").touch()
while not (folder / "go").exists():
    sleep(0.001)
began, added = float((folder / "go").read_text()), 0
for turn in range(20):
    while time() < began + 0.1 * turn:
        pass
    added += SqliteEvents(folder / f"{turn}.sqlite", retention_s=100.0).add([Event("u", "i", "a")], now=0.0)
print(added)
"""


def test_a_new_file_may_be_opened_by_several_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPENS, str(tmp_path)]
    opening = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    ends = monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < len(opening) and monotonic() < ends:
        sleep(0.01)
    (tmp_path / "go.partial").write_text(str(time() + 0.2))
    (tmp_path / "go.partial").rename(tmp_path / "go")
    assert [process.communicate(timeout=60) for process in opening] == [("20\n", "")] * 4
    for turn in range(20):
        assert len(open_store(str(tmp_path / f"{turn}.sqlite"), retention_s=100.0).recent("u", now=0.0)) == 4


def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(open_store, str(file), retention_s=100.0, answer_s=0.05)
        sleep(0.5)
        assert not opening.done()
        other.execute("ROLLBACK")
        other.close()
        assert opening.result().add([Event("u", "i", "a")], now=0.0) == 1


def test_what_is_found_and_what_is_made_of_it_are_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plain, others = tmp_path / "events.sqlite", SqliteEvents._make_tables, list[str]()

    def slow(self: SqliteEvents, connection: sqlite3.Connection) -> None:
        with sqlite3.connect(file, timeout=0.0) as other:
            try:
                other.execute("CREATE TABLE mine (a)")
            except sqlite3.OperationalError as error:
                others.append(str(error))
        other.close()
        plain(self, connection)

    monkeypatch.setattr(SqliteEvents, "_make_tables", slow)
    open_store(str(file), retention_s=100.0)
    assert others == ["database is locked"]


def test_a_file_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    with sqlite3.connect(file) as old:
        old.executescript(
            """
            CREATE TABLE event (number INTEGER PRIMARY KEY AUTOINCREMENT,
                user TEXT NOT NULL, item TEXT NOT NULL, domain TEXT NOT NULL, time REAL NOT NULL, id TEXT UNIQUE);
            CREATE INDEX event_of_user ON event (user, number);
            CREATE INDEX event_at ON event (time);
            CREATE TABLE forgotten (user TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
            INSERT INTO event (user, item, domain, time, id) VALUES ('u', 'i1', 'a', 0, 'x'), ('u', 'i2', 'b', 0, NULL);
            INSERT INTO forgotten VALUES ('v', 0);
            PRAGMA user_version = 1;
            """
        )
    old.close()
    for _ in range(2):
        store = open_store(str(file), retention_s=100.0)
        assert store.recent("u", now=1.0) == [("i1", "a"), ("i2", "b")]
        assert store.is_forgotten("v")
        assert store.add([Event("u", "i1", "a", "x")], now=1.0) == 0
    assert store.add([Event("w", "i1", "a", "x")], now=1.0) == 1
    store.add([Event("u", f"new{n}", "a", is_known=False) for n in range(MOST_RECENT)], now=1.0)
    assert store.recent("u", now=1.0)[:2] == [("i1", "a"), ("i2", "b")]  # what it kept is of items that were known
    with sqlite3.connect(file) as new:
        indexes = [name for (name,) in new.execute("SELECT sql FROM sqlite_master WHERE name = 'event_of_user'")]
    new.close()
    assert "is_known" in indexes[0]


def test_a_file_that_is_gone_is_said_and_another_in_its_place_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    store = open_store(str(file), retention_s=100.0)
    assert store.add([Event("u", "i1", "a")], now=0.0) == 1
    moved = tmp_path / "moved"
    file.rename(moved)
    asks: tuple[Callable[[], object], ...] = (
        lambda: store.add([Event("u", "i2", "a")], now=0.0),
        lambda: store.is_forgotten("u"),
    )
    for ask in asks:
        with pytest.raises(EventsUnavailableError, match="is gone"):
            ask()
    assert not file.exists()
    moved.rename(file)
    assert store.recent("u", now=0.0) == [("i1", "a")]
    file.unlink()
    open_store(str(file), retention_s=100.0)
    assert store.recent("u", now=0.0) == []
    assert store.add([Event("u", "i3", "a")], now=0.0) == 1
    assert open_store(str(file), retention_s=100.0).recent("u", now=0.0) == [("i3", "a")]


def test_a_file_that_is_removed_during_a_write_is_said(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    store = open_store(str(file), retention_s=100.0)
    with pytest.raises(EventsUnavailableError, match="was removed while it was written"):
        store.add([Event("u", "i1", "a")], now=0.0, decide=file.unlink)


def test_a_locked_file_is_said_within_the_time_given(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    store = open_store(str(file), retention_s=100.0, answer_s=0.2)
    store.add([Event("u", "i1", "a")], now=0.0)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = monotonic()
    with pytest.raises(EventsUnavailableError, match="locked"):
        store.add([Event("u", "i2", "a")], now=0.0)
    assert 0.1 < monotonic() - started < 4.0  # SQLite's own patience is 5 s
    assert store.recent("u", now=0.0) == [("i1", "a")]
    with ThreadPoolExecutor(1) as threads:  # nor does a thread wait that has not read before
        assert threads.submit(store.recent, "u", now=0.0).result() == [("i1", "a")]
    other.execute("ROLLBACK")
    other.close()
    assert store.recent("u", now=0.0) == [("i1", "a")]


def test_many_old_events_are_deleted_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.serving.sqlite_events.EXPIRED_AT_ONCE", 10)
    store = open_store(str(tmp_path / "events.sqlite"), retention_s=100.0)
    store.add([Event("u", f"i{n}", "a") for n in range(25)], now=0.0)
    store.add([Event("u", "new", "a")], now=50.0)
    assert store.expire(now=100.0) == 25
    assert store.recent("u", now=100.0) == [("new", "a")]
