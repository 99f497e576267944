"""Events that a server acknowledged, through a killed server, a full disk, and a store that is gone for a while."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from tests.serving.bundles import new_bundle
from tests.serving.running import redis_server, serving

from isthmus.data.dataset import Dataset
from isthmus.serving.stored_events import open_store

MANY = 10_000


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lasting") / "bundle"
    new_bundle(folder, tiny_dataset)
    return folder


def send(client: httpx2.Client, number: int, user: str = "u") -> httpx2.Response:
    event = {"user": user, "item": f"i{number}", "domain": "shop", "id": f"{user}-{number}"}
    return client.post("/v1/events", json={"events": [event]})


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_no_acknowledged_event_is_lost_when_the_server_is_killed(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.sqlite"
    acknowledged = 0
    with serving(bundle, tmp_path / "log", "--events", str(file)) as (client, process):
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
        try:
            for number in range(MANY):
                assert send(client, number, f"v{number % 3}").json() == {"stored": 1}
                acknowledged += 1
        except httpx2.TransportError:
            pass
        killer.wait()
        process.wait()
    assert 0 < acknowledged < MANY
    store = open_store(str(file), retention_s=1e9)
    for user in range(3):
        kept = [item for item, _ in store.recent(f"v{user}", now=1.0)]
        sent = [f"i{number}" for number in range(user, acknowledged, 3)]
        # one more may have been written and its answer lost
        assert sent[-100:] in (kept[-100:], kept[:-1][-100:])
    with serving(bundle, tmp_path / "log", "--events", str(file)) as (client, _):
        assert send(client, MANY).json() == {"stored": 1}
        assert send(client, 0, "v0").json() == {"stored": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
def test_a_full_disk_is_said_and_what_fits_again_is_kept(bundle: Path, tmp_path: Path) -> None:
    import resource

    file = tmp_path / "events.sqlite"
    with serving(bundle, tmp_path / "log", "--events", str(file)) as (client, process):
        assert send(client, 0).json() == {"stored": 1}
        written = max(one.stat().st_size for one in tmp_path.iterdir())
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (written + 8192, resource.RLIM_INFINITY))
        acknowledged, answer = 1, send(client, 1)
        while answer.status_code == 200:
            acknowledged += 1
            answer = send(client, acknowledged)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "events_unavailable"
        assert client.post("/v1/recommend", json={"domain": "shop", "user": "u3"}).status_code == 200
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        assert send(client, acknowledged).json() == {"stored": 1}
    items = [item for item, _ in open_store(str(file), retention_s=1e9).recent("u", now=1.0)]
    assert items == [f"i{number}" for number in range(acknowledged + 1)][-200:]
    assert "events unavailable" in (tmp_path / "log").read_text()


def test_two_servers_share_redis_and_go_on_when_it_is_back(bundle: Path, tmp_path: Path) -> None:
    new = {"domain": "shop", "user": "u", "k": 5}
    with (
        redis_server(tmp_path) as (url, stopped),
        serving(bundle, tmp_path / "log", "--events", url) as (first, _),
        serving(bundle, tmp_path / "log2", "--events", url, "--workers", "2") as (second, _),
    ):
        assert second.post("/v1/recommend", json=new).json()["basis"] == "popular"
        for number in range(5):
            assert send(first, number).json() == {"stored": 1}
        for _ in range(4):
            assert second.post("/v1/recommend", json=new).json()["basis"] == "recent_events"
        stopped.kill()
        stopped.wait()
        for answer in (send(first, 5), second.post("/v1/recommend", json=new)):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "events_unavailable"
            assert answer.headers["retry-after"] == "1"
        # who has no history in the store is answered: nothing is asked of it
        assert second.post("/v1/recommend", json={"domain": "shop"}).status_code == 200
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        with redis_server(tmp_path, port=port):
            assert second.post("/v1/recommend", json=new).json()["basis"] == "recent_events"
            assert send(first, 4).json() == {"stored": 0}
            assert send(first, 5).json() == {"stored": 1}
            assert second.request("DELETE", "/v1/users/u").json() == {"deleted": 6}
            assert first.post("/v1/recommend", json=new).json()["basis"] == "popular"


def test_a_server_without_its_redis_says_so_in_one_line(bundle: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "isthmus",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--events",
        "redis://127.0.0.1:1/0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    assert ended.returncode == 2
    assert "Redis at 127.0.0.1:1 does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr
