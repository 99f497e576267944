"""What several tests use: one small simulated log, prepared once."""

from pathlib import Path

import pytest

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The declaration of a simulated log of three domains: shop, video, news."""
    return simulate(tmp_path_factory.mktemp("tiny_log") / "log", num_users=150, num_items=60, seed=1)


@pytest.fixture(scope="session")
def tiny_dataset(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The simulated log, prepared. Shared by all tests: read it, and copy its folder before changing anything."""
    return prepare(tiny_log, tmp_path_factory.mktemp("tiny") / "dataset")
