"""What breaks beside the service: a worker, a bundle, a disk. What serves goes on, and what is wrong is said."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from socket import create_server
from time import monotonic, sleep

import httpx2
import pytest
from tests.serving.bundles import new_bundle
from tests.serving.running import serving

from isthmus.cli import main
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate
from isthmus.errors import InputError
from isthmus.serving.host import Host
from isthmus.serving.publishing import publish

BODY = {"domain": "shop", "user": "u3", "k": 5}
RESTART_S = 60


@pytest.fixture
def place(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    """A place that names a bundle beside it."""
    new_bundle(tmp_path / "first", tiny_dataset)
    publish(tmp_path / "first", tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of other domains."""
    folder = tmp_path_factory.mktemp("other")
    log = simulate(folder / "log", num_users=60, num_items=40, domains=("books", "shop"), seed=2)
    new_bundle(folder / "bundle", prepare(log, folder / "dataset"))
    return folder / "bundle"


def workers_of(pid: int) -> set[int]:
    """The processes that a supervisor started to serve."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.add(int(child))
    return found


def counting(folder: Path) -> set[int]:
    """The processes whose present state the metrics have."""
    return {int(file.stem.rsplit("_", 1)[1]) for file in folder.glob("isthmus-metrics-*/gauge_live*.db")}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_is_replaced_and_the_other_one_answers_meanwhile(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where what is counted lies
    with serving(place, tmp_path / "log", "--workers", "2") as (client, process):
        first = workers_of(process.pid)
        assert len(first) == 2
        version = client.post("/v1/recommend", json=BODY).json()["bundle"]
        os.kill(min(first), signal.SIGKILL)
        ends, num_answered = monotonic() + RESTART_S, 0
        while len(workers_of(process.pid) - {min(first)}) < 2 and monotonic() < ends:
            try:
                answer = client.post("/v1/recommend", json=BODY)
            except httpx2.TransportError:  # it was under way in the worker that is no more
                continue
            assert answer.json()["bundle"] == version
            num_answered += 1
            sleep(0.05)
        now = workers_of(process.pid) - {min(first)}
        assert len(now) == 2
        assert max(first) in now
        assert num_answered > 0
        for _ in range(20):
            assert client.post("/v1/recommend", json=BODY).status_code == 200
        while len(states := counting(tmp_path)) < 2 and monotonic() < ends:
            sleep(0.1)
        assert states == now  # what the dead one was at is no longer counted


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_supervisor_that_is_killed_and_the_port_is_free(place: Path, tmp_path: Path) -> None:
    with serving(place, tmp_path / "log", "--workers", "2") as (client, process):
        left = workers_of(process.pid)
        port = client.base_url.port
        process.kill()
        process.wait()
    ends = monotonic() + RESTART_S
    while any(Path(f"/proc/{worker}").exists() for worker in left) and monotonic() < ends:
        sleep(0.1)
    assert len(left) == 2
    assert not [worker for worker in left if Path(f"/proc/{worker}").exists()]
    with create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("name", ["retrieval/user.safetensors", "retrieval/corpus/0/items.safetensors"])
def test_a_truncated_bundle_is_not_published(place: Path, name: str) -> None:
    copy = Path(shutil.copytree(place.parent / "first", place.parent / "second"))
    os.truncate(copy / name, (copy / name).stat().st_size // 2)
    before = (place / "current.json").read_bytes()
    with pytest.raises(InputError, match=r"bytes, \d+ were written; copy the bundle again"):
        publish(copy, place)
    assert (place / "current.json").read_bytes() == before


def test_a_bundle_that_is_truncated_once_published_is_refused_and_the_old_one_serves(place: Path) -> None:
    host = Host(place)
    version = host.service.manifest.version
    copy = Path(shutil.copytree(place.parent / "first", place.parent / "second"))
    publish(copy, place)
    os.truncate(copy / "manifest.json", 100)
    swaps: list[str] = []
    host.on_swap = swaps.append
    assert not host.refresh()
    assert swaps == ["refused"]
    assert host.service.manifest.version == version


def test_a_bundle_of_other_domains_is_not_published(
    place: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "current.json").read_bytes()
    assert main(["publish", str(other), str(place)]) == 2
    assert "cannot answer what requests may say now: domain news, domain video;" in capsys.readouterr().err
    assert (place / "current.json").read_bytes() == before
    host = Host(place)
    assert not host.refresh()
    # a bundle that more domains have than are asked for now may be published
    assert main(["publish", str(place.parent / "first"), str(other.parent / "place")]) == 0


def test_a_bundle_of_other_domains_in_the_place_of_the_one_that_serves_is_refused(
    place: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = place.parent / "first"
    host, swaps = Host(bundle), list[str]()
    host.on_swap, version = swaps.append, host.service.manifest.version
    bundle.rename(place.parent / "moved")
    shutil.copytree(other, bundle)
    assert not host.refresh()
    assert swaps == ["refused"]
    assert host.service.manifest.version == version
    assert "domain news, domain video" in str([getattr(record, "fields", {}) for record in caplog.records])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_while_publishing_leaves_the_present_bundle(place: Path, tiny_dataset: Dataset) -> None:
    second = place.parent / "second"
    new_bundle(second, tiny_dataset)
    before = (place / "current.json").read_bytes()
    (place / "current.json.partial").symlink_to("/dev/full")
    command = [sys.executable, "-m", "isthmus", "publish", str(second), str(place)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no space left on the disk" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (place / "current.json").read_bytes() == before
    assert json.loads(before)["previous"] is None
    publish(second, place)  # once there is room
    assert json.loads((place / "current.json").read_text())["bundle"] == "../second"
