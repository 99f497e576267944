"""Real processes: killed without a warning within and between CDAnet's stages, and two in one run folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.training.test_ranking_runs import settings_of

from isthmus.api import train
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.experiments.jobs import begin_worker
from isthmus.files import alone_in

PATIENCE_S = 120


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "the process ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.01)


def started(dataset: Dataset, run: Path, settings: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "isthmus", "train", str(dataset.path), str(run), "--settings", str(settings)]
    return subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL)


SETTINGS = settings_of("cdanet", epochs=2, patience=2, checkpoint_steps=2)


@pytest.fixture(scope="module")
def weights(labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a training that nothing disturbs ends with."""
    run = train(labelled.path, tmp_path_factory.mktemp("whole") / "run", SETTINGS, device="cpu", say=lambda _: None)
    return run.model.state_dict()


@pytest.mark.parametrize(
    ("stage", "after"),
    [("translation", 1), ("translation", 2), ("augmentation-1", 1)],
    ids=["within the first stage", "between the stages", "within the second"],
)
def test_a_training_killed_without_a_warning_ends_with_the_weights_of_one_that_was_not(
    labelled: Dataset, weights: dict[str, torch.Tensor], tmp_path: Path, stage: str, after: int
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json")), encoding="utf-8")
    metrics = tmp_path / "run" / "metrics.jsonl"

    def is_there() -> bool:
        return metrics.is_file() and metrics.read_text(encoding="utf-8").count(f'"stage": "{stage}"') >= after

    process = started(labelled, tmp_path / "run", file)
    until(is_there, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    found = train(labelled.path, tmp_path / "run", SETTINGS, device="cpu", say=lambda _: None).model.state_dict()
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value), name


def test_a_second_process_is_kept_out_of_a_run_folder_until_the_first_ends(labelled: Dataset, tmp_path: Path) -> None:
    settings = settings_of("cdanet", epochs=50, patience=50)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    process = started(labelled, tmp_path / "run", file)
    try:
        until((tmp_path / "run" / "settings.yaml").is_file, process)
        with pytest.raises(InputError, match=r"run: another process trains there"):
            train(labelled.path, tmp_path / "run", settings, device="cpu", say=lambda _: None)
    finally:
        process.kill()
        process.wait()
    with alone_in(tmp_path / "run"):
        pass


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"), alone_in(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def test_a_worker_ends_when_the_process_that_asked_for_it_is_gone() -> None:
    worker = os.fork()
    if worker == 0:
        begin_worker(parent=-1)  # no process has this number: the parent is gone
        time.sleep(PATIENCE_S)
        os._exit(0)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 1
