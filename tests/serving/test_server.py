"""The real process: `isthmus serve` on a loopback port, asked over a socket, and stopped."""

import json
import signal
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from time import sleep

import pytest
from benchmarks.serving import measure
from tests.serving.bundles import new_bundle
from tests.serving.running import serving

from isthmus.cli import main
from isthmus.data.dataset import Dataset
from isthmus.serving.listening import address
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import open_service


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "bundle"
    new_bundle(folder, tiny_dataset)
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_answers_keeps_events_and_stops_in_order(bundle: Path, tmp_path: Path, workers: str) -> None:
    expected = open_service(bundle).recommend(RecommendRequest("shop", user="u3"))
    options = ("--workers", workers, "--events", str(tmp_path / "events.sqlite"))
    with serving(bundle, tmp_path / "log", *options, token="secret") as (client, process):
        assert client.get("/v1/domains").status_code == 401
        client.headers["authorization"] = "Bearer secret"
        answer = client.post("/v1/recommend", json={"domain": "shop", "user": "u3"})
        assert [item["item"] for item in answer.json()["items"]] == [item.item for item in expected.items]
        event = {"user": "new", "item": "i1", "domain": "shop"}
        assert client.post("/v1/events", json={"events": [event]}).json() == {"stored": 1}
        for _ in range(6):  # whichever worker answers
            recent = client.post("/v1/recommend", json={"domain": "shop", "user": "new"})
            assert recent.json()["basis"] == "recent_events"
        text = client.get("/metrics").text
        counted = [line for line in text.splitlines() if line.startswith("isthmus_recommendations_total")]
        assert sum(float(line.split()[-1]) for line in counted) == 7
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    asked = [line for line in lines if line.get("path") == "/v1/recommend"]
    assert [line["status"] for line in asked] == [200] * 7


def test_a_connection_outlives_a_pause(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path / "log") as (client, _):
        connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
        opened = set()
        for pause in (6, 0):  # uvicorn's own limit is 5 s
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
            opened.add(connection.sock)
            sleep(pause)
        assert len(opened) == 1
        connection.close()


def test_what_cannot_be_served_is_said_in_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, message in (
            ([str(tmp_path)], "not a bundle (no manifest.json)"),
            ([str(bundle), "--workers", "0"], "--workers: 0 is below 1"),
            ([str(bundle), "--timeout", "0"], "--timeout 0.0: must be above 0"),
            ([str(bundle), "--timeout", "inf"], "--timeout inf: must be above 0 and at most 3600"),
            ([str(bundle), "--retention", "nan"], "--retention nan: must be above 0 and at most 36500"),
            ([str(bundle), "--retention", "1e300"], "--retention 1e+300: must be above 0 and at most 36500"),
            ([str(bundle), "--port", port], "cannot listen there"),
        ):
            assert main(["serve", *arguments]) == 2
            assert message in capsys.readouterr().err


def test_an_address_is_one_that_a_browser_takes() -> None:
    assert address("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert address("::1", 8000) == "http://[::1]:8000"


def test_the_benchmark_asks_the_bundle_both_ways(bundle: Path) -> None:
    rows = dict(measure(bundle, 5))
    assert rows["items by domain"].startswith("shop ")
    assert {"a request in the process", "a request over HTTP", "open, unchecked"} <= set(rows)


def test_publish_and_rollback_print_the_version(
    bundle: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = new_bundle(tmp_path / "second", tiny_dataset, exact_below=10).version
    place = str(tmp_path / "place")
    assert main(["rollback", place]) == 2
    assert main(["publish", str(bundle), place]) == 0
    assert main(["rollback", place]) == 2
    assert "names no previous bundle" in capsys.readouterr().err
    assert main(["publish", str(tmp_path / "second"), place]) == 0
    assert second in capsys.readouterr().out
    assert main(["rollback", place]) == 0
    assert open_service(bundle).manifest.version in capsys.readouterr().out
    assert main(["rollback", place]) == 0
    assert second in capsys.readouterr().out
    assert main(["publish", str(tmp_path), place]) == 2
    assert main(["publish", str(bundle), str(bundle)]) == 2


def test_the_demo_looks_at_its_port_first_and_says_its_address_when_it_answers(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, printed = list[Path](), list[str]()

    def demo(data: Path | None, out: Path) -> Path:
        made.append(out)
        return bundle

    def serve(place: Path, *, port: int, on_listening: Callable[[str], None]) -> None:
        printed.append(capsys.readouterr().out)
        on_listening(f"http://127.0.0.1:{port}")

    monkeypatch.setattr("isthmus.demo", demo)
    monkeypatch.setattr("isthmus.serve", serve)
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["demo", "--serve", port, "--out", str(tmp_path)]) == 2
    assert "cannot listen there" in capsys.readouterr().err
    assert made == []
    assert main(["demo", "--serve", port, "--out", str(tmp_path)]) == 0
    assert (made, printed) == ([tmp_path], [""])
    assert f"the page is at http://127.0.0.1:{port}" in capsys.readouterr().out
