"""How far what is served now has moved from what the models were trained on: the population stability index."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from isthmus.errors import InputError

FILE = "drift.json"
MOST_VALUES = 20  # of a field that is told by name; the others are one bin
QUANTILES = tuple(k / 10 for k in range(1, 10))
SCORES = ("retrieval_score", "probability")  # a request without one says nothing of it
HALF_WINDOW, LEAST, EVERY = 1000, 500, 50

Value = float | int | str | None
OnIndex = Callable[[str, str, float], None]
"""Hears a domain, a signal and its index."""


class Bins(BaseModel):
    """How a signal is divided, and how many training rows lie in each part.

    edges: of a number: bin i ends before edges[i], the last is open.
    values: of a text: the most frequent ones, a bin each; None of a number. A bin for all others follows.
    counts: rows a bin; the last bin is of rows without a value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...] = ()
    values: tuple[str, ...] | None = None
    counts: tuple[int, ...]

    def place(self, value: Value) -> int:
        """The bin of a value."""
        if value is None:
            return len(self.counts) - 1
        if self.values is not None:
            return self.values.index(str(value)) if str(value) in self.values else len(self.values)
        # training rows had none of it at all: nor is it known then whether it is a number
        return bisect_right(self.edges, float(value)) if self.edges else 0


Reference = Mapping[str, Mapping[str, Bins]]
"""By domain and signal."""
REFERENCE: TypeAdapter[dict[str, dict[str, Bins]]] = TypeAdapter(dict[str, dict[str, Bins]])


def bins_of(values: Sequence[Value]) -> Bins:
    """Numbers at their tenths, equal ones as one; texts by their most frequent."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        most = Counter(map(str, known)).most_common(MOST_VALUES)
        empty = Bins(values=tuple(value for value, _ in most), counts=(0,) * (len(most) + 2))
    else:
        numbers = np.array(known, dtype=np.float64)
        edges = np.unique(np.quantile(numbers, QUANTILES)).tolist() if known else []
        empty = Bins(edges=tuple(edges), counts=(0,) * (len(edges) + 2))
    counts = np.bincount([empty.place(value) for value in values], minlength=len(empty.counts))
    return empty.model_copy(update={"counts": tuple(counts.tolist())})


def stability_index(expected: Int[np.ndarray, " bin"], found: Int[np.ndarray, " bin"]) -> float:
    """The population stability index of counts in the same bins: 0 where the shares are equal, without an upper end.

    sum (q - p) ln(q / p) over shares p of the expected and q of the found counts, half a row added to each bin so that
    an empty one has a share. By custom .1 asks for a look and .25 for action; with n rows of each in b bins of one
    distribution it is 2 (b - 1) / n in the mean.
    """
    p, q = (expected + 0.5) / (expected + 0.5).sum(), (found + 0.5) / (found + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


class DriftMonitor:
    """Counts what requests are like and tells the index of each signal now and then.

    It holds counts alone.

    Args:
        half_window: the window of a domain is its last one to two times as many requests: of its two halves, the older
            one goes when the newer is full.
        least: nothing is told of fewer rows of a signal.
        every: how many requests of a domain pass between two tellings.
    """

    def __init__(
        self,
        reference: Reference,
        on_index: OnIndex,
        *,
        half_window: int = HALF_WINDOW,
        least: int = LEAST,
        every: int = EVERY,
    ) -> None:
        self.on_index = on_index
        self._lock = Lock()
        self._windows = {domain: _Window(bins, half_window, least, every) for domain, bins in reference.items()}
        for domain, bins in reference.items():
            for signal in bins:
                on_index(domain, signal, nan)  # not known yet, whatever a bundle before this one had

    def observe(self, domain: str, values: Mapping[str, Value]) -> None:
        """Count one request; a signal that the reference does not have is left out."""
        window = self._windows.get(domain)
        if window is None:
            return
        with self._lock:
            told = window.add(values)
        for signal, index in told:
            self.on_index(domain, signal, index)


class _Window:
    """The counts of one domain."""

    def __init__(self, bins: Mapping[str, Bins], half_window: int, least: int, every: int) -> None:
        self.half_window, self.least, self.every = half_window, least, every
        self.bins, self.num_seen = bins, 0
        self.expected = {signal: np.array(own.counts) for signal, own in bins.items()}
        self.now, self.before = self._empty(), self._empty()

    def _empty(self) -> dict[str, list[int]]:
        return {signal: [0] * len(own.counts) for signal, own in self.bins.items()}

    def add(self, values: Mapping[str, Value]) -> list[tuple[str, float]]:
        """Count a request; gives the indexes where it is time to tell them."""
        for signal, own in self.bins.items():
            value = values.get(signal)
            if value is not None or signal not in SCORES:
                self.now[signal][own.place(value)] += 1
        self.num_seen += 1
        told = []
        if self.num_seen % self.every == 0:
            for signal, expected in self.expected.items():
                found = np.array(self.now[signal]) + np.array(self.before[signal])
                if found.sum() >= self.least:
                    told.append((signal, stability_index(expected, found)))
        if self.num_seen % self.half_window == 0:
            self.before, self.now = self.now, self._empty()
        return told


class Recorder:
    """Keeps what is observed, for a reference."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, list[Value]]] = {}

    def observe(self, domain: str, values: Mapping[str, Value]) -> None:
        of_domain = self.seen.setdefault(domain, {})
        for signal, value in values.items():
            if value is not None or signal not in SCORES:
                of_domain.setdefault(signal, []).append(value)

    def reference(self) -> Reference:
        """Of each domain and signal, the bins of all that was seen."""
        return {
            domain: {signal: bins_of(values) for signal, values in signals.items()}
            for domain, signals in self.seen.items()
        }


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the file of a bundle."""
    (folder / FILE).write_bytes(REFERENCE.dump_json(dict(reference)))  # type: ignore[arg-type]


def read_reference(folder: Path) -> Reference | None:
    """The reference of a bundle; None of one that was made without.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return REFERENCE.validate_json(file.read_bytes())
    except ValidationError as error:
        raise InputError(f"{file}: damaged; copy the bundle again") from error
