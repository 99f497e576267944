from pathlib import Path
from typing import IO

import pytest
import torch
from torch import Tensor, nn

from isthmus.training.checkpoint import BEST, LAST, Progress, read_checkpoint, write_atomically, write_checkpoint


def new_parts(seed: int) -> tuple[nn.Linear, list[torch.optim.Optimizer], torch.Generator]:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(seed))
    return model, [torch.optim.AdamW(model.parameters(), lr=0.1)], torch.Generator().manual_seed(seed)


def step(model: nn.Linear, optimizers: list[torch.optim.Optimizer], generator: torch.Generator) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
        y: Tensor = model(torch.randn(4, 3, generator=generator) + torch.rand(4, 3))
        torch.autograd.backward(y.square().sum())
        optimizer.step()


def test_nothing_happens_without_a_checkpoint(tmp_path: Path) -> None:
    model, optimizers, generator = new_parts(1)
    assert read_checkpoint(tmp_path, model, optimizers, generator).reports == []
    assert model.weight.tolist() == [[1.0] * 3] * 2


def test_all_is_put_back_so_that_the_next_step_is_the_same(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, optimizers, generator = new_parts(1)
        step(model, optimizers, generator)
        reports = [{"epoch": 0, "loss": {"a": 1.5}, "is_best": True}]
        write_checkpoint(tmp_path, model, optimizers, generator, Progress(reports), is_best=True)
        step(model, optimizers, generator)

        torch.manual_seed(4)
        other, other_optimizers, other_generator = new_parts(2)
        step(other, other_optimizers, other_generator)
        assert read_checkpoint(tmp_path, other, other_optimizers, other_generator).reports == reports
        step(other, other_optimizers, other_generator)
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(other.bias, model.bias)


def test_the_best_weights_are_those_of_the_last_best_epoch(tmp_path: Path) -> None:
    for number, is_best in enumerate([True, True, False]):
        model, optimizers, generator = new_parts(number)
        write_checkpoint(tmp_path, model, optimizers, generator, Progress([]), is_best=is_best)
    assert torch.load(tmp_path / BEST, weights_only=True)["bias"].tolist() == [1.0, 1.0]
    assert torch.load(tmp_path / LAST, weights_only=True)["model"]["bias"].tolist() == [2.0, 2.0]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([BEST, LAST])


def test_a_write_that_breaks_off_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.pt"
    write_atomically({"value": 1}, file)

    def broken(value: object, stream: IO[bytes]) -> None:
        stream.write(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="no space left"):
        write_atomically({"value": 2}, file)
    assert torch.load(file, weights_only=True) == {"value": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]


def test_a_run_killed_between_its_two_files_repeats_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizers, generator = new_parts(1)
    write_checkpoint(tmp_path, model, optimizers, generator, Progress([{"epoch": 0}]), is_best=True)
    save = torch.save

    def killed_at_last(value: object, stream: IO[bytes]) -> None:
        if isinstance(value, dict) and "optimizers" in value:
            raise KeyboardInterrupt
        save(value, stream)

    monkeypatch.setattr(torch, "save", killed_at_last)
    later, later_optimizers, later_generator = new_parts(5)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, later, later_optimizers, later_generator, Progress([{}, {}]), is_best=True)
    fresh, fresh_optimizers, fresh_generator = new_parts(9)
    assert read_checkpoint(tmp_path, fresh, fresh_optimizers, fresh_generator).reports == [{"epoch": 0}]
    assert fresh.bias.tolist() == [1.0, 1.0]
