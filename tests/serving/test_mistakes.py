"""What is asked wrongly is told in plain words, and what we do wrong is answered and logged."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle
from tests.serving.clients import client

from isthmus.data.dataset import Dataset
from isthmus.serving.event_store import EventsUnavailableError
from isthmus.serving.requests import Recommendation, RecommendRequest
from isthmus.serving.service import Service


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, domains=("shop", "video"))
    return folder


@pytest.fixture(scope="module")
def asked(bundle: Path) -> Iterator[TestClient]:
    """A client of a service without events."""
    with client(bundle) as opened:
        yield opened


def message(answer: Any) -> str:
    assert set(answer.json()) == {"error"}
    text = answer.json()["error"]["message"]
    assert isinstance(text, str)
    return text


BAD_BODIES: tuple[tuple[str, str], ...] = (
    ("", "field required"),
    ("{", "json"),
    ("[]", "send an object in JSON"),
    ('"shop"', "send an object in JSON"),
    ("[" * 100_000, ""),
    ("{}", "domain: field required"),
    ('{"domain": "shop", "kk": 1}', "kk: extra inputs are not permitted"),
    ('{"domain": "shop", "k": 0}', "k: input should be greater than or equal to 1"),
    ('{"domain": "shop", "k": 1001}', "k: input should be less than or equal to 1000"),
    ('{"domain": "shop", "k": "3"}', "k: input should be a valid integer"),
    ('{"domain": "shop", "k": true}', "k: input should be a valid integer"),
    ('{"domain": "shop", "k": 1e400}', "k:"),
    ('{"domain": 3}', "domain: input should be a valid string"),
    ('{"domain": ""}', "domain: string should have at least 1 character"),
    ('{"domain": "\\ud800"}', "domain:"),
    ('{"domain": "shop", "user": "\\u0000"}', "OK"),
    ('{"domain": "shop", "\\ud800": 1}', ""),
    ('{"domain": "nowhere"}', "unknown domain 'nowhere'"),
    ('{"domain": "shop", "filters": {"price": {"min": NaN}}}', "filters.price"),
    ('{"domain": "shop", "filters": {"price": {"least": 1}}}', "filters.price"),
    ('{"domain": "shop", "filters": {"size": "L"}}', "filters.size: unknown field of items"),
    ('{"domain": "shop", "filters": {"price": "cheap"}}', "filters.price: is a number"),
    ('{"domain": "shop", "context": {"hour": 3}}', "context.hour: unknown context field"),
    ('{"domain": "shop", "user": "u1", "history": ["i1"]}', "a user or a history, not both"),
)


@pytest.mark.parametrize(("body", "expected"), BAD_BODIES)
def test_a_bad_body_is_the_askers_mistake(asked: TestClient, body: str, expected: str) -> None:
    answer = asked.post("/v1/recommend", content=body.encode(), headers={"content-type": "application/json"})
    if expected == "OK":
        assert answer.status_code == 200
        return
    assert answer.status_code in (400, 422)
    assert expected.lower() in message(answer).lower()


def test_a_whole_number_may_be_written_with_a_point(asked: TestClient) -> None:
    answer = asked.post(
        "/v1/recommend", content=b'{"domain": "shop", "k": 3.0}', headers={"content-type": "application/json"}
    )
    assert len(answer.json()["items"]) == 3


KINDS: tuple[tuple[str, str], ...] = (
    ('{"domain": "shop", "history": [3]}', "history.0: give a text or an object"),
    ('{"domain": "shop", "history": [{"x": 1}]}', "history.0.item: field required; history.0.x: extra inputs are not"),
    ('{"domain": "shop", "history": [""]}', "history.0: string should have at least 1 character"),
    ('{"domain": "shop", "context": {"a": null}}', "context.a: give a text, a whole number, a number or a list"),
    ('{"domain": "shop", "context": {"a": true}}', "context.a: give a text, a whole number, a number or a list"),
    ('{"domain": "shop", "context": {"a": [1.5]}}', "context.a.0: give a text or a whole number"),
    ('{"domain": "shop", "filters": {"a": 3}}', "filters.a: give a text, a list or an object"),
    ('{"domain": "shop", "filters": {"a": {"min": "x"}}}', "filters.a.min: input should be a valid number"),
    ('{"domain": "shop", "filters": {"a": {"max": true}}}', "filters.a.max: input should be a valid number"),
    ('{"domain": "shop", "filters": {"a": []}}', "filters.a: list should have at least 1 item"),
    ('["shop"]', "body: give an object"),
)


@pytest.mark.parametrize(("body", "expected"), KINDS)
def test_a_value_of_the_wrong_kind_is_told_what_is_wanted_in_plain_words(
    asked: TestClient, body: str, expected: str
) -> None:
    for path, sent in (("/v1/recommend", body), ("/v1/recommend/batch", f'{{"requests": [{body}]}}')):
        answer = asked.post(path, content=sent.encode(), headers={"content-type": "application/json"})
        assert answer.status_code == 422
        text = message(answer).replace("requests.0.", "").replace("requests.0:", "body:")
        assert text.startswith(expected)
        for name in ("constrained", "Take", "Range", "list[", "instance", "dictionary"):
            assert name not in text


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/score", "/v1/domains"])
def test_an_error_of_ours_is_answered_in_json_and_logged_with_its_traceback(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise LookupError("of our own making")

    for name in ("recommend", "score", "is_ranked"):
        monkeypatch.setattr(Service, name, broken)
    asked = {"domain": "shop", "user": "u3"}
    body = asked | ({"items": ["i1"]} if "score" in path else {})
    with client(bundle) as opened, caplog.at_level(logging.INFO, "isthmus.serving"):
        answer = opened.get(path) if path.endswith("domains") else opened.post(path, json=body)
        assert f'route="{path}",status="500"' in opened.get("/metrics").text
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": "internal", "message": "an error of the service; its log has it"}}
    (failed,) = [record for record in caplog.records if record.message == "request failed"]
    assert failed.exc_info is not None
    assert failed.exc_info[0] is LookupError
    assert failed.__dict__["fields"]["request"] == answer.headers["x-request-id"]


def test_an_entry_of_a_batch_fails_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Service.recommend

    def partly(self: Service, request: RecommendRequest) -> Recommendation:
        if request.user == "ours":
            raise LookupError("of our own making")
        if request.user == "store":
            raise EventsUnavailableError("hangs")
        return plain(self, request)

    monkeypatch.setattr(Service, "recommend", partly)
    users = ("u1", "ours", "store", "u2")
    batch = {"requests": [*({"domain": "shop", "user": user} for user in users), {"domain": "nowhere"}]}
    with client(bundle) as opened, caplog.at_level(logging.INFO, "isthmus.serving"):
        answer = opened.post("/v1/recommend/batch", json=batch)
    assert answer.status_code == 200
    answers = answer.json()["answers"]
    codes = [one["error"]["code"] if "error" in one else one["basis"] for one in answers]
    assert codes == ["user_history", "internal", "events_unavailable", "user_history", "bad_request"]
    assert "of our own making" not in answer.text
    (failed,) = [record for record in caplog.records if record.message == "request failed"]
    assert failed.exc_info is not None
    assert failed.exc_info[0] is LookupError
    assert failed.__dict__["fields"]["request"] == f"{answer.headers['x-request-id']}-1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/v1/users/", 422),  # and not the user without a name
        ("DELETE", f"/v1/users/{'u' * 501}", 422),
        ("GET", "/v1/users/", 405),
        ("POST", "/v1/recommend/", 404),  # and not elsewhere, over plain HTTP perhaps
    ],
)
def test_a_path_that_is_not_whole_is_told(asked: TestClient, method: str, path: str, status: int) -> None:
    answer = asked.request(method, path, json={"domain": "shop"}, follow_redirects=False)
    assert answer.status_code == status
    assert message(answer)
