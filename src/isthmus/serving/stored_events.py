"""From where events are to be kept to a store, and the store as the service reads it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import InputError
from isthmus.serving.event_store import EventStore, EventsUnavailableError
from isthmus.serving.sqlite_events import SqliteEvents

OF_REDIS = ("redis", "rediss", "unix")
LOG = logging.getLogger("isthmus.serving")


@dataclass(frozen=True)
class StoredEvents:
    """A store as the service reads it: now is the system's clock."""

    store: EventStore
    clock: Callable[[], float]

    def recent(self, user: str) -> Sequence[tuple[str, str]]:
        return self.store.recent(user, now=self.clock())

    def is_forgotten(self, user: str) -> bool:
        return self.store.is_forgotten(user)


def open_store(where: str, *, retention_s: float) -> EventStore:
    """The store at an address of Redis (redis://HOST:PORT/DATABASE), or in a file.

    Raises:
        InputError: no store can be opened there.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return SqliteEvents(Path(where), retention_s=retention_s)
    if scheme not in OF_REDIS:
        raise InputError(f"--events: {scheme}:// is no store known here; give redis://HOST:PORT/DATABASE, or a file")
    from isthmus.serving.redis_events import RedisEvents  # its client takes .14 s to import, and few use it

    return RedisEvents(where, retention_s=retention_s)


def unavailable(error: EventsUnavailableError) -> tuple[str, str]:
    """Log why a store failed; gives the code and the words of the answer that says so, and not why."""
    LOG.error("events unavailable", extra={"fields": {"error": str(error)}})
    return "events_unavailable", "the store of events does not answer; ask again"
