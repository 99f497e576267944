"""Memory that a process of ours has freed: kept for the next step, and never by a mere import."""

import subprocess
import sys

import pytest

from isthmus.allocator import keep_freed_memory

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
