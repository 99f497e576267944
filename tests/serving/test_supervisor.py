"""Several workers that cannot start, or that die while they serve."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests.serving.bundles import new_bundle
from tests.serving.running import free_port, serving
from tests.serving.test_robustness import workers_of

from isthmus.data.dataset import Dataset

ENDS_S = 120


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supervisor") / "bundle"
    new_bundle(folder, tiny_dataset)
    return folder


def ended(*arguments: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    """What `isthmus serve` leaves that cannot serve."""
    command = [sys.executable, "-m", "isthmus", "serve", *arguments, "--port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([path, *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ENDS_S, env=environment)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_a_worker_cannot_open_ends_the_server_in_one_line(bundle: Path, tmp_path: Path, workers: str) -> None:
    (tmp_path / "file").write_text("")
    missing = tmp_path / "trial.yaml"
    missing.write_text("name: trial\nvariants: [{name: a, share: 0.5}, {name: b, share: 0.5, bundle: nowhere}]\n")
    for options, said in (
        (["--events", str(tmp_path / "no such folder" / "events.sqlite")], "not a usable store of events"),
        (["--log-folder", str(tmp_path / "file" / "logs")], "cannot be written to"),
        (["--log-folder", "/proc/self"], "cannot be written to"),
        (["--experiment", str(missing)], "nowhere: not a bundle"),
    ):
        found = ended(str(bundle), "--workers", workers, *options)
        assert found.returncode == 2, found
        assert said in found.stderr
        assert len(found.stderr.splitlines()) == 1, found.stderr
        assert "Traceback" not in found.stdout + found.stderr
        assert "listening" not in found.stdout


# read by every Python that has its folder on the path; not by the process that only looks whether all can be opened
SABOTAGE = """
import os
import isthmus.serving.server as server

def new_worker(settings):
    {what}

server.new_worker = new_worker
"""


@pytest.mark.parametrize(
    ("what", "how"), [("os.kill(os.getpid(), 9)", "SIGKILL"), ("raise RuntimeError('broken')", "exit code 1")]
)
def test_workers_that_die_at_their_start_are_given_up(bundle: Path, tmp_path: Path, what: str, how: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE.format(what=what))
    found = ended(str(bundle), "--workers", "2", path=str(tmp_path))
    assert found.returncode == 2
    assert f"workers cannot start ({how})" in found.stderr.splitlines()[-1]
    died = [line for line in found.stdout.splitlines() if '"worker died"' in line]
    assert 5 <= len(died) <= 6
    assert json.loads(died[0])["ended"] == how


def lines_of(log: Path, message: str) -> list[dict[str, Any]]:
    whole = [line for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    lines = [json.loads(line) for line in whole if message in line]
    return [line for line in lines if message in line["message"]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_dies_of_a_file_that_was_cut_short_names_it(tiny_dataset: Dataset, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    new_bundle(bundle, tiny_dataset)
    name, log = "retrieval/corpus/0/items.safetensors", tmp_path / "log"
    with serving(bundle, log, "--workers", "2") as (client, process):
        wait_for(lambda: bool(lines_of(log, "listening")))
        wait_for(lambda: len(lines_of(log, "Application startup complete")) == 2)
        first, second = sorted(workers_of(process.pid))
        sleep(2.0)  # the supervisor has seen that both serve
        os.truncate(bundle / name, 100)
        os.kill(first, signal.SIGBUS)  # as the system does where a page is no longer there
        wait_for(lambda: bool(lines_of(log, "worker died reading a file of the bundle that was changed in place")))
        (told,) = lines_of(log, "worker died reading")
        assert (told["worker"], told["ended"]) == (first, "SIGBUS")
        assert told["files"] == [f"{name}: has 100 bytes, {name_bytes(bundle, name)} were written"]
        # what cannot start does not end what serves
        wait_for(lambda: len(lines_of(log, "worker cannot start")) >= 1)
        sleep(1.0)
        assert client.get("/readyz").status_code == 200
        os.kill(second, signal.SIGKILL)
        assert process.wait(ENDS_S) == 2
    assert "workers cannot start (exit code 2)" in log.read_text()


def name_bytes(bundle: Path, name: str) -> int:
    return int(json.loads((bundle / "manifest.json").read_text())["files"][name]["num_bytes"])


def wait_for(condition: Callable[[], bool]) -> None:
    ends = monotonic() + ENDS_S
    while not condition():
        assert monotonic() < ends
        sleep(0.1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_listening_is_said_when_it_is_true(bundle: Path, tmp_path: Path, workers: str) -> None:
    with serving(bundle, tmp_path / "log", "--workers", workers) as (client, _):
        for _ in range(100):
            if lines := lines_of(tmp_path / "log", "listening"):
                break
            sleep(0.1)
        (line,) = lines
        assert line["address"] == str(client.base_url).rstrip("/")
        assert client.get("/readyz").status_code == 200
