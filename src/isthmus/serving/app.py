"""The service over HTTP: FastAPI around a bundle, with limits, a token, metrics and errors as JSON."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import PlainTextResponse, Response
from pydantic import TypeAdapter
from starlette.convertors import Convertor, register_url_convertor

from isthmus.errors import InputError
from isthmus.serving.bodies import BatchBody, EventsBody, RecommendBody, ScoreBody
from isthmus.serving.direct import Direct
from isthmus.serving.edge import INTERNAL, REQUEST_ID, Edge
from isthmus.serving.event_store import Event, EventStore, EventsUnavailableError
from isthmus.serving.feedback import LOG_EVERY_S, add_feedback, open_logs
from isthmus.serving.gate import Gate
from isthmus.serving.host import Host
from isthmus.serving.metrics import Metrics
from isthmus.serving.mistakes import ErrorAnswer, add_errors
from isthmus.serving.pages import add_page
from isthmus.serving.reference_page import add_reference
from isthmus.serving.requests import FoundItem, Recommendation, ScoredItem, SimilarItem
from isthmus.serving.serve_settings import ServeSettings
from isthmus.serving.service import MOST_ITEMS
from isthmus.serving.stored_events import StoredEvents, answer_within, known_to, open_store, unavailable
from isthmus.serving.trial import Answered, Trial
from isthmus.serving.view import domain_number

LOG = logging.getLogger("isthmus.serving")
DAY_S = 86_400.0
EXPIRE_EVERY_S = 600.0
LOOK_EVERY_S = 0.5
WRITERS = 2


@dataclass(frozen=True)
class BatchAnswer:
    """The answers of a batch in its order; one that could not be answered is `{"error": ...}`."""

    answers: list[Recommendation | dict[str, dict[str, str]]]


@dataclass(frozen=True)
class Scores:
    """Probabilities in the order asked, and the bundle that gave them."""

    items: tuple[ScoredItem, ...]
    bundle: str


@dataclass(frozen=True)
class Similar:
    """Nearest first."""

    items: tuple[SimilarItem, ...]
    bundle: str


@dataclass(frozen=True)
class FoundItems:
    """In the order of their ids."""

    items: tuple[FoundItem, ...]
    bundle: str


@dataclass(frozen=True)
class FoundUsers:
    """In the order of their ids."""

    users: tuple[str, ...]
    bundle: str


class AnyText(Convertor[str]):
    """A part of a path that may hold whatever an id does: slashes, and line breaks, which `path` does not match."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", AnyText())

# made once: making one costs as much as several requests
ONE, MANY = TypeAdapter(Recommendation), TypeAdapter(BatchAnswer)
SCORES, SIMILAR = TypeAdapter(Scores), TypeAdapter(Similar)


def new_app(settings: ServeSettings, *, clock: Callable[[], float] = time) -> Edge:
    """The ASGI application; opens the bundle now.

    Args:
        clock: seconds since 1970, for events.

    Raises:
        InputError: the bundle or the store of events cannot be opened.
    """
    metrics = Metrics(settings.shared_metrics)
    store = None
    if settings.events is not None:
        within = answer_within(settings.timeout_s)
        store = open_store(settings.events, retention_s=settings.retention_days * DAY_S, answer_s=within)
    events = None if store is None else StoredEvents(store, clock)

    hosts: dict[str, Host] = {}  # of the variants that have a bundle of their own

    def opened(
        place: Path,
        variant: str = "",
        least: Callable[[], frozenset[str]] = frozenset,
        variants: Callable[[], Sequence[Host]] = tuple,
    ) -> Host:
        return Host(
            place,
            events=events,
            check=settings.check,
            engine=settings.engine,
            on_swap=lambda outcome: metrics.swaps.labels(outcome, variant).inc(),
            on_drift=lambda domain, signal, index: metrics.drift.labels(domain, signal, variant).set(index),
            least=least,
            variants=variants,
            allow_changed_schema=settings.allow_changed_schema,
        )

    host = opened(settings.place, variants=lambda: tuple(hosts.values()))
    for variant in () if settings.experiment is None else settings.experiment.variants:
        if variant.bundle is not None:
            hosts[variant.name] = opened(variant.bundle, variant.name, least=lambda: host.answers)
    logs = open_logs(settings.log_folder, metrics)
    trial = Trial(settings.experiment, hosts, logs.get("impressions"), clock)
    gate = Gate(num_threads=settings.num_threads, queue=settings.queue, timeout_s=settings.timeout_s)
    # of their own: a store that lets us wait must not keep recommendations waiting
    writes = Gate(num_threads=WRITERS, queue=settings.queue, timeout_s=settings.timeout_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_repeat(one.refresh, settings.poll_s)) for one in (host, *hosts.values())]
        tasks += [asyncio.create_task(_repeat(log.flush, LOG_EVERY_S)) for log in logs.values()]
        tasks += [asyncio.create_task(_repeat(log.flush_if_many, LOOK_EVERY_S)) for log in logs.values()]
        # also where another process is asked for the metrics of all
        tasks.append(
            asyncio.create_task(_repeat(lambda: metrics.held.set(gate.num_held + writes.num_held), LOOK_EVERY_S))
        )
        if store is not None:
            tasks.append(asyncio.create_task(_repeat(lambda: store.expire(now=clock()), EXPIRE_EVERY_S)))
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        gate.close()
        writes.close()
        for log in logs.values():
            log.flush()

    app = FastAPI(
        title="Isthmus",
        description="The best items of a domain for a user.",
        lifespan=lifespan,
        docs_url=None,  # they load what they show from elsewhere; see `reference_page`
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}},
    )
    add_errors(app)

    def observe(answered: Answered) -> None:
        metrics.observe_answer(answered.recommendation)
        trial.log(answered)

    _add_state(app, host, metrics)
    _add_recommendations(app, host, gate, trial, observe)
    _add_events(app, host, writes, store, clock)
    add_feedback(app, logs.get("feedback"), clock)
    add_page(app)
    add_reference(app)
    return Edge(
        Direct(
            app,
            gate,
            lambda body, request_id: trial.answer(host.service, body.request(), request_id),
            observe,
        ),
        token=settings.token,
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.timeout_s,
        metrics=metrics,
        bundle=lambda: host.service.manifest.version,
    )


def _add_recommendations(
    app: FastAPI, host: Host, gate: Gate, trial: Trial, observe: Callable[[Answered], None]
) -> None:
    @app.post("/v1/recommend", response_model=Recommendation)
    async def recommend_one(body: RecommendBody, request: Request) -> Response:
        """The k best items of a domain for a user."""
        service = host.service
        answered = await gate.run(lambda: trial.answer(service, body.request(), request.scope[REQUEST_ID]))
        observe(answered)
        return _json(ONE.dump_json(answered.recommendation))

    @app.post("/v1/recommend/batch", response_model=BatchAnswer)
    async def recommend_many(batch: BatchBody, request: Request) -> Response:
        """Several requests, each answered as if it were alone; an error of one leaves the others."""
        service = host.service

        def work() -> tuple[list[Answered], bytes]:
            answered: list[Answered] = []
            answers: list[Recommendation | dict[str, dict[str, str]]] = []
            for number, body in enumerate(batch.requests):
                request_id = f"{request.scope[REQUEST_ID]}-{number}"
                try:
                    one = trial.answer(service, body.request(), request_id)
                except Exception as error:  # whatever it is: the others are answered
                    code, message = _told(error, request_id)
                    answers.append({"error": {"code": code, "message": message}})
                else:
                    answered.append(one)
                    answers.append(one.recommendation)
            return answered, MANY.dump_json(BatchAnswer(answers))

        answered, content = await gate.run(work, weight=len(batch.requests))
        for one in answered:
            observe(one)
        return _json(content)

    @app.post("/v1/score", response_model=Scores)
    async def score(body: ScoreBody) -> Response:
        """The click model's probability of given items for a user."""
        service = host.service
        items = await gate.run(lambda: service.score(body.request()))
        return _json(SCORES.dump_json(Scores(items, service.manifest.version)))

    @app.get("/v1/items/{item:any}/similar", response_model=Similar)
    async def similar(item: str, domain: str, k: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 10) -> Response:
        """The items of a domain that are most like one of it."""
        service = host.service
        items = await gate.run(lambda: service.similar(item, domain, k))
        return _json(SIMILAR.dump_json(Similar(items, service.manifest.version)))

    @app.get("/v1/items")
    async def find_items(
        domain: str,
        q: Annotated[str, Query(min_length=1, max_length=200)],
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> FoundItems:
        """Items of a domain by a part of their title or id."""
        service = host.service
        items = await gate.run(lambda: service.find_items(q, domain, limit))
        return FoundItems(items, service.manifest.version)

    @app.get("/v1/users")
    async def find_users(
        prefix: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 10
    ) -> FoundUsers:
        """Users that the bundle knows, by how their id begins."""
        service = host.service
        users = await gate.run(lambda: service.find_users(prefix, limit))
        return FoundUsers(users, service.manifest.version)


def _add_state(app: FastAPI, host: Host, metrics: Metrics) -> None:
    @app.get("/v1/domains")
    async def domains() -> dict[str, Any]:
        """The domains, and what a request may name in them."""
        service = host.service
        record = service.manifest
        return {
            "bundle": record.version,
            "created": record.created,
            "shard": None if (shard := record.retrieval.shard) is None else shard.model_dump(),
            "domains": [
                {
                    "name": corpus.domain,
                    "num_items": corpus.num_items,
                    "search": corpus.kind,
                    "is_ranked": service.is_ranked(corpus.domain),
                    "num_candidates": service.num_candidates,
                }
                for corpus in record.retrieval.corpora
            ],
            "context": service.context_names,
            "filters": {name: field.kind for name, field in service.attributes.fields.items()},
            "reads_history": bool(service.view.history_fields),
        }

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """A bundle is open and requests are answered."""
        return {"status": "ready", "bundle": host.service.manifest.version}

    for path, health in (("/healthz", healthz), ("/readyz", readyz)):
        app.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_events(app: FastAPI, host: Host, writes: Gate, store: EventStore | None, clock: Callable[[], float]) -> None:
    def required() -> EventStore:
        if store is None:
            raise InputError(
                "events are not kept here; start the service with --events FILE or redis://HOST:PORT/DATABASE"
            )
        return store

    @app.post("/v1/events")
    async def add_events(body: EventsBody) -> dict[str, int]:
        """What users took now. Once answered, the events are in the store and the user's next request reads them."""
        kept, service = required(), host.service
        events = []
        for event in body.events:
            name = service.domains[domain_number(service.view.dataset, event.domain)]
            events.append(Event(event.user, event.item, name, event.id, known_to(service, event.item)))
        return {"stored": await writes.write(lambda decide: kept.add(events, now=clock(), decide=decide))}

    @app.delete("/v1/users/{user:any}")
    async def forget(user: Annotated[str, PathParameter(min_length=1, max_length=500)]) -> dict[str, int]:
        """Delete a user's events, and use nothing of what bundles know of the user from now on."""
        kept = required()
        return {"deleted": await writes.write(lambda decide: kept.forget(user, now=clock(), decide=decide))}


def _told(error: Exception, request_id: str) -> tuple[str, str]:
    """The code and the words of an answer in a batch that is none; an error of ours is logged."""
    if isinstance(error, InputError):
        return "bad_request", str(error)
    if isinstance(error, EventsUnavailableError):
        return unavailable(error)
    LOG.error("request failed", exc_info=error, extra={"fields": {"request": request_id}})
    return INTERNAL


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _repeat(work: Callable[[], Any], every_s: float) -> None:
    """Do something in a thread time and again; what goes wrong is logged and tried again."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(work)
        except Exception:
            LOG.exception("background work failed")
