"""The service over HTTP: answers, errors that are never the server's fault, limits, a token, events and swaps."""

import asyncio
import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle
from tests.serving.clients import client

from isthmus.data.dataset import Dataset
from isthmus.serving.app import new_app
from isthmus.serving.edge import Edge
from isthmus.serving.gate import Gate, OverloadedError
from isthmus.serving.publishing import publish, rollback
from isthmus.serving.requests import Recommendation, RecommendRequest
from isthmus.serving.serve_settings import ServeSettings
from isthmus.serving.service import Service, open_service


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, domains=("shop", "video"))
    return folder


@pytest.fixture(scope="module")
def asked(bundle: Path) -> Iterator[TestClient]:
    """A client of a service without events."""
    with client(bundle) as opened:
        yield opened


def items(answer: Any) -> list[str]:
    return [item["item"] for item in answer.json()["items"]]


def message(answer: Any) -> str:
    assert set(answer.json()) == {"error"}
    text = answer.json()["error"]["message"]
    assert isinstance(text, str)
    return text


def test_an_answer_is_that_of_the_service(asked: TestClient, bundle: Path) -> None:
    expected = open_service(bundle).recommend(RecommendRequest("shop", user="u3", k=3))
    answer = asked.post("/v1/recommend", json={"domain": "shop", "user": "u3", "k": 3})
    assert answer.status_code == 200
    assert items(answer) == [item.item for item in expected.items]
    content = answer.json()
    assert (content["basis"], content["ordered_by"]) == ("user_history", "click_probability")
    assert content["bundle"] == expected.bundle
    assert content["items"][0]["title"] == expected.items[0].title
    assert set(content["items"][0]["attributes"]) == {"category", "price"}
    assert set(content["timings_ms"]) == {"read", "retrieve", "rank", "show", "total"}


def test_filters_history_and_exclusions_come_through(asked: TestClient) -> None:
    body: dict[str, Any] = {
        "domain": "shop",
        "history": ["i1", {"item": "i2", "domain": "video"}],
        "k": 1000,
        "filters": {"price": {"min": 10, "max": 40}},
    }
    answer = asked.post("/v1/recommend", json=body)
    assert answer.json()["basis"] == "given_history"
    assert all(10 <= item["attributes"]["price"] <= 40 for item in answer.json()["items"])
    assert len(items(answer)) == answer.json()["num_matching"] > 3
    category = answer.json()["items"][0]["attributes"]["category"]
    for condition in (category, [category, "none"]):
        body["filters"]["category"] = condition
        narrowed = asked.post("/v1/recommend", json=body)
        assert {item["attributes"]["category"] for item in narrowed.json()["items"]} == {category}
    without = asked.post("/v1/recommend", json={**body, "exclude": items(narrowed)[:1]})
    assert items(without) == items(narrowed)[1:]


def test_a_batch_answers_each_as_if_alone_and_names_each_mistake(asked: TestClient) -> None:
    bodies = [{"domain": "shop", "user": "u3"}, {"domain": "shp"}, {"domain": "news", "user": "u5"}]
    answer = asked.post("/v1/recommend/batch", json={"requests": bodies})
    assert answer.status_code == 200
    first, second, third = answer.json()["answers"]
    assert "did you mean 'shop'" in second["error"]["message"]
    for body, found in ((bodies[0], first), (bodies[2], third)):
        assert asked.post("/v1/recommend", json=body).json()["items"] == found["items"]


def test_scores_are_those_of_the_list(asked: TestClient) -> None:
    listed = asked.post("/v1/recommend", json={"domain": "shop", "user": "u3", "k": 4}).json()["items"]
    names = [item["item"] for item in listed]
    scored = asked.post("/v1/score", json={"domain": "shop", "user": "u3", "items": [*names, "zzz"]})
    assert [one["item"] for one in scored.json()["items"]] == [*names, "zzz"]
    assert [one["is_known"] for one in scored.json()["items"]] == [True] * 4 + [False]
    probabilities = [one["probability"] for one in scored.json()["items"]]
    assert probabilities[:4] == pytest.approx([item["score"] for item in listed], rel=1e-5)


def test_domains_say_what_a_request_may_name(asked: TestClient) -> None:
    content = asked.get("/v1/domains").json()
    assert [one["name"] for one in content["domains"]] == ["shop", "video", "news"]
    assert [one["is_ranked"] for one in content["domains"]] == [True, True, False]
    assert content["filters"] == {"category": "categorical", "price": "number"}
    assert content["context"] == []


def test_similar_items_are_asked_by_domain(asked: TestClient) -> None:
    item = items(asked.post("/v1/recommend", json={"domain": "shop"}))[0]
    found = asked.get(f"/v1/items/{item}/similar", params={"domain": "shop", "k": 3})
    assert found.status_code == 200
    assert len(items(found)) == 3
    assert item not in items(found)
    missing = asked.get("/v1/items/a%2Fb/similar", params={"domain": "shop"})
    assert missing.status_code == 404
    assert "'a/b'" in message(missing)


def test_health_readiness_and_documentation(asked: TestClient, bundle: Path) -> None:
    assert asked.get("/healthz").json() == {"status": "ok"}
    assert asked.get("/readyz").json()["bundle"] == open_service(bundle).manifest.version
    paths = asked.get("/openapi.json").json()["paths"]
    assert set(paths) > {"/v1/recommend", "/v1/recommend/batch", "/v1/score", "/v1/domains", "/v1/events"}
    for path in ("/healthz", "/readyz"):
        head = asked.head(path)
        assert (head.status_code, head.headers["content-type"]) == (200, "application/json")
    page = asked.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in paths:
        assert f"<code>{path}</code>" in page.text
    assert "<td>integer, from 1 to 1000</td><td>10</td>" in page.text  # of k
    for name in asked.get("/openapi.json").json()["components"]["schemas"]:
        assert f'<section id="{name}">' in page.text
    # nothing that a browser would fetch from elsewhere, or run
    assert "//" not in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert asked.get("/redoc").status_code == 404


def test_other_methods_and_paths_are_refused_in_json(asked: TestClient) -> None:
    for answer, status in (
        (asked.get("/v1/recommend"), 405),
        (asked.get("/nowhere"), 404),
        (asked.get("/v1/items/i1/similar"), 422),
        (asked.get("/v1/items/i1/similar", params={"domain": "shop", "k": "x"}), 422),
        (asked.post("/v1/score", json={"domain": "news", "items": ["i1"]}), 400),
        (asked.post("/v1/events", json={"events": [{"user": "u", "item": "i", "domain": "shop"}]}), 400),
        (asked.post("/v1/recommend", content=b"domain=shop"), 422),
        (asked.post("/v1/recommend", content=b"\xff\xfe", headers={"content-type": "application/json"}), 422),
    ):
        assert answer.status_code == status
        assert message(answer)


def test_a_body_above_the_limit_is_refused_also_without_its_length(bundle: Path) -> None:
    with client(bundle, max_body_bytes=100) as small:
        body = json.dumps({"domain": "shop", "exclude": ["x" * 90]}).encode()
        parts = (body[start : start + 30] for start in range(0, len(body), 30))
        for content in (body, parts):
            answer = small.post("/v1/recommend", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert "larger than 100 bytes" in message(answer)
        assert small.post("/v1/recommend", json={"domain": "shop"}).status_code == 200


def test_a_token_guards_all_but_health(bundle: Path) -> None:
    with client(bundle, token="geheim-ß") as guarded:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "geheim"}):
            for answer in (
                guarded.post("/v1/recommend", json={"domain": "shop"}, headers=headers),
                guarded.get("/metrics", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        assert guarded.get("/healthz").status_code == 200
        assert guarded.get("/readyz").status_code == 200
        bearing = [(b"authorization", "Bearer geheim-ß".encode())]
        assert guarded.get("/v1/domains", headers=bearing).status_code == 200


def test_metrics_and_log_have_every_request(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with client(bundle) as counted, caplog.at_level(logging.INFO, "isthmus.serving"):
        answer = counted.post("/v1/recommend", json={"domain": "shop", "user": "u3"})
        counted.get("/nowhere")
        text = counted.get("/metrics").text
    assert 'isthmus_request_seconds_count{route="/v1/recommend",status="200"} 1.0' in text
    assert 'isthmus_request_seconds_count{route="unknown",status="404"} 1.0' in text
    assert (
        'isthmus_recommendations_total{basis="user_history",domain="shop",ordered_by="click_probability"} 1.0' in text
    )
    assert 'isthmus_stage_seconds_count{stage="retrieve"} 1.0' in text
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [line["status"] for line in lines] == [200, 404, 200]
    assert lines[0]["request"] == answer.headers["x-request-id"]
    assert lines[0]["bundle"] == answer.json()["bundle"]


def test_what_does_not_fit_the_queue_is_turned_away_and_what_is_late_given_up() -> None:
    release, ran = threading.Event(), []

    async def scenario() -> None:
        gate = Gate(num_threads=1, queue=1, timeout_s=0.2)
        held = asyncio.create_task(gate.run(lambda: release.wait(10)))
        waiting = asyncio.create_task(gate.run(lambda: ran.append("late")))
        await asyncio.sleep(0.05)
        assert gate.num_held == 2
        with pytest.raises(OverloadedError):
            await gate.run(lambda: None)
        for task in (held, waiting):
            with pytest.raises(TimeoutError):
                await task
        assert gate.num_held == 1  # what runs holds its place, what waited has given it back
        release.set()
        gate.close()
        assert gate.num_held == 0

    asyncio.run(scenario())
    assert ran == []


def test_requests_side_by_side_have_the_answers_of_single_ones(bundle: Path) -> None:
    bodies = [{"domain": name, "user": f"u{n}", "k": 5} for n in range(12) for name in ("shop", "video", "news")]
    with client(bundle, num_threads=4, queue=100, timeout_s=60.0) as opened:

        def ask(body: dict[str, Any]) -> Any:
            return opened.post("/v1/recommend", json=body).json()["items"]

        alone = [ask(body) for body in bodies]
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(ask, bodies))
    assert [[item["item"] for item in answer] for answer in together] == [
        [item["item"] for item in answer] for answer in alone
    ]
    assert len(alone) == 36


def test_a_store_that_fails_is_said_and_does_not_look_like_a_success(bundle: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "events.sqlite")
    with client(bundle, events=store) as opened:
        with sqlite3.connect(store) as other:
            other.execute("DROP TABLE event")
        other.close()
        answer = opened.post("/v1/events", json={"events": [{"user": "u", "item": "i1", "domain": "shop"}]})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "events_unavailable"


def test_an_overload_and_a_late_answer_say_when_to_ask_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, plain = threading.Event(), Service.recommend

    def slow(self: Service, request: RecommendRequest) -> Recommendation:
        release.wait(10)
        return plain(self, request)

    monkeypatch.setattr(Service, "recommend", slow)
    with client(bundle, queue=0, timeout_s=0.2) as busy:
        late = busy.post("/v1/recommend", json={"domain": "shop"})
        full = busy.post("/v1/recommend", json={"domain": "shop"})
        assert busy.get("/healthz").status_code == 200
        release.set()
    assert (late.status_code, full.status_code) == (503, 503)
    assert late.json()["error"]["code"] == "timed_out"
    assert full.json()["error"]["code"] == "overloaded"
    assert late.headers["retry-after"] == full.headers["retry-after"] == "1"


def test_an_event_is_read_by_the_next_request_and_a_user_can_be_forgotten(bundle: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "events.sqlite")
    new = {"domain": "shop", "user": "someone new", "k": 1000}
    with client(bundle, events=store) as first:
        before = first.post("/v1/recommend", json=new)
        assert before.json()["basis"] == "popular"
        item = items(before)[0]
        event = {"user": "someone new", "item": item, "domain": "shop", "id": "e1"}
        assert first.post("/v1/events", json={"events": [event]}).json() == {"stored": 1}
        assert first.post("/v1/events", json={"events": [event]}).json() == {"stored": 0}
        after = first.post("/v1/recommend", json=new)
        assert after.json()["basis"] == "recent_events"
        assert item not in items(after)
        wrong = first.post("/v1/events", json={"events": [event, {**event, "domain": "shp"}]})
        assert "did you mean 'shop'" in message(wrong)
    with client(bundle, events=store) as again:
        assert items(again.post("/v1/recommend", json=new)) == items(after)
        assert again.delete("/v1/users/someone%20new").json() == {"deleted": 1}
        assert items(again.post("/v1/recommend", json=new)) == items(before)
        known = {"domain": "shop", "user": "u3"}
        assert again.post("/v1/recommend", json=known).json()["basis"] == "user_history"
        assert again.delete("/v1/users/u3").json() == {"deleted": 0}
        assert again.post("/v1/recommend", json=known).json()["basis"] == "popular"


def test_events_expire(bundle: Path, tmp_path: Path) -> None:
    now = 1_000_000.0
    store = str(tmp_path / "events.sqlite")
    with client(bundle, clock=lambda: now, events=store, retention_days=1.0) as opened:
        opened.post("/v1/events", json={"events": [{"user": "n", "item": "i1", "domain": "shop"}]})
        for passed, basis in ((86_399, "recent_events"), (86_401, "popular")):
            now = 1_000_000.0 + passed
            assert opened.post("/v1/recommend", json={"domain": "shop", "user": "n"}).json()["basis"] == basis


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come about")


def test_a_published_bundle_is_taken_and_rolled_back_while_requests_run(
    bundle: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(shutil.copytree(bundle, tmp_path / "first"))
    second = new_bundle(tmp_path / "second", tiny_dataset)
    place = tmp_path / "place"
    version = publish(first, place).version
    started, release, plain = threading.Event(), threading.Event(), Service.recommend
    held: list[Any] = []

    def slow(self: Service, request: RecommendRequest) -> Recommendation:
        if request.k == 7:
            started.set()
            release.wait(10)
        return plain(self, request)

    monkeypatch.setattr(Service, "recommend", slow)
    with client(place, poll_s=0.02, num_threads=2, timeout_s=20.0) as opened:

        def serves() -> str:
            return str(opened.get("/readyz").json()["bundle"])

        assert serves() == version
        body = {"domain": "shop", "user": "u3", "k": 7}
        asking = threading.Thread(target=lambda: held.append(opened.post("/v1/recommend", json=body)))
        asking.start()
        assert started.wait(10)
        assert publish(tmp_path / "second", place).version == second.version
        wait_for(lambda: serves() == second.version)
        assert opened.post("/v1/recommend", json={**body, "k": 6}).json()["bundle"] == second.version
        release.set()
        asking.join()
        assert held[0].json()["bundle"] == version  # what was under way ended on its own bundle
        assert rollback(place) == version
        wait_for(lambda: serves() == version)
        # one that was damaged after it was published is refused, and what serves goes on
        (tmp_path / "second" / "retrieval" / "user.safetensors").write_bytes(b"x")
        (place / "current.json").write_text(json.dumps({"bundle": str(tmp_path / "second"), "previous": None}))
        wait_for(lambda: 'isthmus_bundle_swaps_total{outcome="refused",variant=""} 1.0' in opened.get("/metrics").text)
        assert opened.post("/v1/recommend", json={**body, "k": 6}).json()["bundle"] == version


def test_the_application_is_its_edge(bundle: Path) -> None:
    assert isinstance(new_app(ServeSettings(bundle, check=False)), Edge)


@pytest.mark.parametrize("user", ["new\nline", "a/b", "\n", "ü ?#", "end\n", "x/similar", "\x00\u2028"])
def test_a_user_of_any_id_can_be_forgotten(bundle: Path, tmp_path: Path, user: str) -> None:
    with client(bundle, events=str(tmp_path / "events.sqlite")) as opened:
        event = {"user": user, "item": "i1", "domain": "shop"}
        assert opened.post("/v1/events", json={"events": [event, event]}).json() == {"stored": 2}
        assert opened.delete(f"/v1/users/{quote(user, safe='')}").json() == {"deleted": 2}
        assert opened.post("/v1/recommend", json={"domain": "shop", "user": user}).json()["basis"] == "popular"


@pytest.mark.parametrize("item", ["x\ny", "a/b", "\n", "end\n", "x/similar", "ü ?#"])
def test_an_item_of_any_id_can_be_asked_for(asked: TestClient, monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    heard = []

    def similar(_: Service, named: str, domain: str, k: int) -> tuple[()]:
        heard.append((named, domain, k))
        return ()

    monkeypatch.setattr(Service, "similar", similar)
    answer = asked.get(f"/v1/items/{quote(item, safe='')}/similar", params={"domain": "shop"})
    assert answer.status_code == 200
    assert heard == [(item, "shop", 10)]
