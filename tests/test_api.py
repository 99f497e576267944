"""What `import isthmus` promises: the verbs as functions, cheap to import, and a run that outlives its process."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isthmus
from isthmus.data.dataset import Dataset
from isthmus.evaluation.summary import Summary
from isthmus.settings import RunSettings, read_ranking_settings, read_settings

Captured = pytest.CaptureFixture[str]
TINY = ("retrieval.embedding_dim=4", "training.epochs=1", "training.batch_size=256")


@pytest.fixture(scope="module")
def run(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of one epoch."""
    folder = tmp_path_factory.mktemp("api") / "run"
    isthmus.train(tiny_dataset.path, folder, overrides=TINY)
    return folder


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_every_promised_name_is_there_and_documented() -> None:
    for name in isthmus.__all__:
        assert inspect.getdoc(vars(isthmus)[name])
    public = {
        name
        for name, value in vars(isthmus).items()
        if inspect.isfunction(value) and value.__module__ == "isthmus" and name[0] != "_"
    }
    assert public == set(isthmus.__all__) - {"InputError"}


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "pyarrow", "ibis", "duckdb", "faiss", "scipy")
    code = f"import sys, isthmus; print([name for name in {heavy} if name in sys.modules])"
    assert in_a_fresh_process(code).strip() == "[]"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("isthmus.api", ("ibis", "duckdb", "sqlglot", "scipy", "pyarrow", "faiss", "torch._dynamo")),
        ("isthmus.serving.app", ("ibis", "duckdb", "sqlglot", "scipy", "redis")),
        ("isthmus.serving.server", ("torch", "numpy", "pyarrow", "faiss", "fastapi")),  # the supervisor's part
    ],
)
def test_a_part_loads_no_library_that_only_another_needs(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert in_a_fresh_process(code).strip() == "[]"


def test_training_loads_neither_the_compiler_nor_what_only_serving_needs(
    tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path
) -> None:
    code = f"""
import sys
from pathlib import Path
import isthmus
isthmus.train(Path({str(tiny_dataset.path)!r}), Path({str(tmp_path / "run")!r}), overrides={TINY})
one_epoch = ("training.epochs=1",)
isthmus.train(Path({str(labelled.path)!r}), Path({str(tmp_path / "click")!r}), overrides=one_epoch, task="ranking")
heavy = ("torch._dynamo", "sympy", "pyarrow", "faiss", "duckdb")
print([name for name in heavy if name in sys.modules])
"""
    assert in_a_fresh_process(code).splitlines()[-1] == "[]"


def test_the_whole_way_through_the_functions(tiny_log: Path, tmp_path: Path) -> None:
    dataset = isthmus.prepare(tiny_log, tmp_path / "dataset")
    assert all(finding.ok for finding in isthmus.audit(dataset.path))
    assert "shop" in isthmus.describe(dataset.path).to_markdown()
    first = isthmus.train(dataset.path, tmp_path / "first", overrides=TINY)
    second = isthmus.train(dataset.path, tmp_path / "second", read_settings(None, [*TINY, "training.seed=1"]))
    assert first.settings.training.seed == 0
    assert isthmus.evaluate(first.path, "valid").split == "valid"
    assert first.result_file("valid").is_file()
    comparison = isthmus.compare(first.path, second.path)
    assert {row.group for row in comparison.rows} == {"shop", "video", "news", "macro"}
    files = isthmus.compare(first.result_file("test"), second.result_file("test"))
    assert files.rows == comparison.rows
    assert len(isthmus.recommend(first.path, "shop", k=3).items) == 3


def test_paths_may_be_given_as_text(tiny_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = isthmus.prepare(str(tiny_log), "dataset")
    assert all(finding.ok for finding in isthmus.audit("dataset"))
    assert isthmus.describe("dataset").to_markdown()
    assert (
        isthmus.init(str(tiny_log.parent / "events.parquet"))[0]
        == isthmus.init([tiny_log.parent / "events.parquet"])[0]
    )
    Path("run.yaml").write_text("retrieval: {embedding_dim: 3}\ntraining: {seed: 2, epochs: 1, batch_size: 256}\n")
    run = isthmus.train("dataset", "run", "run.yaml")
    assert isthmus.evaluate("run", dataset="dataset").split == "test"
    assert isthmus.compare("run", "run/evaluation/test.parquet").rows
    assert isthmus.open_run("run").recommend("shop", user="u3") == isthmus.recommend("run", "shop", user="u3")
    assert run.recommend_all("all.parquet") > 0
    isthmus.bundle("run", "bundle", with_onnx=False)
    assert isthmus.publish("bundle", "place")
    assert dataset.path.is_dir()


def test_an_id_that_is_a_number_is_refused_and_never_taken_for_someone_unknown(run: Path) -> None:
    # In a process without shape checks, as a user's is.
    code = f"""
import isthmus
run = isthmus.open_run({str(run)!r})
for given in ({{"user": 3}}, {{"history": ["i1", 2]}}, {{"history": "i1"}}):
    try:
        run.recommend("shop", **given)
    except isthmus.InputError as error:
        print(error)
"""
    assert in_a_fresh_process(code).splitlines() == [
        "user: 3 is int, ids are text; give '3'",
        "history: 2 is int, ids are text; give '2'",
        "history: 'i1' is one text; give a list of ids, the latest last",
    ]


@pytest.mark.parametrize("kind", [["ranking.kind=keep"], ["ranking.stages=augmentation"]])
def test_only_domains_that_a_ranker_has_learned_to_score_are_judged_and_scored(
    labelled: Dataset, tmp_path: Path, kind: list[str]
) -> None:
    """Of a model without towers that learned on the others' rows: its targets alone."""
    settings = read_ranking_settings(None, [*kind, "training.epochs=1", "ranking.targets=[video]"])
    run = isthmus.train(labelled.path, tmp_path / "run", settings, task="ranking")
    summary = isthmus.evaluate(run.path).to_dict()
    rows = {name: group["rows"] for name, group in summary["slices"]["all rows"].items()}
    assert labelled.impressions is not None
    video = labelled.impressions["test"].domain == 1
    assert rows == {"shop": 0, "video": int(video.sum()), "news": 0, "macro": int(video.sum())}
    (tmp_path / "rows.csv").write_text("user_id,item_id,domain,time\nu1,i1,shop,5\n", encoding="utf-8")
    with pytest.raises(isthmus.InputError, match="the model was trained on video alone"):
        isthmus.score(run.path, tmp_path / "rows.csv", tmp_path / "out.parquet")


def test_a_settings_file_may_be_given(tiny_dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "retrieval: {embedding_dim: 3}\ntraining: {seed: 2, epochs: 1, batch_size: 256}\n"
    )
    run = isthmus.train(tiny_dataset.path, tmp_path / "run", tmp_path / "run.yaml")
    assert (run.settings.retrieval.embedding_dim, run.settings.training.seed) == (3, 2)


def test_overrides_beside_ready_settings_are_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings: RunSettings = read_settings(None)
    with pytest.raises(isthmus.InputError, match="overrides"):
        isthmus.train(tiny_dataset.path, tmp_path / "run", settings, overrides=["training.seed=1"])


def test_a_run_says_the_same_in_a_fresh_process_and_when_asked_again(run: Path, tmp_path: Path) -> None:
    opened = isthmus.open_run(run)
    answers = [opened.recommend(domain, user="u3", k=5).to_dict() for domain in ("shop", "video", "news")]
    assert answers == [opened.recommend(domain, user="u3", k=5).to_dict() for domain in ("shop", "video", "news")]
    code = f"""
import json, pathlib, isthmus
run = isthmus.open_run(pathlib.Path({str(run)!r}))
print(json.dumps([run.recommend(domain, user="u3", k=5).to_dict() for domain in ("shop", "video", "news")]))
"""
    assert json.loads(in_a_fresh_process(code)) == json.loads(json.dumps(answers))
    first = {name: column.tolist() for name, column in opened.evaluate().metrics.items()}
    again = {name: column.tolist() for name, column in isthmus.open_run(run).evaluate().metrics.items()}
    assert first == again


def test_more_items_than_there_are_cost_no_more_than_all(run: Path, tmp_path: Path) -> None:
    opened = isthmus.open_run(run)
    everything = opened.recommend("shop", user="u3", k=1000)
    assert opened.recommend("shop", user="u3", k=10**15) == everything
    assert opened.recommend_all(tmp_path / "all.parquet", k=10**15) == opened.recommend_all(
        tmp_path / "again.parquet", k=1000
    )


def test_what_a_notebook_shows_of_a_run_is_a_line_and_of_results_a_table(run: Path) -> None:
    opened = isthmus.open_run(run)
    assert repr(opened) == f"Run({str(run)!r}, on the dataset {str(opened.dataset.path)!r})"
    summary, comparison = isthmus.evaluate(run), isthmus.compare(run, run)
    assert isinstance(summary, Summary)
    assert summary._repr_markdown_() == summary.to_markdown()
    assert comparison._repr_markdown_() == comparison.to_markdown()


def test_training_says_its_lines_where_it_is_told_to(tiny_dataset: Dataset, tmp_path: Path, capsys: Captured) -> None:
    said: list[str] = []
    isthmus.train(tiny_dataset.path, tmp_path / "run", overrides=TINY, say=said.append)
    assert capsys.readouterr().out == ""
    assert sum(line.startswith("epoch 1/1") for line in said) == 1


def test_a_bundle_takes_no_other_folders_place(run: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))
    before = sorted(dataset.rglob("*"))
    with pytest.raises(
        isthmus.InputError, match="dataset: exists and is not an output of this command; give another path"
    ):
        isthmus.bundle(run, dataset, with_onnx=False)
    assert sorted(dataset.rglob("*")) == before
    made = isthmus.bundle(run, tmp_path / "bundle", with_onnx=False)
    assert isthmus.bundle(run, tmp_path / "bundle", with_onnx=False).retrieval == made.retrieval
    (tmp_path / "bundle" / "retrieval" / "more").touch()
    with pytest.raises(isthmus.InputError, match="bundle: 'retrieval/more' in it was not written by this command"):
        isthmus.bundle(run, tmp_path / "bundle", with_onnx=False)
    (tmp_path / "bundle" / "retrieval" / "more").unlink()
    (tmp_path / "bundle" / "manifest.json").write_text('{"name": "a page, which names no isthmus bundle"}')
    with pytest.raises(isthmus.InputError, match="bundle: exists and is not an output of this command"):
        isthmus.bundle(run, tmp_path / "bundle", with_onnx=False)


def test_an_unknown_domain_is_an_error_and_never_an_answer(run: Path) -> None:
    with pytest.raises(isthmus.InputError, match="unknown domain 'radio'; declared are shop, video, news"):
        isthmus.recommend(run, "radio", user="u3")


def test_unknown_names_are_refused_with_what_is_known(run: Path, tmp_path: Path) -> None:
    with pytest.raises(isthmus.InputError, match="known are xmrec"):
        isthmus.ingest("xmrek", tmp_path, tmp_path / "out")
    with pytest.raises(isthmus.InputError, match="known are adi-table-3"):
        isthmus.reproduce("adi-table-33", tmp_path, tmp_path / "out")
    with pytest.raises(isthmus.InputError, match=r"split: 'tset' is not .*did you mean 'test'"):
        isthmus.evaluate(run, "tset")
    with pytest.raises(isthmus.InputError, match="not a run folder"):
        isthmus.open_run(tmp_path)
