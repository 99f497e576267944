"""What the OpenAPI document allows, and what it does not, is answered in bounded time and never by a 5xx."""

from collections import Counter
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle, rich_log

from isthmus.data.prepare import prepare
from isthmus.serving.app import new_app
from isthmus.serving.serve_settings import ServeSettings

EXAMPLES = 40
OPERATIONS = 10
SLOWEST_S = 10.0
KNOWN = {
    "domain": {"type": "string", "enum": ["shop", "video", "news", "nowhere"]},
    "user": {"type": "string", "enum": ["u1", "u2", "u3", "nobody"]},
    "item": {"type": "string", "enum": ["i1", "i2", "i3", "never"]},
}
KEYS: dict[str, dict[str, Any]] = {  # what fits a key of the bundle, and what does not; None: whatever is allowed
    "context": {
        "hour": {"enum": [7.5, 3, -1e6, 1e30, 1e40, -1e308, "abc", ["a"]]},
        "device": {"enum": ["phone", "desk", "fridge", 3.5, ["phone"]]},
        "slot": None,
        "tags": {"type": "array", "items": {"enum": ["a", "b", "never"]}},
    },
    "filters": {
        "price": {"enum": [{"min": 3}, {"max": 20.5}, {"min": -1e308, "max": 1e308}, {}, "cheap"]},
        "category": None,
    },
}
CHECKS = [response_schema_conformance, status_code_conformance, content_type_conformance]
ALLOWED = {200, 400, 404, 405, 422}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Both models read numbers, texts and lists of a request's context; drift is watched, events and logs are kept."""
    folder = tmp_path_factory.mktemp("fuzz")
    dataset = prepare(rich_log(folder), folder / "dataset")
    new_bundle(folder / "bundle", dataset, dataset, domains=("shop", "video"), score_field="found", drift_rows=20)
    asked = ServeSettings(
        folder / "bundle", events=str(folder / "events.sqlite"), log_folder=folder / "log", timeout_s=30.0
    )
    with TestClient(new_app(asked), raise_server_exceptions=False) as opened:
        yield opened


def with_known_names(document: Any) -> Any:
    """A document whose requests mostly name what the bundle has, so that they get further; answers are as they were."""
    schemas = {
        name: known(schema) if name.endswith(("Body", "Take")) else schema
        for name, schema in document["components"]["schemas"].items()
    }
    paths = {path: {method: asked(one) for method, one in of.items()} for path, of in document["paths"].items()}
    return {**document, "paths": paths, "components": {**document["components"], "schemas": schemas}}


def asked(operation: Any) -> Any:
    """An operation whose parameters have known values."""
    parameters = [{**one, "schema": KNOWN.get(one["name"], one["schema"])} for one in operation.get("parameters", ())]
    return {**operation, "parameters": parameters}


def known(schema: Any) -> Any:
    """The schema of a body whose texts are mostly known ones, and whose objects have known keys."""
    properties = {}
    for name, value in schema.get("properties", {}).items():
        if name in KEYS:
            keys = {key: one or value["additionalProperties"] for key, one in KEYS[name].items()}
            value = {"type": "object", "properties": keys, "additionalProperties": False, "required": list(keys)[:1]}
        properties[name] = KNOWN.get(name, value)
    return {**schema, "properties": properties}


def fuzz(client: TestClient, mode: GenerationMode) -> Counter[str]:
    """Send drawn requests of every operation; gives how many of each status there were, by class and by path."""
    schema = schemathesis.openapi.from_dict(with_known_names(client.get("/openapi.json").json()))
    answered: Counter[str] = Counter()
    num_operations = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        num_operations += 1
        if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.iter_parameters())):
            continue  # nothing that could be wrong

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case[Any]) -> None:
            request = case.as_transport_kwargs(base_url="http://testserver")
            del request["cookies"]  # none is read; the client would keep them
            if isinstance(request.get("data"), str | bytes):
                request["content"] = request.pop("data")
            started = perf_counter()
            answer = client.request(**request)
            assert perf_counter() - started < SLOWEST_S, request
            assert answer.status_code in ALLOWED, (request, answer.status_code, answer.text)
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]
            answered[f"{answer.status_code // 100}xx"] += 1
            answered[f"{case.operation.label} {answer.status_code}"] += 1

        send()
    assert num_operations >= OPERATIONS
    return answered


def test_what_the_document_allows_is_answered(client: TestClient) -> None:
    answered = fuzz(client, GenerationMode.POSITIVE)
    assert answered["2xx"] > 50
    assert answered["4xx"] > 50  # unknown domains, most of all
    for path in ("recommend", "recommend/batch", "score", "events", "feedback"):
        assert answered[f"POST /v1/{path} 200"] > 5


def test_what_it_does_not_allow_is_refused_with_a_message(client: TestClient) -> None:
    assert fuzz(client, GenerationMode.NEGATIVE)["4xx"] > 100
