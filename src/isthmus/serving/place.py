"""A place: a folder whose pointer names the bundle that serves; without the libraries that serving takes.

`current.json` holds {"bundle": PATH, "previous": PATH or null, "version": VERSION, "answers": [WHAT REQUESTS MAY SAY]},
paths relative to the place. The last two are of the present bundle; a pointer without them, of an older version or
written by hand, is read too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import InputError
from isthmus.files import write_text

POINTER, MANIFEST = "current.json", "manifest.json"


@dataclass(frozen=True)
class Pointer:
    """What a place names.

    Attributes:
        bundle, previous: paths relative to the place.
        version: of the present bundle.
        answers: what requests to the present bundle may say; see `answerable`. It outlives the bundle's folder.
    """

    bundle: str
    previous: str | None
    version: str | None = None
    answers: frozenset[str] | None = None


def has_pointer(place: Path) -> bool:
    return (place / POINTER).is_file()


def bundle_at(place: Path) -> Path:
    """The bundle that a path means: itself, or what its pointer names."""
    return place / read_pointer(place).bundle if has_pointer(place) else place


def read_pointer(place: Path) -> Pointer:
    """What a place names.

    Raises:
        InputError: there is no pointer, or it is damaged.
    """
    file = place / POINTER
    if not file.is_file():
        raise InputError(f"{place}: no {POINTER}; make one with 'isthmus publish BUNDLE {place}'")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: damaged ({error}); remove it and publish a bundle again") from error
    if not isinstance(content, dict) or not isinstance(content.get("bundle"), str):
        raise InputError(f"{file}: names no bundle; remove it and publish one again with 'isthmus publish'")
    previous, version, answers = (content.get(name) for name in ("previous", "version", "answers"))
    return Pointer(
        content["bundle"],
        previous if isinstance(previous, str) else None,
        version if isinstance(version, str) else None,
        frozenset(map(str, answers)) if isinstance(answers, list) else None,
    )


def write_pointer(place: Path, pointer: Pointer) -> None:
    """Let a place name something else, at once."""
    content = {
        "bundle": pointer.bundle,
        "previous": pointer.previous,
        "version": pointer.version,
        "answers": None if pointer.answers is None else sorted(pointer.answers),
    }
    write_text(place / POINTER, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def unfinished(folder: Path) -> list[str]:
    """The files of a bundle that are not as long as its manifest says; each with what is wrong.

    Raises:
        InputError: there is no manifest, or it is not whole.
    """
    file = folder / MANIFEST
    try:
        lengths = {
            name: record["num_bytes"] for name, record in json.loads(file.read_text(encoding="utf-8"))["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not the whole manifest of a bundle ({error})") from error
    wrong = []
    for name, num_bytes in lengths.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            wrong.append(f"{name}: missing")
            continue
        if found != num_bytes:
            wrong.append(f"{name}: has {found} bytes, {num_bytes} were written")
    return wrong
