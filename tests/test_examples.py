"""The examples run as they are."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from isthmus.domains import DomainSlices

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("own_backbone", "quickstart")


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_ends_with_recommendations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = example("quickstart").main(tmp_path, num_users=100, epochs=1)
    assert len(answer.items) == 5
    printed = capsys.readouterr().out
    assert "| macro |" in printed
    assert f"in shop, by {answer.basis}:" in printed
    assert (tmp_path / "run" / "report.md").is_file()


def test_an_own_backbone_is_trained_and_compared_with_adi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = example("own_backbone").main(tmp_path, num_users=100, epochs=1)
    assert {row.group for row in comparison.rows} == {"shop", "video", "news", "macro"}
    assert any(row.mean_a != row.mean_b for row in comparison.rows)
    assert "for u0 in shop: ['i" in capsys.readouterr().out


def test_the_own_backbone_of_the_example_keeps_its_domains_apart() -> None:
    network = example("own_backbone").ScaledNetwork(num_domains=3, in_dim=2, hidden_dim=4, out_dim=2)
    torch.nn.init.normal_(network.out.weight)
    x = torch.randn(5, 2)
    latent = network(x, DomainSlices.from_counts([2, 0, 3]))
    torch.testing.assert_close(network(x[3:4], DomainSlices.single(2, 1, 3)), latent[3:4])
    latent[2:].square().sum().backward()
    assert network.scale.grad[:2].count_nonzero() == 0
    assert network.scale.grad[2].count_nonzero() > 0
    assert network(x[:0], DomainSlices.from_counts([0, 0, 0])).shape == (0, network.out_dim)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_without_arguments_says_how_it_is_used(name: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"{name}.py OUT" in done.stderr


def test_every_example_is_tested() -> None:
    assert [file.stem for file in sorted(EXAMPLES.glob("*.py"))] == list(NAMES)
