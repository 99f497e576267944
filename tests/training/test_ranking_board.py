"""What TensorBoard shows of a click model's training: all of it, however often it was stopped."""

from pathlib import Path

import pytest
from tests.training.test_ranking_runs import trained

from isthmus.data.dataset import Dataset
from isthmus.training import ranking
from isthmus.training.checkpoint import write_checkpoint

Scalars = dict[str, list[tuple[int, float]]]


def scalars(folder: Path) -> Scalars:
    """By tag the steps and their values."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("num_epochs", [3, 8])  # of eight: translation and three targets, two each
def test_a_training_that_goes_on_shows_the_epochs_and_stages_from_before(
    labelled: Dataset, tmp_path: Path, num_epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(labelled, tmp_path / "whole", "cdanet", checkpoint_steps=None)
    calls = 0

    def killed(*given: object, **named: object) -> None:
        nonlocal calls
        write_checkpoint(*given, **named)  # type: ignore[arg-type]
        calls += 1
        if calls == num_epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(ranking, "write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(labelled, tmp_path / "run", "cdanet", checkpoint_steps=None)
    monkeypatch.undo()
    trained(labelled, tmp_path / "run", "cdanet", checkpoint_steps=None)
    expected = scalars(tmp_path / "whole")
    assert {tag.split("/")[0] for tag in expected} > {"translation"}
    assert all([step for step, _ in steps] == [0, 1] for steps in expected.values())
    assert repr(scalars(tmp_path / "run")) == repr(expected)  # as texts, in which NaN is like NaN
