"""What users did since the bundle was made: what every store of it does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

MOST_RECENT = 200  # of a user's events; as many as a history field reads unless declared otherwise
Decide = Callable[[], None]


def always() -> None:
    """A write that nobody gives up."""


class EventsUnavailableError(Exception):
    """The store does not answer, or cannot write; nothing of what was asked is kept."""


@dataclass(frozen=True)
class Event:
    """A user took an item in a domain; of a user's events with one id, the first counts.

    is_known: whether a model knows the item by now. One that the next bundle may know is kept, apart: it must not push
        out what counts today.
    """

    user: str
    item: str
    domain: str
    id: str | None = None
    is_known: bool = True


@runtime_checkable
class EventStore(Protocol):
    """A store that several threads and processes may share. Times are seconds since 1970.

    All raise EventsUnavailableError where the store does not answer.
    """

    def add(self, events: Sequence[Event], *, now: float, decide: Decide = always) -> int:
        """Write events, all or none, and give how many are new.

        Args:
            decide: called at the last moment at which nothing need be kept yet; where it raises, nothing is.
        """
        ...

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        """Items and domains of a user's last events that are not expired, the latest last; at most MOST_RECENT of items
        that were known when they came, and as many of others.
        """
        ...

    def forget(self, user: str, *, now: float, decide: Decide = always) -> int:
        """Delete a user's events, give how many, and note that what a bundle knows of the user is not to be used."""
        ...

    def is_forgotten(self, user: str) -> bool: ...

    def expire(self, *, now: float) -> int:
        """Delete events older than the retention; gives how many."""
        ...
