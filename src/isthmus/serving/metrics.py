"""What the service counts, for Prometheus."""

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from isthmus.serving.requests import Recommendation

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters of one process; with several, the files in `shared` hold those of all.

    Args:
        shared: the folder in PROMETHEUS_MULTIPROC_DIR, where several processes serve.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self.registry, self.shared = CollectorRegistry(), shared
        self.requests = Histogram(
            "isthmus_request_seconds",
            "Time of a request.",
            ["route", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "isthmus_stage_seconds",
            "Time of a stage of a recommendation.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.answers = Counter(
            "isthmus_recommendations", "Recommendations.", ["domain", "basis", "ordered_by"], registry=self.registry
        )
        self.swaps = Counter(
            "isthmus_bundle_swaps",
            "Bundles taken into service, or refused; `variant` names one that has a bundle of its own.",
            ["outcome", "variant"],
            registry=self.registry,
        )
        self.unlogged = Counter(
            "isthmus_log_rows_lost", "Rows of logs that could not be kept.", ["kind"], registry=self.registry
        )
        self.drift = Gauge(
            "isthmus_drift_psi",
            "Population stability index of a signal's last requests against training; with several workers, one's.",
            ["domain", "signal", "variant"],
            multiprocess_mode="livemostrecent",
            registry=self.registry,
        )
        self.held = Gauge(
            "isthmus_requests_held",
            "Requests that run or wait, within half a second.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )

    def observe(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).observe(seconds)

    def observe_answer(self, answer: Recommendation) -> None:
        self.answers.labels(answer.domain, answer.basis, answer.ordered_by).inc()
        for stage, milliseconds in answer.timings_ms.items():
            self.stages.labels(stage).observe(milliseconds / 1000)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        if self.shared is None:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone, path=str(self.shared))  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
