"""The command line: every verb prints what a reader needs, and a mistake is one line and an exit code."""

import errno
import json
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import isthmus
from isthmus.cli import EXAMPLES, VERBS, main, parsers
from isthmus.data.dataset import Dataset

Captured = pytest.CaptureFixture[str]
TINY = ("retrieval.embedding_dim=4", "training.epochs=1", "training.batch_size=256")


@pytest.fixture(scope="module")
def run(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", str(tiny_dataset.path), str(folder), "--set", *TINY]) == 0
    return folder


def refused(capsys: Captured, *words: object) -> str:
    """The one line that a wrong command prints."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("isthmus: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("isthmus: ").strip()


def test_help_names_every_verb_and_loads_no_torch() -> None:
    code = """
import sys
from isthmus.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert "torch" not in sys.modules
assert "pyarrow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"    {verb}" in done.stdout for verb in VERBS)


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "isthmus", "trian"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "isthmus: trian: unknown verb; did you mean 'train'?\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_function_and_its_own_help(verb: str, capsys: Captured) -> None:
    assert verb in isthmus.__all__
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: isthmus {verb}" in printed
    assert f"for example: isthmus {verb} " in printed.replace("\n", " ")
    assert VERBS[verb][1:] in " ".join(printed.split())  # with the capitals of its abbreviations


def test_every_example_of_the_help_has_arguments_that_its_verb_takes() -> None:
    for verb, example in EXAMPLES.items():
        assert parsers()[0].parse_args([verb, *shlex.split(example)]).verb == verb
    assert len(EXAMPLES) == len(VERBS)


def test_the_version_is_that_of_the_package(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"isthmus {metadata.version('isthmus')}\n"


def test_prepare_describe_and_audit(tiny_log: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "dataset"
    assert main(["prepare", str(tiny_log), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| users |" in printed
    assert f"next: isthmus train {out} RUN" in printed
    assert main(["describe", str(out)]) == 0
    assert capsys.readouterr().out.strip() in printed
    assert main(["audit", str(out)]) == 0
    assert "WRONG" not in capsys.readouterr().out


def test_an_audit_that_finds_something_exits_with_1(tiny_dataset: Dataset, tmp_path: Path, capsys: Captured) -> None:
    broken = Path(shutil.copytree(tiny_dataset.path, tmp_path / "broken"))
    np.save(broken / "statistics" / "item_count.npy", np.asarray(tiny_dataset.item_count) + 1)
    assert main(["audit", str(broken)]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_init_drafts_to_the_terminal_or_into_a_new_file(tiny_log: Path, tmp_path: Path, capsys: Captured) -> None:
    log = str(tiny_log.parent / "events.parquet")
    assert main(["init", log]) == 0
    assert "domains:" in capsys.readouterr().out
    out = tmp_path / "log.yaml"
    assert main(["init", log, "--out", str(out)]) == 0
    assert "domains:" in out.read_text()
    assert "exists already" in refused(capsys, "init", log, "--out", out).splitlines()[-1]


def test_a_draft_that_finds_no_room_leaves_its_place_free_for_the_next_try(
    tiny_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    words = ["init", str(tiny_log.parent / "events.parquet"), "--out", str(tmp_path / "new" / "log.yaml")]

    def no_room(file: Path, *_: object, **__: object) -> int:
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_room)
        assert main(words) == 2
    assert "no space left" in capsys.readouterr().err
    assert main(words) == 0


def test_train_says_what_comes_next_and_evaluate_prints_a_table_or_json(run: Path, capsys: Captured) -> None:
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "| macro |" in printed
    assert main(["evaluate", str(run), "--split", "valid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "valid"
    assert {file.name for file in (run / "evaluation").iterdir()} == {"test.parquet", "valid.parquet"}


def test_training_again_only_says_that_it_is_finished(run: Path, tiny_dataset: Dataset, capsys: Captured) -> None:
    assert main(["train", str(tiny_dataset.path), str(run), "--set", *TINY]) == 0
    assert "this run is finished" in capsys.readouterr().out


def test_compare_prints_a_table_or_json(run: Path, capsys: Captured) -> None:
    assert main(["compare", str(run), str(run)]) == 0
    assert "| macro |" in capsys.readouterr().out
    assert main(["compare", str(run), str(run), "--split", "valid", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["p_value"] for row in rows} == {1.0}


def test_recommend_for_a_user_a_history_and_everyone(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["recommend", str(run), "--domain", "shop", "--user", "u3", "-k", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "domain shop, by user history"
    assert len(lines) == 5
    assert "Item " in lines[1]
    assert main(["recommend", str(run), "--domain", "shop", "--history", "i1,zzz, i2", "-k", "4"]) == 0
    assert "left out of the history, not known: zzz" in capsys.readouterr().out
    assert main(["recommend", str(run), "--domain", "shop", "--user", "nobody", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["basis"] == "popular items of the domain"
    out = tmp_path / "all.parquet"
    assert main(["recommend", str(run), "--all", "--out", str(out), "-k", "2"]) == 0
    assert capsys.readouterr().out == f"{out}: {pq.read_table(out).num_rows} rows written\n"


def test_mistakes_are_one_line_each(run: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: Captured) -> None:
    dataset = tiny_dataset.path
    (tmp_path / "run.yaml").write_text("retrieval: {embedding_dim: 4, dropuot: 1}\ntraining: {seed: 0, epochs: 1}\n")
    settings = ("train", dataset, tmp_path / "new", "--settings", tmp_path / "run.yaml")
    cases = [
        (("recommend", run, "--domain", "shp", "--user", "u3"), "did you mean 'shop'?"),
        (("recommend", run, "--user", "u3"), "declared are shop, video, news"),
        (("recommend", run, "--all"), "say with --out FILE"),
        (("recommend", run, "--domain", "shop", "--out", "x"), "is only for --all"),
        (("evaluate", run, "--split", "tset"), "did you mean 'test'?"),
        (("evaluate", tmp_path), "not a run folder"),
        (("audit", tmp_path), "not a dataset"),
        (("train", dataset, run, "--set", "training.epochs=9"), "training.epochs is 1 there, 9 here"),
        (("train", dataset, tmp_path / "new", "--set", "training.epohcs=9"), "did you mean 'epochs'?"),
        (("train", tmp_path / "none", tmp_path / "new"), "not a dataset"),
        (settings, "run.yaml: retrieval.dropuot: unknown setting; did you mean 'dropout'?"),
        (("compare", run, tmp_path / "none.parquet"), "no such result"),
        (("prepare", tmp_path / "none.yaml", tmp_path / "new"), "no such file"),
        (("prepar",), "unknown verb; did you mean 'prepare'?"),
        (("zzz",), "unknown verb; known are ingest, init,"),
        (
            ("train", dataset, tmp_path / "new", "--setings", "x"),
            "train: --setings: unknown option; did you mean '--settings'?",
        ),
        (
            ("train", dataset, tmp_path / "new", "--epochs=3"),
            "train: --epochs: unknown option; known are --device, --quiet, --set, --settings, --task",
        ),
        (("audit", dataset, "b"), "audit: 'b': one argument too many; see isthmus audit --help"),
        (
            ("recommend", run, "--all", "--out", tmp_path / "all.csv"),
            "all.csv: is written as Parquet; let its name end in .parquet",
        ),
        (("score", run, dataset, tmp_path / "all.csv"), "all.csv: is written as Parquet"),
        (("compare", run, run, "--dataset", tmp_path), "not a dataset"),
    ]
    for words, message in cases:
        assert message in refused(capsys, *words)
    assert len(cases) == 21
    assert not (tmp_path / "new").exists()


def test_missing_arguments_exit_with_2(capsys: Captured) -> None:
    for words in ([], ["train"], ["recommend", "run", "--user", "a", "--history", "b"], ["evaluate", "run", "--split"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "required: VERB" in capsys.readouterr().err


FAILURES = (
    (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left on the disk; free some"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 2, "/data/x: Permission denied"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (RuntimeError("Query interrupted"), 130, "interrupted"),
)


@pytest.mark.parametrize(("failure", "code", "message"), FAILURES)
def test_what_the_machine_refuses_is_one_line_too(
    failure: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(isthmus, "describe", fail)
    assert main(["describe", "dataset"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"isthmus: {message}")
    assert printed.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(isthmus, "describe", fail)
    with pytest.raises(RuntimeError, match="bug"):
        main(["describe", "dataset"])


def test_a_warning_is_one_line_to_the_user(capsys: Captured) -> None:
    import warnings

    from isthmus import cli

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")
        patch.setattr(cli, "run_verb", lambda given: warnings.warn("domain b has no rows", stacklevel=1) or 0)
        assert main(["describe", "anything"]) == 0
    assert capsys.readouterr().err == "isthmus: note: domain b has no rows\n"


def test_reproduce_hands_on_its_options(tmp_path: Path, capsys: Captured) -> None:
    words = ("reproduce", "cdanet-table-7", "--data", tmp_path, "--out", tmp_path / "out")
    assert "cdanet-table-7 is made whole" in refused(capsys, *words, "--method", "MLP")
    assert "seeds: 0 is not 1 or more" in refused(capsys, *words, "--seeds", "0")
    adi = ("reproduce", "adi-table-3", *words[2:])
    assert "trials: adi-table-3 has no search" in refused(capsys, *adi, "--trials", "2")
