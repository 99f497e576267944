"""A recommendation that passes the framework by is answered, and refused, as the framework does it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle

from isthmus.data.dataset import Dataset
from isthmus.serving.app import new_app
from isthmus.serving.gate import Gate
from isthmus.serving.serve_settings import ServeSettings

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("direct") / "bundle"
    new_bundle(folder, tiny_dataset, labelled)
    with TestClient(new_app(ServeSettings(folder))) as opened:
        yield opened


@pytest.mark.parametrize(
    "body",
    [
        {"domain": "shop", "user": "u3", "k": 20, "explain": True},
        {"domain": "video", "history": ["i1", {"item": "i2", "domain": "shop"}, "never"]},
        {"domain": "news", "user": "nobody", "filters": {"price": {"max": 30}}, "exclude": ["i1"]},
    ],
)
def test_the_answer_is_that_of_the_framework(client: TestClient, body: dict[str, Any]) -> None:
    direct = client.post("/v1/recommend", json=body)
    (framework,) = client.post("/v1/recommend/batch", json={"requests": [body]}).json()["answers"]
    assert direct.headers["content-type"] == "application/json"
    assert len(direct.headers["x-request-id"]) == 16
    own = {"timings_ms": None, "request": None}
    assert direct.json()["request"] == direct.headers["x-request-id"]
    assert {**direct.json(), **own} == {**framework, **own}
    assert len(direct.json()["items"]) > 3


def test_a_body_that_does_not_say_that_it_is_json_is_refused_by_the_framework(client: TestClient) -> None:
    answer = client.post("/v1/recommend", content=b'{"domain": "shop"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]
    charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/recommend", content=b'{"domain": "shop"}', headers=charset).status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"domain": "\\ud800"}', b'{"domain": "shop", "k": 10.5}', b"\xff"]
)
def test_what_is_no_request_is_refused_with_a_message(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/recommend", content=content, headers=JSON)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_the_log_and_the_metrics_name_the_path(client: TestClient) -> None:
    client.post("/v1/recommend", json={"domain": "shop"})
    assert 'isthmus_request_seconds_count{route="/v1/recommend",status="200"}' in client.get("/metrics").text


def test_a_full_queue_turns_away_before_the_body_is_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "is_full", True)
    answer = client.post("/v1/recommend", content=b"no JSON", headers=JSON)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "overloaded"
