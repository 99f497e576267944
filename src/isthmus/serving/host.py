"""The service of the bundle that a path means now: another one is opened beside it and then takes its place.

Every request is answered by the service that `Host.service` gave it: a request under way ends on its own bundle.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic

from isthmus.errors import InputError
from isthmus.serving.answerable import answerable, lacking, require_answers
from isthmus.serving.bundle_files import read_manifest
from isthmus.serving.drift import OnIndex
from isthmus.serving.place import MANIFEST, POINTER, bundle_at, has_pointer, read_pointer, unfinished
from isthmus.serving.requests import RecentEvents
from isthmus.serving.serve_settings import Engine
from isthmus.serving.service import Service, open_service

LEAST_WAIT_S, MOST_WAIT_S = 1.0, 60.0  # between attempts at a bundle that could not be opened
AWAY_S = 5.0  # how long none may be there before that is said
LOG = logging.getLogger("isthmus.serving")
Stamp = tuple[int, int, int, int]


class Host:
    """Holds the service of the present bundle.

    Args:
        on_swap: hears `taken` or `refused` of every new bundle.
        on_drift: hears how far each domain's signals have drifted from training; starts anew with a new bundle.
        least: what requests to it may say whatever it held before, such as those to the bundle that it is a variant of.
        variants: those who answer some of the requests to it, and so must answer what may be said to a new bundle.
        allow_changed_schema: also take a bundle for which requests that are answered now are errors.
        timer: seconds, for the time between attempts.

    Raises:
        InputError: the bundle cannot be opened, or not all that `least` says can be said to it.
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
        least: Callable[[], frozenset[str]] = frozenset,
        variants: Callable[[], Sequence["Host"]] = tuple,
        allow_changed_schema: bool = False,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self.place, self.events, self.engine, self.on_swap = place, events, engine, on_swap
        self.on_drift, self.least, self.variants = on_drift, least, variants
        self.allow_changed_schema, self.timer = allow_changed_schema, timer
        folder = bundle_at(place)
        self._seen = _signature(folder)
        self._served_at, self._served = folder, _stamps(folder)
        self.service: Service = open_service(folder, events=events, check=check, engine=engine, on_drift=on_drift)
        self.answers = answerable(folder, self.service.manifest)
        self._require(folder, self.answers, self.least())
        self._refused: _Refused | None = None
        self._told, self._wait_s = "", LEAST_WAIT_S
        self._away_since: float | None = None  # infinite once it was told

    def refresh(self) -> bool:
        """Take another bundle into service where there is one by now.

        One that cannot be opened is told of once. It is tried again when one of its files or the pointer has changed,
        so that a copy is taken once it is complete, and, where the bundle itself was not at fault, after a while.
        """
        try:
            folder = bundle_at(self.place)
            signature = _signature(folder)
        except (InputError, OSError) as error:
            self._tell_of_absence(error)
            return False  # being replaced, or gone: what is open serves on
        self._away_since = None
        if signature == self._seen:
            self._tell_of_changes()
            return False
        asked = _Refused((signature, _stamp(self.place / POINTER)), _stamps(folder), 0.0)
        if not self._is_tried(asked):
            return False
        try:
            self._require_complete(folder)
            stamps = _stamps(folder)
            answers = answerable(folder, read_manifest(folder))
            self._require(folder, answers, self._asked_for() | self.least())
            self._require_of_variants(folder, answers)
            service = open_service(folder, events=self.events, engine=self.engine, on_drift=self.on_drift)
        except Exception as error:  # whatever it is: what serves goes on
            self._refuse(error, asked)
            return False
        self.service, self.answers = service, answers
        self._seen, self._served, self._served_at = signature, stamps, folder
        self._refused, self._told, self._wait_s = None, "", LEAST_WAIT_S
        self.on_swap("taken")
        LOG.info("bundle taken", extra={"fields": {"bundle": service.manifest.version}})
        return True

    def _require_complete(self, folder: Path) -> None:
        """By the length of its files, which costs little, before every byte is read."""
        if wrong := unfinished(folder):
            more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
            raise _IncompleteError(f"{folder}: incomplete, {wrong[0]}{more}; taken once it is complete")

    def _require(self, folder: Path, answers: frozenset[str], asked_for: frozenset[str]) -> None:
        if not self.allow_changed_schema:
            require_answers(folder, answers, asked_for)

    def _require_of_variants(self, folder: Path, answers: frozenset[str]) -> None:
        for variant in () if self.allow_changed_schema else self.variants():
            if told := lacking(variant.answers, answers):
                raise _VariantLacksError(
                    f"{folder}: requests to it may say what the variant at {variant.place} cannot answer: "
                    f"{', '.join(told)}; taken once the variant's bundle can"
                )

    def _asked_for(self) -> frozenset[str]:
        """What requests may say. A pointer says it itself: whoever published has compared, or said that it is meant."""
        named = read_pointer(self.place).answers if has_pointer(self.place) else None
        return self.answers if named is None else named

    def _is_tried(self, asked: "_Refused") -> bool:
        """Whether a bundle is worth an attempt, or another one after that which was refused."""
        if self._refused is None or asked.named != self._refused.named:
            return True
        has_changed = self._refused.files is None or asked.files != self._refused.files
        return has_changed and self.timer() >= self._refused.again_at

    def _refuse(self, error: Exception, asked: "_Refused") -> None:
        is_incomplete = isinstance(error, _IncompleteError)
        if not is_incomplete and self._refused is not None and asked.named != self._refused.named:
            self._told, self._wait_s = "", LEAST_WAIT_S
        # where it is not the bundle that was wrong, it may be taken as it is, later
        is_at_fault = isinstance(error, InputError) and not isinstance(error, _VariantLacksError)
        files = asked.files if is_at_fault else None
        wait_s = 0.0 if is_incomplete else self._wait_s
        self._refused = _Refused(asked.named, files, self.timer() + wait_s)
        self._wait_s = min(MOST_WAIT_S, 2 * wait_s) or LEAST_WAIT_S
        told = " ".join((str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}").split())
        if (kind := "incomplete" if is_incomplete else told) == self._told:
            return
        self._told = kind
        self._tell_of_refusal(told)

    def _tell_of_absence(self, error: Exception) -> None:
        """Say once that there is no bundle where one is named; not while one is put in the place of another."""
        self._away_since = self.timer() if self._away_since is None else self._away_since
        if self.timer() - self._away_since >= AWAY_S:
            self._away_since = inf
            self._tell_of_refusal(str(error))

    def _tell_of_refusal(self, told: str) -> None:
        self.on_swap("refused")
        LOG.error("bundle refused", extra={"fields": {"error": told, "bundle": self.service.manifest.version}})

    def _tell_of_changes(self) -> None:
        """Say once where files of the bundle that serves were written into: they are mapped into memory."""
        now = {name: _stamp(self._served_at / name) for name in self._served}
        changed = [name for name, then in self._served.items() if _is_written_into(then, now[name])]
        if changed:
            self._served = now
            LOG.error(
                "files of the bundle that serves were changed in place, and the process may die of it: put another "
                "bundle there by renaming its folder",
                extra={"fields": {"files": changed[:5], "folder": str(self._served_at)}},
            )


@dataclass(frozen=True)
class _Refused:
    """A bundle that was refused, or is asked for.

    Attributes:
        named: changes when another one is named, or its manifest is written.
        files: change with its content; None: it is tried again though nothing has changed.
        again_at: when, at the earliest.
    """

    named: object
    files: Mapping[str, Stamp | None] | None
    again_at: float


class _IncompleteError(InputError):
    """A bundle that is still being copied, perhaps."""


class _VariantLacksError(InputError):
    """Another bundle must be changed first."""


def _is_written_into(then: Stamp | None, now: Stamp | None) -> bool:
    """Whether it is the same file with another content, and not one that a rename has put there."""
    return then is not None and now is not None and then[:2] == now[:2] and then != now


def _stamps(folder: Path) -> dict[str, Stamp | None]:
    """What changes with each of a bundle's files."""
    try:
        names = read_manifest(folder).files
    except (InputError, OSError):
        names = {}
    return {name: _stamp(folder / name) for name in (MANIFEST, *names)}


def _stamp(file: Path) -> Stamp | None:
    """What changes with a file; None: there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _signature(folder: Path) -> tuple[str, Stamp | None]:
    """Changes when another bundle stands there."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: not a bundle (no {MANIFEST}); make one with 'isthmus bundle'")
    return str(folder.resolve()), _stamp(folder / MANIFEST)
