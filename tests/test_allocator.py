"""Memory that a process of ours has freed: kept for the next step, and never by a mere import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.allocator import keep_freed_memory
from isthmus.cli import main
from isthmus.experiments.jobs import begin_worker

ROUNDS = 40
# Fifty blocks of 256 KiB held together and freed together, as the gradients of fifty domains' weights are.
STEPS = f"""
import resource
import numpy as np

def step():
    return sum(block[0, 0] for block in [np.ones((256, 256), dtype=np.float32) for _ in range(50)])

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(first: str) -> int:
    """How many pages the steps take anew from the system, in a process of its own that first runs `first`."""
    done = subprocess.run([sys.executable, "-c", first + STEPS], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_step_takes_no_page_anew_that_the_step_before_has_freed() -> None:
    kept = new_pages("from isthmus.allocator import keep_freed_memory\nassert keep_freed_memory()\n")
    by_default = new_pages("")
    one_step = 50 * (256 << 10) // 4096
    assert by_default > ROUNDS // 2 * one_step, "glibc keeps freed memory by itself: the setting is no longer needed"
    assert kept <= 2 * one_step


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_the_library_leaves_the_allocator_of_a_program_that_imports_it_alone() -> None:
    assert new_pages("import isthmus\nimport isthmus.training.optim\n") > ROUNDS // 2 * 50 * (256 << 10) // 4096


def test_without_the_setting_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("verb", "computes"), [("train", True), ("score", True), ("describe", False), ("serve", False)]
)
def test_the_command_line_keeps_memory_for_verbs_that_compute(
    verb: str, computes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("isthmus.cli.keep_freed_memory", lambda: calls.append(verb))
    missing = [str(tmp_path / name) for name in ("a", "b", "c")]
    arguments = {"train": missing[:2], "score": missing, "describe": missing[:1], "serve": missing[:1]}
    assert main([verb, *arguments[verb]]) == 2
    assert calls == [verb] * computes


def test_a_job_of_an_experiment_keeps_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("isthmus.experiments.jobs.keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr("isthmus.experiments.jobs.torch.set_num_threads", lambda number: None)
    monkeypatch.setattr("isthmus.experiments.jobs.threading.Thread.start", lambda thread: None)  # it would end us
    begin_worker(os.getppid())
    assert calls == [True]
