"""The store of events: durable, shared, idempotent, and nothing of a forgotten user is left in it."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.serving.event_store import Event, EventStore


def store(folder: Path, *, retention_s: float = 100.0) -> EventStore:
    return EventStore(folder / "events.sqlite", retention_s=retention_s)


def test_events_come_back_in_order_from_another_opening(tmp_path: Path) -> None:
    assert store(tmp_path).add([Event("u", "i1", "a"), Event("v", "i9", "a"), Event("u", "i2", "b")], now=0.0) == 3
    store(tmp_path).add([Event("u", "i1", "a")], now=0.0)
    assert store(tmp_path).recent("u", now=1.0) == [("i1", "a"), ("i2", "b"), ("i1", "a")]


def test_an_id_counts_once_and_a_failed_batch_leaves_nothing(tmp_path: Path) -> None:
    opened = store(tmp_path)
    assert opened.add([Event("u", "i1", "a", "x"), Event("u", "i2", "a", "x")], now=0.0) == 1
    assert opened.add([Event("u", "i3", "a", "x")], now=0.0) == 0
    with pytest.raises(UnicodeEncodeError):
        opened.add([Event("u", "i4", "a"), Event("u", "\ud800", "a")], now=0.0)
    assert opened.recent("u", now=0.0) == [("i1", "a")]


def test_an_event_is_read_until_its_retention_and_then_deleted(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.add([Event("u", "i1", "a")], now=0.0)
    opened.add([Event("u", "i2", "a")], now=50.0)
    assert opened.recent("u", now=99.0) == [("i1", "a"), ("i2", "a")]
    assert opened.recent("u", now=100.0) == [("i2", "a")]
    assert opened.expire(now=100.0) == 1
    assert opened.recent("u", now=99.0) == [("i2", "a")]


def test_a_forgotten_users_events_are_gone_from_the_file_too(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.add([Event("u", "a-secret-item", "a"), Event("v", "i1", "a")], now=0.0)
    assert opened.forget("u", now=0.0) == 1
    assert (opened.is_forgotten("u"), opened.is_forgotten("v")) == (True, False)
    assert opened.recent("u", now=0.0) == []
    sqlite3.connect(tmp_path / "events.sqlite").execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"a-secret-item" not in (tmp_path / "events.sqlite").read_bytes()
    opened.add([Event("u", "i2", "a")], now=0.0)
    assert opened.recent("u", now=0.0) == [("i2", "a")]
    assert opened.is_forgotten("u")


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    opened = store(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(opened.add, [Event("u", f"i{n}", "a")], now=0.0) for n in range(40)]:
            assert future.result() == 1
    assert {item for item, _ in opened.recent("u", now=0.0)} == {f"i{n}" for n in range(40)}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.sqlite").write_text("no database " * 100)
    with pytest.raises(InputError, match="not a usable store of events"):
        store(tmp_path)
    (tmp_path / "events.sqlite").unlink()
    with sqlite3.connect(tmp_path / "events.sqlite") as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(InputError, match="not a store of events of this version"):
        store(tmp_path)
    with pytest.raises(InputError, match="not a usable store of events"):
        store(tmp_path / "no such folder")
