"""Recent events in an SQLite file: what is acknowledged is on disk."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import local
from time import monotonic, sleep

from isthmus.errors import InputError
from isthmus.serving.event_store import MOST_RECENT, Decide, Event, EventsUnavailableError, always

TABLES = (
    """CREATE TABLE IF NOT EXISTS event (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        user TEXT NOT NULL, item TEXT NOT NULL, domain TEXT NOT NULL, time REAL NOT NULL, id TEXT,
        is_known INTEGER NOT NULL, UNIQUE (user, id)
    )""",
    "CREATE INDEX IF NOT EXISTS event_of_user ON event (user, is_known, number)",
    "CREATE INDEX IF NOT EXISTS event_at ON event (time)",
    "CREATE TABLE IF NOT EXISTS forgotten (user TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID",
)
# a file of version 1 had ids that were unique over all users, and did not say what was known
FROM_1 = ("ALTER TABLE event RENAME TO event_1", "DROP INDEX event_of_user", "DROP INDEX event_at")
COPY_1 = (
    "INSERT INTO event SELECT number, user, item, domain, time, id, 1 FROM event_1 ORDER BY number",
    "DROP TABLE event_1",
)
LAST = """
SELECT item, domain FROM (
    SELECT * FROM (SELECT number, item, domain FROM event
                   WHERE user = :user AND is_known = 1 AND time > :since ORDER BY number DESC LIMIT :most)
    UNION ALL
    SELECT * FROM (SELECT number, item, domain FROM event
                   WHERE user = :user AND is_known = 0 AND time > :since ORDER BY number DESC LIMIT :most)
) ORDER BY number
"""
FORMAT = 2
ANSWER_S = 1.0  # how long a write waits for another process's, unless told
OPEN_S = 10.0  # how long to wait for those who open a new file at the same time
EXPIRED_AT_ONCE = 2000  # rows that one transaction deletes: others write in between


class SqliteEvents:
    """A file that the processes of one machine share; what `add` returned for is on disk.

    Args:
        retention_s: how long an event is read; `expire` then deletes it.
        answer_s: how long to wait for another process that writes.

    Raises:
        InputError: the file is not a store of this version.
    """

    def __init__(self, file: Path, *, retention_s: float, answer_s: float = ANSWER_S) -> None:
        self.file, self.retention_s, self.answer_s = file, retention_s, answer_s
        self._local = local()
        try:
            self._prepare()
        except EventsUnavailableError as error:
            raise InputError(f"{file}: not a usable store of events ({error.__cause__}); give another path") from error

    def add(self, events: Sequence[Event], *, now: float, decide: Decide = always) -> int:
        rows = [(event.user, event.item, event.domain, now, event.id, int(event.is_known)) for event in events]
        with self._writing(decide) as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO event (user, item, domain, time, id, is_known) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (user, id) DO NOTHING",
                rows,
            )
            return connection.total_changes - before

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        with self._connection() as connection:
            asked = {"user": user, "since": now - self.retention_s, "most": MOST_RECENT}
            return [(item, domain) for item, domain in connection.execute(LAST, asked)]

    def forget(self, user: str, *, now: float, decide: Decide = always) -> int:
        with self._writing(decide) as connection:
            num_deleted = connection.execute("DELETE FROM event WHERE user = ?", (user,)).rowcount
            connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (user, now))
        return num_deleted

    def is_forgotten(self, user: str) -> bool:
        with self._connection() as connection:
            return connection.execute("SELECT 1 FROM forgotten WHERE user = ?", (user,)).fetchone() is not None

    def expire(self, *, now: float) -> int:
        oldest, num_deleted = (now - self.retention_s, EXPIRED_AT_ONCE), 0
        while True:
            with self._writing(always) as connection:
                some = "SELECT number FROM event WHERE time <= ? LIMIT ?"
                deleted = connection.execute(f"DELETE FROM event WHERE number IN ({some})", oldest).rowcount
            num_deleted += deleted
            if deleted < EXPIRED_AT_ONCE:
                return num_deleted

    def _prepare(self) -> None:
        """Make the tables where there are none. What is found and what is made of it is one transaction: of processes
        that open a new file at once, one makes it and the others find it made.
        """
        ends = monotonic() + OPEN_S
        while True:
            try:
                with self._connection(may_make=True) as connection, _transaction(connection, always):
                    self._make_tables(connection)
                return
            except EventsUnavailableError as error:
                # SQLite does not wait, as it does elsewhere, while another one changes a new file to its journal
                if "locked" not in str(error) or monotonic() > ends:
                    raise
                sleep(0.05)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and found not in (1, FORMAT):
            raise InputError(f"{self.file}: not a store of events of this version; give another path")
        for statement in (*FROM_1, *TABLES, *COPY_1) if found == 1 else TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def _connection(self, *, may_make: bool = False) -> Iterator[sqlite3.Connection]:
        """This thread's connection to the file that is there now."""
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            inode = self._inode()
            if connection is not None and inode != self._local.inode:
                connection.close()  # another file, from a copy perhaps, is in the place of the one that was opened
                self._local.connection = connection = None
            if connection is None:
                if inode is None and not may_make:
                    raise EventsUnavailableError(f"{self.file}: is gone; put it back, or start the servers again")
                connection = sqlite3.connect(self.file, timeout=self.answer_s, isolation_level=None)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
                connection.execute("PRAGMA secure_delete = ON")
                self._local.connection, self._local.inode = connection, self._inode()
            yield connection
        except sqlite3.Error as error:
            raise EventsUnavailableError(f"{self.file}: {error}") from error

    def _inode(self) -> tuple[int, int] | None:
        """Which file stands at the path; None: none does."""
        try:
            status = os.stat(self.file)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @contextmanager
    def _writing(self, decide: Decide) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            with _transaction(connection, decide):
                yield connection
            if self._inode() != self._local.inode:
                raise EventsUnavailableError(f"{self.file}: was removed while it was written; nothing of that is kept")


@contextmanager
def _transaction(connection: sqlite3.Connection, decide: Decide) -> Iterator[None]:
    """All or nothing; `decide` may still say nothing just before the end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        decide()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself where the disk is full
            connection.execute("ROLLBACK")
        raise
