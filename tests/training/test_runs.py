"""Run folders: what they hold, how an interrupted one goes on, and what is refused."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from isthmus.api import Run, train
from isthmus.backbones.settings import ADISettings, DNNSettings
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.files import plain
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.settings import RunSettings
from isthmus.training.epochs import EpochReport
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import (
    choose_device,
    count_parameters,
    fit_budget,
    initial_bias,
    new_model,
    train_in_folder,
    write_metrics,
)
from isthmus.training.self_training import SelfTrainingSettings


def tiny_settings(**training: object) -> RunSettings:
    content = {"seed": 0, "epochs": 2, "batch_size": 256, **training}
    return RunSettings(retrieval=TwoTowerSettings(embedding_dim=4), training=TrainingSettings.model_validate(content))


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, with self-training. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_dataset.path, folder, with_pseudo_labels(), say=ignore)
    return folder


def with_pseudo_labels() -> RunSettings:
    return tiny_settings(self_training=SelfTrainingSettings(share=0.2))


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_run_folder_holds_all_that_it_promises(finished: Path, tiny_dataset: Dataset) -> None:
    names = {entry.name for entry in finished.iterdir()}
    files = {"settings.yaml", "dataset.json", "best.pt", "last.pt", "metrics.jsonl", "report.md", "tensorboard"}
    assert names == files
    assert RunSettings.model_validate(yaml.safe_load((finished / "settings.yaml").read_text())) == with_pseudo_labels()
    assert json.loads((finished / "dataset.json").read_text())["schema_hash"] == tiny_dataset.schema_hash
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert set(lines[0]["loss"]) == {"shop", "video", "news"}


def test_the_report_names_domains_epochs_parameters_and_pseudo_labels(finished: Path, tiny_dataset: Dataset) -> None:
    text = (finished / "report.md").read_text()
    num_train = int((tiny_dataset.events["train"].domain[:] == 0).sum())
    assert f"| shop | {num_train:,} |" in text
    assert "| 1 (best) |" in text
    assert "shop->video" in text
    # users x 4 (ids), items x 4 twice (ids, histories), categories x 4, biases; one number field of width 4
    rows = tiny_dataset.num_users + 2 * tiny_dataset.num_items + tiny_dataset.vocabulary_sizes["category"]
    assert f"| parameters in tables | {4 * rows + 3 * tiny_dataset.num_items:,} |" in text
    assert "| parameters in networks | 4 |" in text


def test_tensorboard_files_are_optional(tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it now fails
    said: list[str] = []
    train(tiny_dataset.path, tmp_path / "run", tiny_settings(epochs=1), say=said.append)
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert any("TensorBoard is not installed" in line for line in said)


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_stopped(
    tiny_dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop_after_first(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise StoppedError

    folder, said = tmp_path / "run", list[str]()
    with pytest.raises(StoppedError):
        train(tiny_dataset.path, folder, with_pseudo_labels(), say=stop_after_first)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    (folder / "metrics.jsonl").unlink()  # what a kill between checkpoint and metrics leaves
    run = train(tiny_dataset.path, folder, with_pseudo_labels(), say=said.append)
    assert any("going on after epoch 1" in line for line in said)

    whole = torch.load(finished / "best.pt", weights_only=True)
    assert all(torch.equal(value, whole[name]) for name, value in run.model.state_dict().items())
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (folder, finished)
    )
    assert [{**line, "rows_per_second": 0} for line in ours] == [{**line, "rows_per_second": 0} for line in theirs]


def test_training_a_finished_run_again_only_says_so(tiny_dataset: Dataset, copy: Path) -> None:
    before = {name: (copy / name).read_bytes() for name in ("best.pt", "last.pt", "metrics.jsonl")}
    said: list[str] = []
    run = train(tiny_dataset.path, copy, with_pseudo_labels(), say=said.append)
    assert said == [f"{copy}: this run is finished (2 epochs); nothing to train"]
    assert {name: (copy / name).read_bytes() for name in before} == before
    best = torch.load(copy / "best.pt", weights_only=True)
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())


def test_other_settings_are_refused_and_named(tiny_dataset: Dataset, copy: Path) -> None:
    with pytest.raises(InputError, match=r"other settings \(training\.epochs is 2 there, 5 here") as error:
        train(tiny_dataset.path, copy, tiny_settings(epochs=5), say=ignore)
    assert "training.self_training.share is 0.2 there, None here" in str(error.value)
    assert "new folder" in str(error.value)


def test_a_run_that_was_killed_while_it_began_begins_again(
    tiny_dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "dataset.json", tmp_path)
    (tmp_path / "settings.yaml.partial").write_text("retrie")
    train(tiny_dataset.path, tmp_path, tiny_settings(epochs=1), say=ignore)
    assert Run.open(tmp_path).settings == tiny_settings(epochs=1)


def test_a_run_that_was_killed_in_its_first_epoch_starts_that_epoch_again(tiny_dataset: Dataset, copy: Path) -> None:
    whole = torch.load(copy / "best.pt", weights_only=True)
    (copy / "last.pt").unlink()  # the best weights are written first
    run = train(tiny_dataset.path, copy, with_pseudo_labels(), say=ignore)
    assert all(torch.equal(value, whole[name]) for name, value in run.model.state_dict().items())


def test_a_folder_of_something_else_is_refused_and_left_alone(tiny_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files and is not a run folder"):
        train(tiny_dataset.path, tmp_path, tiny_settings(), say=ignore)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        train(tiny_dataset.path, tmp_path / "thesis.txt", tiny_settings(), say=ignore)


def test_a_setting_that_does_not_fit_the_dataset_leaves_no_folder(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = settings.model_copy(update={"retrieval": TwoTowerSettings(embedding_dim=4, fields=("brand",))})
    with pytest.raises(InputError, match=r"retrieval\.fields: unknown field 'brand'"):
        train(tiny_dataset.path, tmp_path / "run", settings, say=ignore)
    assert not (tmp_path / "run").exists()


def test_a_run_opens_with_the_weights_of_its_best_epoch(finished: Path) -> None:
    run = Run.open(finished)
    best = torch.load(finished / "best.pt", weights_only=True)
    assert not run.model.training
    assert run.settings == with_pseudo_labels()
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())


DAMAGES = (
    ("best.pt", "missing", "no epoch of this run is finished"),
    ("best.pt", "half", "damaged or half written"),
    ("best.pt", "flipped", "damaged or half written"),
    ("best.pt", "empty", "damaged or half written"),
    ("settings.yaml", "missing", "not a run folder"),
    ("dataset.json", "missing", "not a run folder"),
    ("dataset.json", "half", "damaged"),
)


@pytest.mark.parametrize(("name", "how", "message"), DAMAGES)
def test_a_damaged_run_is_refused_in_one_line(copy: Path, name: str, how: str, message: str) -> None:
    content = bytearray((copy / name).read_bytes())
    match how:
        case "missing":
            (copy / name).unlink()
        case "half":
            (copy / name).write_bytes(content[: len(content) // 2])
        case "empty":
            (copy / name).write_bytes(b"")
        case "flipped":
            middle = len(content) // 2  # inside the numbers of a table
            content[middle] ^= 0xFF
            (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        Run.open(copy)
    assert "\n" not in str(error.value)


def test_a_damaged_last_checkpoint_stops_training(tiny_dataset: Dataset, copy: Path) -> None:
    content = (copy / "last.pt").read_bytes()
    (copy / "last.pt").write_bytes(content[:1000])
    with pytest.raises(InputError, match=r"last\.pt: damaged or half written"):
        train(tiny_dataset.path, copy, with_pseudo_labels(), say=ignore)


def test_a_dataset_that_was_prepared_otherwise_is_refused(
    tiny_dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_dataset.path, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"schema_hash": "0123"}))
    with pytest.raises(InputError, match="its schema has hash 0123, the run was trained on"):
        Run.open(finished, other)
    (other / "manifest.json").write_text(json.dumps(manifest | {"counts": {}}))
    with pytest.raises(InputError, match="prepared again from other data"):
        Run.open(finished, other)


def test_a_moved_dataset_is_found_when_named(tiny_dataset: Dataset, copy: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny_dataset.path, tmp_path / "moved"))
    record = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(record | {"path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match=r"its dataset .*gone is gone; say where it lies now with --dataset"):
        Run.open(copy)
    assert Run.open(copy, moved).dataset.path == moved


def test_initial_numbers_depend_on_the_settings_seed_alone(tiny_dataset: Dataset) -> None:
    retrieval = TwoTowerSettings(embedding_dim=4, backbone=DNNSettings(hidden_dims=(3,)))
    torch.manual_seed(1)
    first = new_model(tiny_dataset, retrieval, tiny_settings().training)
    after_first = torch.rand(1)
    torch.manual_seed(2)
    again = new_model(tiny_dataset, retrieval, tiny_settings().training)
    other = new_model(tiny_dataset, retrieval, tiny_settings(seed=1).training)
    torch.manual_seed(1)
    assert torch.equal(after_first, torch.rand(1)), "the caller's generator must not move"
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_initial_bias_is_the_log_share_of_counts_plus_one(tiny_dataset: Dataset) -> None:
    # Counts plus one are 1, 3, 4 of 8 and 1, 1, 2 of 4; the temperature of 2 doubles the logarithms.
    dataset = replace(tiny_dataset, item_count=torch.tensor([[0, 2, 3], [0, 0, 1]]).numpy())
    expected = [[2 * math.log(n / 8) for n in (1, 3, 4)], [2 * math.log(n / 4) for n in (1, 1, 2)]]
    assert torch.allclose(initial_bias(dataset, 2.0), torch.tensor(expected))


def test_a_budget_is_met_by_the_networks_of_both_towers_together(tiny_dataset: Dataset) -> None:
    wide = TwoTowerSettings(embedding_dim=8, backbone=ADISettings(hidden_dims=(64, 32)), adaptation="se")
    fitted = fit_budget(tiny_dataset, wide, 20_000)
    model = new_model(tiny_dataset, fitted, tiny_settings().training)
    assert 19_600 <= count_parameters(model).networks <= 20_000
    assert fit_budget(tiny_dataset, fitted, 20_000) == fitted
    assert fitted.backbone is not None
    assert wide.backbone is not None
    assert fitted.backbone.hidden_dims != wide.backbone.hidden_dims


def test_a_budget_out_of_reach_is_refused(tiny_dataset: Dataset) -> None:
    with pytest.raises(InputError, match="parameter_budget: 10 is out of reach"):
        fit_budget(tiny_dataset, TwoTowerSettings(embedding_dim=8, backbone=DNNSettings(hidden_dims=(4,))), 10)
    with pytest.raises(InputError, match="there is no backbone"):
        fit_budget(tiny_dataset, TwoTowerSettings(embedding_dim=8), 1000)


def test_a_run_with_a_budget_keeps_the_fitted_widths_and_goes_on_with_them(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    retrieval = TwoTowerSettings(embedding_dim=4, backbone=DNNSettings(hidden_dims=(64,)))
    settings = tiny_settings(epochs=1).model_copy(update={"retrieval": retrieval, "parameter_budget": 3000})
    run = train(tiny_dataset.path, tmp_path / "run", settings, say=ignore)
    assert 2940 <= count_parameters(run.model).networks <= 3000
    assert Run.open(tmp_path / "run").settings == run.settings
    said: list[str] = []
    train(tiny_dataset.path, tmp_path / "run", settings, say=said.append)
    assert "finished" in said[0]


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    assert plain({"a": [1.5, math.nan], "b": {"c": math.inf}}) == {"a": [1.5, None], "b": {"c": None}}
    report = EpochReport(0, {"s1": 1.0}, {"recall@10": 0.5}, {"recall@10": [math.nan]}, 9.0, {}, True)
    write_metrics(tmp_path, [report])
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["valid_by_domain"] == {"recall@10": [None]}


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="'cuda' is not available here"):
        choose_device("cuda")


def test_the_loop_can_be_run_in_a_bare_folder(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = tiny_settings(epochs=1)
    model = train_in_folder(
        tmp_path,
        tiny_dataset,
        settings.retrieval,
        settings.training,
        device=torch.device("cpu"),
        say=ignore,
        show_progress=False,
    )
    assert not model.training
