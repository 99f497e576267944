"""The lock file and pyproject.toml say the same."""

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def test_every_declared_dependency_is_locked_at_its_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {normal(name.split("[")[0]): version for name, version in (text.split("==") for text in requirements)}
    assert len(declared) == len(requirements) > 20
    assert declared == {name: lock().get(name) for name in declared}


def test_the_lock_has_no_cuda_package() -> None:
    assert [name for name in lock() if re.search(r"nvidia|cuda|cublas|triton", name)] == []


def test_the_lock_names_torch_without_a_build_tag() -> None:
    assert all("+" not in version for version in lock().values())
