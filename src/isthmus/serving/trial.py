"""Answers as an experiment wants them, written to the log that its analysis reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from isthmus.abtest.assignment import Experiment, assign
from isthmus.serving.host import Host
from isthmus.serving.requests import Recommendation, RecommendRequest
from isthmus.serving.row_log import RowLog
from isthmus.serving.service import Service


@dataclass(frozen=True)
class Answered:
    """An answer, and the rows of the log that say what it shows; none where nothing is logged."""

    recommendation: Recommendation
    impressions: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """How requests are divided, and where what they were shown is written.

    Attributes:
        experiment: None: all get the same.
        hosts: of the variants that have a bundle of their own, by name.
        impressions: None: nothing is logged.
        clock: seconds since 1970.
    """

    experiment: Experiment | None
    hosts: Mapping[str, Host]
    impressions: RowLog | None
    clock: Callable[[], float]

    def answer(self, service: Service, request: RecommendRequest, request_id: str) -> Answered:
        """The answer by the variant of the request's user, or, where it names none, of the request.

        Args:
            service: what answers where the variant has no bundle of its own.
        """
        if self.experiment is None:
            answer = replace(service.recommend(request), request=request_id)
        else:
            variant = assign(self.experiment, request.user if request.user is not None else request_id)
            host = self.hosts.get(variant.name)
            answer = (service if host is None else host.service).recommend(
                replace(request, ranked=request.ranked and variant.ranked)
            )
            answer = replace(answer, request=request_id, experiment=self.experiment.name, variant=variant.name)
        if self.impressions is None:
            return Answered(answer, ())
        return Answered(answer, impressions_of(answer, request.user, datetime.fromtimestamp(self.clock(), UTC)))

    def log(self, answered: Answered) -> None:
        """Write what was shown; not before the answer is given: one that came too late is shown to nobody."""
        if self.impressions is not None:
            self.impressions.add(answered.impressions)


def impressions_of(answer: Recommendation, user: str | None, time: datetime) -> list[dict[str, Any]]:
    """A row for each item that was shown."""
    common = {
        "time": time,
        "request": answer.request,
        "user": user,
        "domain": answer.domain,
        "experiment": answer.experiment,
        "variant": answer.variant,
        "bundle": answer.bundle,
        "ordered_by": answer.ordered_by,
    }
    rows = []
    for position, item in enumerate(answer.items, start=1):
        price = item.attributes.get("price")
        own = {
            "item": item.item,
            "position": position,
            "score": item.score,
            "retrieval_score": item.retrieval_score,
            "price": price if isinstance(price, float) else None,
        }
        rows.append(common | own)
    return rows
