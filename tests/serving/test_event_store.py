"""Every store of events: durable, shared, idempotent, and nothing of a forgotten user is left in it."""

import logging
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import redis
from redis.commands.core import Script
from tests.serving.running import redis_server

from isthmus.errors import InputError
from isthmus.serving.event_store import MOST_RECENT, Decide, Event, EventStore, EventsUnavailableError, always
from isthmus.serving.stored_events import StoredEvents, open_store

Open = Callable[[], EventStore]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture(params=["file", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store each time."""
    if request.param == "file":
        where = str(tmp_path / "events.sqlite")
    else:
        where = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(where) as server:
            server.flushdb()
    return lambda: open_store(where, retention_s=100.0)


def test_events_come_back_in_order_from_another_opening(opened: Open) -> None:
    assert opened().add([Event("u", "i1", "a"), Event("v", "i9", "a"), Event("u", "i2", "b")], now=0.0) == 3
    opened().add([Event("u", "i1", "a")], now=0.0)
    assert opened().recent("u", now=1.0) == [("i1", "a"), ("i2", "b"), ("i1", "a")]
    assert opened().recent("w", now=1.0) == []


def test_an_id_counts_once_and_a_failed_batch_leaves_nothing(opened: Open) -> None:
    store = opened()
    assert store.add([Event("u", "i1", "a", "x"), Event("u", "i2", "a", "x")], now=0.0) == 1
    assert store.add([Event("u", "i3", "a", "x")], now=0.0) == 0
    with pytest.raises(UnicodeEncodeError):
        store.add([Event("u", "i4", "a"), Event("u", "\ud800", "a")], now=0.0)
    assert store.recent("u", now=0.0) == [("i1", "a")]


def test_an_id_is_a_users_own(opened: Open) -> None:
    store = opened()
    assert store.add([Event("u", "i1", "a", "x"), Event("v", "i2", "a", "x")], now=0.0) == 2
    # no two pairs of a user and an id are taken for one
    assert store.add([Event("u:1", "i1", "a", "2"), Event("u", "i3", "a", "1:2")], now=0.0) == 2
    assert store.add([Event("v", "i2", "a", "x")], now=0.0) == 0
    store.forget("u", now=0.0)
    assert store.add([Event("v", "i2", "a", "x"), Event("u", "i1", "a", "x")], now=0.0) == 1
    assert store.recent("v", now=0.0) == [("i2", "a")]


def test_items_that_no_model_knows_push_nothing_out(opened: Open) -> None:
    store = opened()
    store.add([Event("u", "known", "a")], now=0.0)
    for start in range(0, MOST_RECENT + 50, 50):
        store.add([Event("u", f"new{start + n}", "a", is_known=False) for n in range(50)], now=1.0)
    store.add([Event("u", "later", "a")], now=2.0)
    recent = [item for item, _ in store.recent("u", now=3.0)]
    assert (recent[0], recent[-1]) == ("known", "later")
    assert recent[1:-1] == [f"new{n}" for n in range(50, MOST_RECENT + 50)]
    assert store.forget("u", now=3.0) >= MOST_RECENT + 2
    assert store.recent("u", now=3.0) == []


def test_what_is_given_up_before_it_is_kept_is_not_kept(opened: Open) -> None:
    class GivenUpError(Exception):
        pass

    def give_up() -> None:
        raise GivenUpError

    store = opened()
    store.add([Event("u", "i1", "a")], now=0.0)
    with pytest.raises(GivenUpError):
        store.add([Event("u", "i2", "a")], now=0.0, decide=give_up)
    with pytest.raises(GivenUpError):
        store.forget("u", now=0.0, decide=give_up)
    assert store.recent("u", now=0.0) == [("i1", "a")]
    assert not store.is_forgotten("u")


def test_texts_come_back_as_they_are(opened: Open) -> None:
    store, odd = opened(), [('i "1"/\\', "ä 東"), ("{isthmus}:user:v", "\x01")]
    store.add([Event("u: {v}", item, domain, f"id {item}") for item, domain in odd], now=1e9 + 0.123456)
    assert store.recent("u: {v}", now=1e9 + 1) == odd


def test_an_event_is_read_until_its_retention_and_then_deleted(opened: Open) -> None:
    store = opened()
    store.add([Event("u", "i1", "a")], now=0.0)
    store.add([Event("u", "i2", "a")], now=50.0)
    assert store.recent("u", now=99.0) == [("i1", "a"), ("i2", "a")]
    assert store.recent("u", now=100.0) == [("i2", "a")]
    assert store.expire(now=100.0) == 1
    assert store.recent("u", now=99.0) == [("i2", "a")]


def test_the_last_events_are_read_where_there_are_many(opened: Open) -> None:
    store = opened()
    for start in range(0, 300, 50):
        store.add([Event("u", f"i{start + n}", "a", f"id{start + n}") for n in range(50)], now=0.0)
    assert [item for item, _ in store.recent("u", now=1.0)] == [f"i{n}" for n in range(300 - MOST_RECENT, 300)]


def test_a_forgotten_user_is_noted_and_starts_anew(opened: Open) -> None:
    store = opened()
    store.add([Event("u", "i1", "a", "x"), Event("v", "i1", "a")], now=0.0)
    assert store.forget("u", now=0.0) == 1
    assert (store.is_forgotten("u"), store.is_forgotten("v")) == (True, False)
    assert store.recent("u", now=0.0) == []
    assert store.recent("v", now=0.0) == [("i1", "a")]
    assert store.add([Event("u", "i2", "a", "x")], now=0.0) == 1
    assert store.recent("u", now=0.0) == [("i2", "a")]
    assert opened().is_forgotten("u")


def test_threads_write_side_by_side(opened: Open) -> None:
    store = opened()
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(store.add, [Event("u", f"i{n}", "a")], now=0.0) for n in range(40)]:
            assert future.result() == 1
    assert {item for item, _ in store.recent("u", now=0.0)} == {f"i{n}" for n in range(40)}


def test_nothing_of_a_forgotten_user_is_left_in_the_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "events.sqlite"), retention_s=100.0)
    store.add([Event("u", "a-secret-item", "a"), Event("v", "i1", "a")], now=0.0)
    store.forget("u", now=0.0)
    sqlite3.connect(tmp_path / "events.sqlite").execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"a-secret-item" not in (tmp_path / "events.sqlite").read_bytes()


def test_nothing_of_a_forgotten_user_is_left_in_redis(redis_url: str) -> None:
    store = open_store(redis_url, retention_s=100.0)
    with redis.Redis.from_url(redis_url) as server:
        server.flushdb()
        store.add([Event("u", f"i{n}", "a", f"id{n}") for n in range(MOST_RECENT + 5)], now=0.0)
        assert len(server.keys("{isthmus}:id:*")) == MOST_RECENT
        assert 0 < server.pttl("{isthmus}:user:u") <= 100_000
        store.forget("u", now=0.0)
        kept = {key.decode() for key in server.keys("*")}
        assert {key for key in kept if not key.startswith("{isthmus}:write:")} == {"{isthmus}:forgotten"}


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    file.write_text("no database " * 100)
    with pytest.raises(InputError, match="not a usable store of events"):
        open_store(str(file), retention_s=100.0)
    file.unlink()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(InputError, match="not a store of events of this version"):
        open_store(str(file), retention_s=100.0)
    with pytest.raises(InputError, match="not a usable store of events"):
        open_store(str(tmp_path / "no such folder" / "file"), retention_s=100.0)


def add_until_full(store: EventStore) -> None:
    for n in range(100):
        store.add([Event("u", "x" * 1000, "a", f"{n}-{m}") for m in range(5)], now=0.0)


def test_a_full_disk_loses_no_event_and_the_store_goes_on_with_room(tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    store = open_store(str(file), retention_s=100.0)
    store.add([Event("u", "i1", "a")], now=0.0)
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = max(f.stat().st_size for f in tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 4096, before[1]))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(EventsUnavailableError, match=r"events\.sqlite"):
            add_until_full(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = store.recent("u", now=1.0)
    assert kept[0] == ("i1", "a")
    assert (len(kept) - 1) % 5 == 0  # each batch whole or not at all
    assert store.add([Event("u", "i2", "a")], now=0.0) == 1
    assert open_store(str(file), retention_s=100.0).recent("u", now=1.0) == [*kept, ("i2", "a")]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("http://127.0.0.1:1", "http:// is no store known here"),
        ("redis://127.0.0.1:1/0", "Redis at 127.0.0.1:1 does not answer"),
        ("redis://:secret@127.0.0.1:port/0", "give redis://HOST:PORT/DATABASE"),
        ("unix:///no/such/socket", "Redis at /no/such/socket does not answer"),
    ],
)
def test_an_address_without_a_store_is_refused(where: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_store(where, retention_s=100.0)
    assert "secret" not in str(raised.value)


def test_redis_of_another_version_is_refused(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.flushdb()
        server.set("{isthmus}:format", "9")
        with pytest.raises(InputError, match="events of another version"):
            open_store(redis_url, retention_s=100.0)
        server.flushdb()


def test_redis_that_stops_is_told_of_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, process):
        store = open_store(url, retention_s=100.0)
        for n in range(20):
            assert store.add([Event("u", f"i{n}", "a")], now=0.0) == 1
        process.kill()
        process.wait()
        with pytest.raises(EventsUnavailableError, match="Redis at"):
            store.recent("u", now=1.0)
    with redis_server(tmp_path, port=int(url.split(":")[2].split("/")[0])):
        assert [item for item, _ in store.recent("u", now=1.0)] == [f"i{n}" for n in range(20)]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process as POSIX does")
def test_redis_that_hung_does_not_write_what_was_given_up(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, process):
        store = open_store(url, retention_s=100.0, answer_s=0.4)
        store.add([Event("u", "i1", "a")], now=0.0)
        with pytest.raises(EventsUnavailableError, match="Timeout"):  # it stops between the asking and the writing
            store.add([Event("u", "i2", "a")], now=0.0, decide=lambda: process.send_signal(signal.SIGSTOP))
        process.send_signal(signal.SIGCONT)
        sleep(0.2)
        assert store.recent("u", now=0.0) == [("i1", "a")]
        assert store.add([Event("u", "i2", "a")], now=0.0) == 1


def test_what_is_sent_again_because_its_answer_was_lost_counts_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.flushdb()
    store, plain = open_store(redis_url, retention_s=100.0), Script.__call__

    def twice(self: Script, args: list[Any]) -> Any:
        assert plain(self, args=args) == 1
        return plain(self, args=args)

    monkeypatch.setattr(Script, "__call__", twice)
    assert store.add([Event("u", "i1", "a")], now=0.0) == 1
    assert store.recent("u", now=0.0) == [("i1", "a")]
    assert store.forget("u", now=0.0) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process as POSIX does")
def test_redis_that_hangs_is_told_of_and_may_go_on(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, process):
        store = open_store(url, retention_s=100.0)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(EventsUnavailableError, match="Timeout"):
            store.is_forgotten("u")
        process.send_signal(signal.SIGCONT)
        assert not store.is_forgotten("u")


def test_redis_that_may_lose_events_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    less = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with redis_server(tmp_path, *less) as (url, _), caplog.at_level(logging.WARNING):
        open_store(url, retention_s=100.0)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Redis may lose events that were acknowledged",
        "Redis may evict events",
    ]


class Hanging:
    """A store that lets each asker wait and then fails, by a clock of its own."""

    def __init__(self) -> None:
        self.now, self.wait_s, self.num_asked = 0.0, 1.0, 0

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        self.num_asked += 1
        self.now += self.wait_s
        raise EventsUnavailableError("hangs")

    def add(self, events: Sequence[Event], *, now: float, decide: Decide = always) -> int:
        raise AssertionError

    def forget(self, user: str, *, now: float, decide: Decide = always) -> int:
        raise AssertionError

    def is_forgotten(self, user: str) -> bool:
        raise AssertionError

    def expire(self, *, now: float) -> int:
        raise AssertionError


def test_a_store_that_lets_wait_is_left_alone_for_a_while() -> None:
    store = Hanging()
    stored = StoredEvents(store, lambda: 0.0, timer=lambda: store.now)
    for _ in range(5):
        with pytest.raises(EventsUnavailableError):
            stored.recent("u")
    assert (store.num_asked, store.now) == (1, 1.0)
    store.now += 4.1  # four times as long as it let wait
    store.wait_s = 0.0
    for _ in range(3):  # one that fails at once is asked each time
        with pytest.raises(EventsUnavailableError, match="hangs"):
            stored.recent("u")
    assert store.num_asked == 4
