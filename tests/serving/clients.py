"""A client of a service that runs in the process of the test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

from starlette.testclient import TestClient

from isthmus.serving.app import new_app
from isthmus.serving.serve_settings import ServeSettings


@contextmanager
def client(place: Path, *, clock: Callable[[], float] = time, **settings: Any) -> Iterator[TestClient]:
    """Asks a service of a bundle, or of a place; `settings` are those of `ServeSettings`."""
    with TestClient(new_app(ServeSettings(place, **settings), clock=clock)) as opened:
        yield opened
