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
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle

from isthmus.data.dataset import Dataset
from isthmus.serving.app import new_app
from isthmus.serving.serve_settings import ServeSettings

EXAMPLES = 40
OPERATIONS = 10
SLOWEST_S = 3.0
KNOWN = {
    "domain": {"type": "string", "enum": ["shop", "video", "news", "nowhere"]},
    "user": {"type": "string", "enum": ["u1", "u2", "u3", "nobody"]},
    "item": {"type": "string", "enum": ["i1", "i2", "i3", "never"]},
}
ALLOWED = {200, 400, 404, 405, 422}


@pytest.fixture(scope="module")
def client(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("fuzz")
    new_bundle(folder / "bundle", tiny_dataset, labelled)
    asked = ServeSettings(folder / "bundle", events=str(folder / "events.sqlite"), timeout_s=30.0)
    with TestClient(new_app(asked), raise_server_exceptions=False) as opened:
        yield opened


def with_known_names(part: Any) -> Any:
    """A document in which domains, users and items are mostly those of the bundle, so that requests get further."""
    if isinstance(part, list):
        return [with_known_names(one) for one in part]
    if not isinstance(part, dict):
        return part
    properties = {name: KNOWN.get(name, value) for name, value in part.get("properties", {}).items()}
    changed = {name: with_known_names(value) for name, value in part.items()}
    if properties:
        changed["properties"] = with_known_names(properties)
    if part.get("name") in KNOWN and "schema" in part:
        changed["schema"] = KNOWN[part["name"]]
    return changed


def fuzz(client: TestClient, mode: GenerationMode) -> Counter[str]:
    """Send drawn requests of every operation; gives how many of each status class there were."""
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
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"]
            answered[f"{answer.status_code // 100}xx"] += 1

        send()
    assert num_operations >= OPERATIONS
    return answered


def test_what_the_document_allows_is_answered(client: TestClient) -> None:
    answered = fuzz(client, GenerationMode.POSITIVE)
    assert answered["2xx"] > 50
    assert answered["4xx"] > 50  # unknown domains, most of all


def test_what_it_does_not_allow_is_refused_with_a_message(client: TestClient) -> None:
    assert fuzz(client, GenerationMode.NEGATIVE)["4xx"] > 100
