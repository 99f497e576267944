"""A log of an experiment that is small enough to be worked by hand."""

from pathlib import Path

import pytest
from tests.abtest.small_logs import named, shown, write_logs


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two users a variant and a request without a user, in two domains; what comes of it is in the tests' working."""
    impressions = [
        *shown("r1", "u1", "control", "ab"),
        *shown("r2", "u1", "control", "aB", domain="video", hour=1),
        *shown("r3", "u2", "control", "abcd"),
        *shown("r4", "u3", "new", "ab"),
        *shown("r5", "u4", "new", "Bc9", hour=2),
        *shown("r6", None, "new", "abc"),
    ]
    feedback = [
        *named("r1", "a"),
        *named("r2", "B", hour=1.5),
        *named("r3", "d"),
        *named("r4", "a"),
        *named("r4", "b"),
        *named("r5", "B9", hour=30),
        *named("r5", "B", kind="order", hour=31),
    ]
    return write_logs(tmp_path / "logs", impressions, feedback)
