"""What waits behind what in the service: batches, and events whose store is slow."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving.bundles import new_bundle
from tests.serving.clients import client

from isthmus.data.dataset import Dataset
from isthmus.serving.metrics import Metrics
from isthmus.serving.requests import Recommendation, RecommendRequest
from isthmus.serving.service import Service


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queues") / "bundle"
    new_bundle(folder, tiny_dataset)
    return folder


def test_a_batch_keeps_out_what_would_wait_behind_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release, plain = threading.Event(), threading.Event(), Service.recommend

    def slow(self: Service, request: RecommendRequest) -> Recommendation:
        entered.set()
        release.wait(10)
        return plain(self, request)

    monkeypatch.setattr(Service, "recommend", slow)
    with client(bundle, queue=8, timeout_s=20.0) as busy, ThreadPoolExecutor(1) as threads:
        batch = {"requests": [{"domain": "shop"}] * 20}
        asking = threads.submit(busy.post, "/v1/recommend/batch", json=batch)
        assert entered.wait(10)
        turned_away = busy.post("/v1/recommend", json={"domain": "shop"})
        release.set()
        assert len(asking.result().json()["answers"]) == 20
    assert turned_away.json()["error"]["code"] == "overloaded"


def test_a_locked_store_is_said_soon_keeps_nothing_and_leaves_recommendations_alone(
    bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "events.sqlite"
    event = {"events": [{"user": "someone new", "item": "i1", "domain": "shop"}]}
    with client(bundle, events=str(file), timeout_s=8.0) as opened, ThreadPoolExecutor(6) as threads:
        assert opened.post("/v1/recommend", json={"domain": "shop", "user": "u3"}).status_code == 200
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        posted = [threads.submit(opened.post, "/v1/events", json=event) for _ in range(4)]
        for _ in range(5):
            assert opened.post("/v1/recommend", json={"domain": "shop", "user": "u3"}).status_code == 200
        assert not any(answer.done() for answer in posted)
        answers = [answer.result() for answer in posted]
        other.execute("ROLLBACK")
        other.close()
        assert [answer.status_code for answer in answers] == [503] * 4
        assert {answer.json()["error"]["code"] for answer in answers} == {"events_unavailable"}
        threading.Event().wait(0.2)
        after = opened.post("/v1/recommend", json={"domain": "shop", "user": "someone new"})
        assert after.json()["basis"] == "popular"


def test_items_that_nobody_knows_do_not_push_out_a_users_events(bundle: Path, tmp_path: Path) -> None:
    with client(bundle, events=str(tmp_path / "events.sqlite")) as opened:
        user = {"user": "someone new", "domain": "shop"}
        assert opened.post("/v1/events", json={"events": [{**user, "item": "i1"}]}).json() == {"stored": 1}
        unknown = [{**user, "item": f"zz{n}"} for n in range(250)]
        assert opened.post("/v1/events", json={"events": unknown}).json() == {"stored": 250}
        assert opened.post("/v1/recommend", json=user).json()["basis"] == "recent_events"


def test_how_many_requests_are_held_is_counted_whichever_process_is_asked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    monkeypatch.setattr("isthmus.serving.app.Metrics", lambda _: metrics)
    release, plain = threading.Event(), Service.recommend

    def slow(self: Service, request: RecommendRequest) -> Recommendation:
        release.wait(10)
        return plain(self, request)

    def held() -> float | None:
        threading.Event().wait(0.8)
        return metrics.registry.get_sample_value("isthmus_requests_held")

    monkeypatch.setattr(Service, "recommend", slow)
    with client(bundle, timeout_s=20.0) as busy, ThreadPoolExecutor(1) as threads:
        batch = {"requests": [{"domain": "shop"}] * 20}
        asking = threads.submit(busy.post, "/v1/recommend/batch", json=batch)
        before = held()
        release.set()
        assert before == 20
        assert asking.result().status_code == 200
        assert held() == 0
