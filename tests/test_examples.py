"""The examples run as they are."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_quickstart_ends_with_recommendations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_from_file_location("quickstart", EXAMPLES / "quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    quickstart = module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    answer = quickstart.main(tmp_path, num_users=100, epochs=1)
    assert len(answer.items) == 5
    printed = capsys.readouterr().out
    assert "| macro |" in printed
    assert f"in shop, by {answer.basis}:" in printed
    assert (tmp_path / "run" / "report.md").is_file()


def test_the_quickstart_without_arguments_says_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "quickstart.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "quickstart.py OUT" in done.stderr


def test_every_example_is_tested() -> None:
    assert [file.name for file in sorted(EXAMPLES.glob("*.py"))] == ["quickstart.py"]
