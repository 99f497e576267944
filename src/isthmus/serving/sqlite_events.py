"""Recent events in an SQLite file: what is acknowledged is on disk."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import local

from isthmus.errors import InputError
from isthmus.serving.event_store import MOST_RECENT, Event, EventsUnavailableError

TABLES = """
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL, item TEXT NOT NULL, domain TEXT NOT NULL, time REAL NOT NULL, id TEXT UNIQUE
);
CREATE INDEX IF NOT EXISTS event_of_user ON event (user, number);
CREATE INDEX IF NOT EXISTS event_at ON event (time);
CREATE TABLE IF NOT EXISTS forgotten (user TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
"""
FORMAT = 1
BUSY_S = 5.0


class SqliteEvents:
    """A file that the processes of one machine share; what `add` returned for is on disk.

    Args:
        retention_s: how long an event is read; `expire` then deletes it.

    Raises:
        InputError: the file is not a store of this version.
    """

    def __init__(self, file: Path, *, retention_s: float) -> None:
        self.file, self.retention_s = file, retention_s
        self._local = local()
        try:
            with self._connection() as connection:
                found = connection.execute("PRAGMA user_version").fetchone()[0]
                is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if not is_new and found != FORMAT:
                    raise InputError(f"{file}: not a store of events of this version; give another path")
                connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        except EventsUnavailableError as error:
            raise InputError(f"{file}: not a usable store of events ({error.__cause__}); give another path") from error

    def add(self, events: Sequence[Event], *, now: float) -> int:
        rows = [(event.user, event.item, event.domain, now, event.id) for event in events]
        with self._writing() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO event (user, item, domain, time, id) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                rows,
            )
            return connection.total_changes - before

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT item, domain FROM event WHERE user = ? AND time > ? ORDER BY number DESC LIMIT ?",
                (user, now - self.retention_s, MOST_RECENT),
            ).fetchall()
        return [(item, domain) for item, domain in reversed(rows)]

    def forget(self, user: str, *, now: float) -> int:
        with self._writing() as connection:
            num_deleted = connection.execute("DELETE FROM event WHERE user = ?", (user,)).rowcount
            connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user, now))
        return num_deleted

    def is_forgotten(self, user: str) -> bool:
        with self._connection() as connection:
            return connection.execute("SELECT 1 FROM forgotten WHERE user = ?", (user,)).fetchone() is not None

    def expire(self, *, now: float) -> int:
        with self._writing() as connection:
            return connection.execute("DELETE FROM event WHERE time <= ?", (now - self.retention_s,)).rowcount

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection."""
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
                connection.execute("PRAGMA secure_delete = ON")
                self._local.connection = connection
            yield connection
        except sqlite3.Error as error:
            raise EventsUnavailableError(f"{self.file}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite rolls back by itself where the disk is full
                    connection.execute("ROLLBACK")
                raise
