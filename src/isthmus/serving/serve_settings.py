"""How a bundle is served; without the libraries that serving takes, for what only starts the processes that serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isthmus.abtest.assignment import Experiment

Engine = Literal["eager", "onnx"]


@dataclass(frozen=True)
class ServeSettings:
    """How a bundle is served.

    Attributes:
        place: the bundle, or the folder whose pointer names it.
        token: what requests to /v1 and /metrics must bear; None: anyone who reaches the port may ask.
        events: the file or the address of Redis that keeps recent events; None: none are taken.
        retention_days: how long an event counts.
        num_threads, queue, timeout_s: requests computed at a time, how many more may wait, and how long.
        max_body_bytes: of one request.
        connections: how many may be open.
        poll_s: how often another bundle is looked for.
        check: whether every byte of the bundle is checked first.
        shared_metrics: where several processes count together.
        engine: what computes the networks; None: `onnx` where the bundle has copies for it, else `eager`.
        experiment: divides requests among variants; None: all get the same.
        allow_changed_schema: also take a bundle, or a variant's, for which requests that are answered now are errors.
        log_folder: where impressions and feedback are written; None: nowhere.
    """

    place: Path
    token: str | None = None
    events: str | None = None
    retention_days: float = 30.0
    num_threads: int = 1
    queue: int = 32
    timeout_s: float = 5.0
    max_body_bytes: int = 1 << 20
    connections: int = 800
    poll_s: float = 1.0
    check: bool = True
    shared_metrics: Path | None = None
    engine: Engine | None = None
    experiment: Experiment | None = None
    log_folder: Path | None = None
    allow_changed_schema: bool = False
