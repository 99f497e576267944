"""From where events are to be kept to a store, and the store as the service reads it."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from isthmus.errors import InputError
from isthmus.serving.event_store import EventStore, EventsUnavailableError
from isthmus.serving.sqlite_events import SqliteEvents

if TYPE_CHECKING:
    from isthmus.serving.service import Service

Result = TypeVar("Result")
OF_REDIS = ("redis", "rediss", "unix")
MOST_ANSWER_S = 1.0
LEFT_ALONE = 4.0  # times what it let us wait
LOG = logging.getLogger("isthmus.serving")


class StoredEvents:
    """A store as the service reads it: now is the system's clock.

    One that lets us wait is left alone for a while after it has failed: requests that need nothing of it wait behind
    those that do. One that fails at once costs nothing and is asked again at once.

    Args:
        clock: seconds since 1970, for the store.
        timer: seconds, for how long it takes.
    """

    def __init__(
        self, store: EventStore, clock: Callable[[], float], *, timer: Callable[[], float] = monotonic
    ) -> None:
        self.store, self.clock, self.timer = store, clock, timer
        self._asked_again_at = -math.inf

    def recent(self, user: str) -> Sequence[tuple[str, str]]:
        return self._read(lambda: self.store.recent(user, now=self.clock()))

    def is_forgotten(self, user: str) -> bool:
        return self._read(lambda: self.store.is_forgotten(user))

    def _read(self, read: Callable[[], Result]) -> Result:
        started = self.timer()
        if started < self._asked_again_at:
            raise EventsUnavailableError("the store has just failed after a wait, and is not asked again yet")
        try:
            return read()
        except EventsUnavailableError:
            ended = self.timer()
            self._asked_again_at = ended + LEFT_ALONE * (ended - started)
            raise


def known_to(service: "Service", item: str) -> bool:
    """Whether retrieval or the click model knows an item."""
    views = [service.view] if service.ranker is None else [service.view, service.ranker.view]
    return any(view.items.row(item) for view in views)


def answer_within(timeout_s: float) -> float:
    """How long a store may take where a request may take so long: whoever asks is told why, and not that he is late."""
    return min(MOST_ANSWER_S, timeout_s / 4)


def open_store(where: str, *, retention_s: float, answer_s: float = MOST_ANSWER_S) -> EventStore:
    """The store at an address of Redis (redis://HOST:PORT/DATABASE), or in a file.

    Args:
        answer_s: how long it may take to answer.

    Raises:
        InputError: no store can be opened there.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return SqliteEvents(Path(where), retention_s=retention_s, answer_s=answer_s)
    if scheme not in OF_REDIS:
        raise InputError(f"--events: {scheme}:// is no store known here; give redis://HOST:PORT/DATABASE, or a file")
    from isthmus.serving.redis_events import RedisEvents  # its client takes .14 s to import, and few use it

    return RedisEvents(where, retention_s=retention_s, answer_s=answer_s)


def unavailable(error: EventsUnavailableError) -> tuple[str, str]:
    """Log why a store failed; gives the code and the words of the answer that says so, and not why."""
    LOG.error("events unavailable", extra={"fields": {"error": str(error)}})
    return "events_unavailable", "the store of events does not answer; ask again"
