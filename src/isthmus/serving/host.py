"""Which bundle serves: a folder that may be replaced, or a place whose pointer names one; a new one is opened beside.

A place is a folder with `current.json`: {"bundle": PATH, "previous": PATH or null}, paths relative to the place. Every
request is answered by the service that `Host.service` gave it, so that a request under way ends on its own bundle.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from isthmus.errors import InputError
from isthmus.files import write_text
from isthmus.serving.bundle_files import MANIFEST, Manifest, read_manifest, require_intact
from isthmus.serving.drift import OnIndex
from isthmus.serving.requests import RecentEvents
from isthmus.serving.serve_settings import Engine
from isthmus.serving.service import Service, open_service

POINTER = "current.json"
LOG = logging.getLogger("isthmus.serving")


def publish(bundle: Path, place: Path) -> str:
    """Let a place name a bundle, after every byte of it is checked; gives the bundle's version.

    Raises:
        InputError: the bundle is damaged or lacks a domain of the present one, or the place is a folder of something
            else.
    """
    manifest = read_manifest(bundle)
    require_intact(bundle, manifest)
    if place.is_dir() and not (place / POINTER).is_file() and (place / MANIFEST).is_file():
        raise InputError(f"{place}: holds a {MANIFEST}; give a folder for {POINTER}, new or in use")
    previous = _pointer(place)["bundle"] if (place / POINTER).is_file() else None
    if previous is not None and (place / previous / MANIFEST).is_file():
        require_domains(bundle, manifest, read_manifest(place / previous))
    _point(place, os.path.relpath(bundle.resolve(), place.resolve()), previous)
    return manifest.version


def rollback(place: Path) -> str:
    """Let a place name the bundle before the present one, and gives its version; once more leads forward again.

    Raises:
        InputError: there is none, or it is damaged by now.
    """
    pointer = _pointer(place)
    if pointer["previous"] is None:
        raise InputError(f"{place / POINTER}: names no previous bundle; publish one with 'isthmus publish'")
    former = place / str(pointer["previous"])
    manifest = read_manifest(former)
    require_intact(former, manifest)
    _point(place, str(pointer["previous"]), pointer["bundle"])
    return manifest.version


def require_domains(folder: Path, manifest: Manifest, present: Manifest) -> None:
    """Raises InputError where a bundle lacks a domain that is asked for now: it is of another schema."""
    lacking = [name for name in present.domains if name not in manifest.domains]
    if lacking:
        raise InputError(
            f"{folder}: has {', '.join(manifest.domains)} and not {', '.join(lacking)}, "
            "which the present bundle serves; publish it in a place of its own"
        )


def bundle_at(place: Path) -> Path:
    """The bundle that a path means: itself, or what its pointer names."""
    if not (place / POINTER).is_file():
        return place
    return place / str(_pointer(place)["bundle"])


class Host:
    """Holds the service of the present bundle.

    Args:
        on_swap: hears `taken` or `refused` of every new bundle.
        on_drift: hears how far each domain's signals have drifted from training; starts anew with a new bundle.
    """

    def __init__(
        self,
        place: Path,
        *,
        events: RecentEvents | None = None,
        check: bool = True,
        engine: Engine | None = None,
        on_swap: Callable[[str], None] = lambda _: None,
        on_drift: OnIndex | None = None,
    ) -> None:
        self.place, self.events, self.engine, self.on_swap = place, events, engine, on_swap
        self.on_drift = on_drift
        folder = bundle_at(place)
        self._seen = _signature(folder)
        self.service: Service = open_service(folder, events=events, check=check, engine=engine, on_drift=on_drift)

    def refresh(self) -> bool:
        """Take another bundle into service where there is one by now; a damaged one is refused and told once."""
        try:
            folder = bundle_at(self.place)
            signature = _signature(folder)
        except (InputError, OSError):
            return False  # being replaced, or gone: what is open serves on
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            if folder == self.place:  # what a pointer names was compared when it was published
                require_domains(folder, read_manifest(folder), self.service.manifest)
            service = open_service(folder, events=self.events, engine=self.engine, on_drift=self.on_drift)
        except (InputError, OSError) as error:
            self.on_swap("refused")
            LOG.error(
                "bundle refused", extra={"fields": {"error": str(error), "bundle": self.service.manifest.version}}
            )
            return False
        self.service = service
        self.on_swap("taken")
        LOG.info("bundle taken", extra={"fields": {"bundle": service.manifest.version}})
        return True


def _signature(folder: Path) -> tuple[str, int, int]:
    """Changes when another bundle stands there."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: not a bundle (no {MANIFEST}); make one with 'isthmus bundle'")
    status = (folder / MANIFEST).stat()
    return str(folder.resolve()), status.st_ino, status.st_mtime_ns


def _pointer(place: Path) -> dict[str, str | None]:
    file = place / POINTER
    if not file.is_file():
        raise InputError(f"{place}: no {POINTER}; make one with 'isthmus publish BUNDLE {place}'")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: damaged ({error}); publish a bundle again") from error
    if not isinstance(content, dict) or not isinstance(content.get("bundle"), str):
        raise InputError(f"{file}: names no bundle; publish one again with 'isthmus publish'")
    previous = content.get("previous")
    return {"bundle": content["bundle"], "previous": previous if isinstance(previous, str) else None}


def _point(place: Path, bundle: str, previous: str | None) -> None:
    write_text(place / POINTER, json.dumps({"bundle": bundle, "previous": previous}, indent=1) + "\n")
