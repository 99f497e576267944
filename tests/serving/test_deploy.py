"""The steps of the container, run without one, on what is installed here; and its files name what is there."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from tests.serving.bundles import new_bundle

from isthmus.data.dataset import Dataset

ROOT = Path(__file__).parents[2]


def test_a_server_started_as_in_the_container_answers_and_stops(tiny_dataset: Dataset, tmp_path: Path) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset)
    installed = Path(sys.prefix)
    environment = {**os.environ, "KEEP_USER": "1"}  # another user may not be allowed to read what is installed here
    command = [str(ROOT / "deploy" / "check.sh"), str(tmp_path / "bundle"), str(installed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answered for domain 'shop' and stopped in order" in done.stdout


def test_a_damaged_bundle_ends_the_check_with_the_servers_words(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    command = [str(ROOT / "deploy" / "check.sh"), str(tmp_path / "bundle"), sys.prefix]
    environment = {**os.environ, "KEEP_USER": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    assert "not a bundle" in done.stderr


def test_the_compose_file_builds_the_container_that_serves() -> None:
    service = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["isthmus"]
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    recipe = (ROOT / "deploy" / "Containerfile").read_text()
    assert "USER isthmus" in recipe
    assert 'isthmus", "serve", "/bundle"' in recipe
    assert (ROOT / ".dockerignore").is_file()


def test_events_in_redis_are_kept_as_the_server_asks() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.redis.yaml").read_text())["services"]
    where = services["isthmus"]["command"][-1]
    assert where == "redis://redis:6379/0"
    asked = services["redis"]["command"]
    told = dict(zip(asked[1::2], asked[2::2], strict=True))
    assert told == {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"}
