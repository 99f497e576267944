"""What users did since the bundle was made, in an SQLite file: what is acknowledged is on disk."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local

from isthmus.errors import InputError

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
MOST_RECENT = 200  # of a user's events; as many as a history field reads unless declared otherwise


@dataclass(frozen=True)
class Event:
    """A user took an item in a domain; of events with one id, the first counts."""

    user: str
    item: str
    domain: str
    id: str | None = None


class EventStore:
    """A store that several threads and processes may share.

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
        except sqlite3.DatabaseError as error:
            raise InputError(f"{file}: not a usable store of events ({error}); give another path") from error

    def add(self, events: Sequence[Event], *, now: float) -> int:
        """Write events, all or none, and give how many are new; when this returns, they are on disk.

        Args:
            now: seconds since 1970.
        """
        rows = [(event.user, event.item, event.domain, now, event.id) for event in events]
        with self._writing() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO event (user, item, domain, time, id) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                rows,
            )
            return connection.total_changes - before

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        """Items and domains of a user's last events that are not expired, the latest last."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT item, domain FROM event WHERE user = ? AND time > ? ORDER BY number DESC LIMIT ?",
                (user, now - self.retention_s, MOST_RECENT),
            ).fetchall()
        return [(item, domain) for item, domain in reversed(rows)]

    def forget(self, user: str, *, now: float) -> int:
        """Delete a user's events, give how many, and note that what a bundle knows of the user is not to be used."""
        with self._writing() as connection:
            num_deleted = connection.execute("DELETE FROM event WHERE user = ?", (user,)).rowcount
            connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user, now))
        return num_deleted

    def is_forgotten(self, user: str) -> bool:
        with self._connection() as connection:
            return connection.execute("SELECT 1 FROM forgotten WHERE user = ?", (user,)).fetchone() is not None

    def expire(self, *, now: float) -> int:
        """Delete events older than the retention; gives how many."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM event WHERE time <= ?", (now - self.retention_s,)).rowcount

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
            connection.execute("PRAGMA secure_delete = ON")
            self._local.connection = connection
        yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
