"""What several tests use: one small simulated log, prepared once.

Nothing of ours is imported at the top: pytest reads this file before the shape checks are installed, and a module that
is imported before them goes unchecked.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from isthmus.data.dataset import Dataset


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The declaration of a simulated log of three domains: shop, video, news."""
    from isthmus.data.simulator import simulate

    return simulate(tmp_path_factory.mktemp("tiny_log") / "log", num_users=150, num_items=60, seed=1)


@pytest.fixture(scope="session")
def tiny_dataset(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """The simulated log, prepared. Shared by all tests: read it, and copy its folder before changing anything."""
    from isthmus.data.prepare import prepare

    return prepare(tiny_log, tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """A simulated log with impressions that were not clicked, prepared. Shared by all tests: read it only."""
    from isthmus.data.prepare import prepare
    from isthmus.data.simulator import simulate

    folder = tmp_path_factory.mktemp("labelled")
    log = simulate(folder / "log", num_users=120, num_items=60, seed=1, num_shown=2)
    return prepare(log, folder / "dataset")
