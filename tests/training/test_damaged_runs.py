"""Run folders of which something is broken, files that must not be lost, and a disk that is full."""

import errno
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests.training.test_ranking_runs import settings_of

from isthmus import score
from isthmus.api import RankingRun, train
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.training.checkpoint import Progress, read_checkpoint, write_atomically, write_checkpoint

ROW = "user_id,item_id,domain,time\nu1,i1,shop,1700000000\n"


def quiet(_: str) -> None:
    pass


def trained(dataset: Dataset, folder: Path, kind: str = "cdanet") -> RankingRun:
    return train(dataset.path, folder, settings_of(kind, epochs=1), device="cpu", say=quiet)


@pytest.fixture(scope="module")
def whole(labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "run"
    trained(labelled, folder)
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    "name",
    [
        "stages/translation/last.pt",
        "stages/translation/best.pt",
        "stages/augmentation-1/last.pt",
        "stages/augmentation-1/best.pt",
    ],
)
def test_a_truncated_file_of_a_stage_is_named_and_nothing_is_deleted(
    labelled: Dataset, whole: Path, tmp_path: Path, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "best.pt").unlink()  # as if it had been killed before the end
    cut(run / name)
    before = {file: file.read_bytes() for file in run.glob("stages/*/*.pt")}
    with pytest.raises(InputError) as caught:
        trained(labelled, run)
    assert f"{run / name}: damaged or half written" in str(caught.value)
    assert "train again in a new folder" in str(caught.value)
    assert {file: file.read_bytes() for file in run.glob("stages/*/*.pt")} == before
    assert len(before) == 8  # two of the first stage, and two of each of three targets


def test_a_stage_whose_best_weights_are_gone_is_named(labelled: Dataset, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "best.pt").unlink()
    (run / "stages/translation/best.pt").unlink()
    with pytest.raises(InputError, match=r"translation/best\.pt: missing"):
        trained(labelled, run)


def test_a_finished_run_whose_weights_are_cut_is_neither_scored_nor_trained_over(
    labelled: Dataset, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    cut(run / "best.pt")
    (tmp_path / "rows.csv").write_text(ROW, encoding="utf-8")
    with pytest.raises(InputError, match=r"best\.pt: damaged"):
        score(run, tmp_path / "rows.csv", tmp_path / "out.parquet")
    with pytest.raises(InputError, match=r"best\.pt: damaged"):
        trained(labelled, run)
    assert not (tmp_path / "out.parquet").exists()


def test_another_models_files_are_not_gone_on_with(labelled: Dataset, whole: Path, tmp_path: Path) -> None:
    trained(labelled, tmp_path / "other", "fm")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.copy(tmp_path / "other" / "best.pt", run / "best.pt")
    with pytest.raises(InputError, match=r"best\.pt: does not fit the run's settings"):
        trained(labelled, run)
    (run / "best.pt").unlink()
    shutil.copy(tmp_path / "other/stages/click/last.pt", run / "stages/translation/last.pt")
    with pytest.raises(InputError, match=r"translation/last\.pt: is of another model"):
        trained(labelled, run)


@pytest.mark.parametrize("text", ["", "- a\n"])
def test_settings_that_hold_nothing_are_named(labelled: Dataset, whole: Path, tmp_path: Path, text: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "settings.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"settings\.yaml: holds no keys"):
        trained(labelled, run)


def test_rows_are_not_overwritten_by_their_probabilities(whole: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(ROW, encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(rows)
    for out in (rows, tmp_path / "link.csv"):
        with pytest.raises(InputError, match="would be lost"):
            score(whole, rows, out, device="cpu")
    assert rows.read_text(encoding="utf-8") == ROW


def test_a_user_and_an_item_that_nobody_knows_have_a_probability(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROW.replace("u1,i1", "nobody,nothing"), encoding="utf-8")
    assert score(whole, tmp_path / "rows.csv", tmp_path / "out.parquet", device="cpu") == 1


def test_a_checkpoint_of_an_accelerator_is_taken_up_where_there_is_none(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    write_checkpoint(tmp_path, model, [], torch.Generator(), Progress([{"epoch": 0}]), is_best=False)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    for_more = [torch.get_rng_state()] * (torch.cuda.device_count() + 1)
    torch.save(state | {"accelerator_generators": for_more}, tmp_path / "last.pt")
    with torch.random.fork_rng():
        assert read_checkpoint(tmp_path, model, [], torch.Generator()).reports == [{"epoch": 0}]


def test_a_full_disk_is_told_as_such_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    write_atomically({"x": torch.zeros(3)}, file)
    (tmp_path / "last.pt.partial").symlink_to("/dev/full")  # a device on which every write finds no space
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically({str(number): torch.rand(10_000) for number in range(10)}, file)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(file)
    assert torch.load(file, weights_only=True)["x"].tolist() == [0.0, 0.0, 0.0]


def test_a_disk_that_is_full_ends_in_one_line_and_training_goes_on_later(
    labelled: Dataset, whole: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings_of("cdanet", epochs=1).model_dump(mode="json")), encoding="utf-8")
    run = tmp_path / "run"
    best = (whole / "stages/translation/best.pt").stat().st_size
    limit = best + 1000  # the weights fit, the optimizers' state does not

    def allow_small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "isthmus", "train", str(labelled.path), str(run), "--settings", str(file)]
    ended = subprocess.run(
        [*command, "--device", "cpu"], preexec_fn=allow_small_files_only, capture_output=True, text=True
    )
    assert ended.returncode == 2
    message = "larger than files may be here (ulimit -f); allow more and run the same command again"
    assert ended.stderr == f"isthmus: {run / 'stages/translation/last.pt'}: {message}\n"
    assert not list(run.rglob("*.partial"))
    resumed = trained(labelled, run)
    expected = torch.load(whole / "best.pt", weights_only=True)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
