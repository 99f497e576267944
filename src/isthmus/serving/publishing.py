"""Which bundle a place names: published, and rolled back."""

import os
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import InputError
from isthmus.files import alone_in
from isthmus.serving.answerable import answerable, require_answers
from isthmus.serving.bundle_files import Manifest, read_manifest, require_intact
from isthmus.serving.place import MANIFEST, POINTER, Pointer, has_pointer, read_pointer, write_pointer


@dataclass(frozen=True)
class Published:
    """What a place names now, and whether it named it already."""

    version: str
    was_named: bool


def publish(bundle: Path, place: Path, *, allow_changed_schema: bool = False) -> Published:
    """Let a place name a bundle, after every byte of it is checked.

    One that the place names already, at the same path or as a copy, leaves the previous one as it is.

    Args:
        allow_changed_schema: also where requests that are answered now would be errors.

    Raises:
        InputError: the bundle is damaged, or lacks what requests may say now, or the place is a folder of something
            else.
    """
    manifest = read_manifest(bundle)
    require_intact(bundle, manifest)
    answers = answerable(bundle, manifest)
    if place.is_dir() and not has_pointer(place) and (place / MANIFEST).is_file():
        raise InputError(f"{place}: holds a {MANIFEST}; give a folder for {POINTER}, new or in use")
    with alone_in(place, waits=True):
        path = os.path.relpath(bundle.resolve(), place.resolve())
        if not has_pointer(place):
            write_pointer(place, Pointer(path, None, manifest.version, answers))
            return Published(manifest.version, was_named=False)
        present = read_pointer(place)
        known = _answers_of(place, present)
        if known is not None and not allow_changed_schema:
            require_answers(bundle, answers, known)
        was_named = manifest.version == (present.version or _version_at(place / present.bundle))
        # what stands at the same path now was replaced there: what was there before is no more
        previous = present.previous if was_named or path == present.bundle else present.bundle
        named = Pointer(path, previous, manifest.version, answers)
        if named != present:
            write_pointer(place, named)
        return Published(manifest.version, was_named)


def rollback(place: Path, *, allow_changed_schema: bool = False) -> str:
    """Let a place name the bundle before the present one, and gives its version; once more leads forward again.

    Raises:
        InputError: there is none, it is damaged by now, or it lacks what requests may say now.
    """
    read_pointer(place)  # before a folder is made where there is none
    with alone_in(place, waits=True):
        present = read_pointer(place)
        if present.previous is None:
            raise InputError(f"{place / POINTER}: names no previous bundle; publish one with 'isthmus publish'")
        former = place / present.previous
        manifest = read_manifest(former)
        require_intact(former, manifest)
        answers, known = answerable(former, manifest), _answers_of(place, present)
        if known is not None and not allow_changed_schema:
            require_answers(former, answers, known)
        write_pointer(place, Pointer(present.previous, present.bundle, manifest.version, answers))
        return manifest.version


def _answers_of(place: Path, pointer: Pointer) -> frozenset[str] | None:
    """What requests to the present bundle may say; None where nothing is left to tell."""
    if pointer.answers is not None:
        return pointer.answers
    manifest = _manifest_at(place / pointer.bundle)
    return None if manifest is None else answerable(place / pointer.bundle, manifest)


def _version_at(folder: Path) -> str | None:
    manifest = _manifest_at(folder)
    return None if manifest is None else manifest.version


def _manifest_at(folder: Path) -> Manifest | None:
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None
