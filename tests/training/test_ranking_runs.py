"""Training click models in a run folder: every kind, taken up again exactly, scored, evaluated and compared."""

import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch

from isthmus import compare, evaluate, score, train
from isthmus.api import RankingRun, open_run
from isthmus.api import train as train_run
from isthmus.cli import main
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RankingLoader
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate
from isthmus.errors import DivergedError, InputError
from isthmus.evaluation.ranking import ranking_metrics, score_impressions
from isthmus.evaluation.ranking_summary import RankingSummary
from isthmus.metrics import auc
from isthmus.models.cdanet import CDAnet
from isthmus.serving.score import score_file
from isthmus.settings import RankingRunSettings, read_any_settings
from isthmus.training.checkpoint import write_checkpoint
from isthmus.training.epochs import named_divergence
from isthmus.training.ranking_stages import new_augmentation

SMALL = {"embedding_dim": 4, "latent_dim": 8, "tower_dims": [8]}
MMOE = {"kind": "mmoe", "hidden_dims": [8], "num_experts": 2, "norm": "none"}
KINDS: dict[str, dict[str, object]] = {
    "ctr": {"kind": "ctr", "backbone": MMOE, **SMALL},
    "cdanet": {"kind": "cdanet", "extractor": MMOE, "dropout": 0.1, **SMALL},
    "ddtcdr": {"kind": "ddtcdr", "hidden_dims": [8], **SMALL},
    "keep": {"kind": "keep", "backbone": MMOE, **SMALL},
    "fm": {"kind": "fm", "embedding_dim": 4},
}


def settings_of(kind: str, **training: object) -> RankingRunSettings:
    chosen = {"seed": 0, "epochs": 2, "batch_size": 256, "checkpoint_steps": 7} | training
    return RankingRunSettings.model_validate({"ranking": KINDS[kind], "training": chosen})


def trained(dataset: Dataset, folder: Path, kind: str, **training: object) -> RankingRun:
    return train_run(dataset.path, folder, settings_of(kind, **training), device="cpu", say=lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_opens_with_what_was_trained(labelled: Dataset, tmp_path: Path, kind: str) -> None:
    run = trained(labelled, tmp_path / "run", kind)
    opened = open_run(tmp_path / "run", device="cpu")
    assert isinstance(opened, RankingRun)
    fields = run.settings.ranking.fields
    assert torch.equal(
        score_impressions(opened.model, labelled, "test", fields),
        score_impressions(run.model, labelled, "test", fields),
    )
    assert (tmp_path / "run" / "report.md").is_file()


def test_cdanet_on_one_domain_is_told_to_have_nothing_to_translate(tmp_path: Path) -> None:
    log = simulate(tmp_path / "log", num_users=40, num_items=20, domains=("shop",), num_shown=2)
    dataset = prepare(log, tmp_path / "dataset")
    for kind, told in (("cdanet", True), ("ctr", False)):
        said: list[str] = []
        run = train_run(dataset.path, tmp_path / kind, settings_of(kind, epochs=1), device="cpu", say=said.append)
        assert any("nothing to translate" in line for line in said) == told
        assert bool(score_impressions(run.model, dataset, "test", None).isfinite().all())


@pytest.mark.parametrize(("when", "factor"), [(0, 1.0), (2, 1.0), (2, 0.0)])
def test_training_killed_within_or_between_the_stages_ends_the_same(
    labelled: Dataset, tmp_path: Path, when: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(labelled, tmp_path / "whole", "cdanet", later_rate_factor=factor)
    from isthmus.training import ranking

    calls = 0

    def killed(*given: object, **named: object) -> None:
        nonlocal calls
        write_checkpoint(*given, **named)  # type: ignore[arg-type]
        calls += 1
        if calls == 2 + 5 * when:
            raise KeyboardInterrupt

    monkeypatch.setattr(ranking, "write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(labelled, tmp_path / "run", "cdanet", later_rate_factor=factor)
    monkeypatch.undo()
    run = trained(labelled, tmp_path / "run", "cdanet", later_rate_factor=factor)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name


def test_a_later_stage_leaves_as_it_is_what_it_may_not_move(labelled: Dataset, tmp_path: Path) -> None:
    settings = settings_of("cdanet", later_rate_factor=0.0, weight_decay=0.1, network_weight_decay=0.1)
    model = train_run(labelled.path, tmp_path / "run", settings, device="cpu", say=lambda _: None).model
    assert isinstance(model, CDAnet)
    for target, network in zip(model.targets, model.augmentations, strict=True):
        start = dict(new_augmentation(model.translation, target, settings.training).named_parameters())
        moved = {name for name, value in network.named_parameters() if not torch.equal(value, start[name])}
        towers = {name for name in start if name.startswith("tower.")}
        assert moved == towers
        learning = {name for name, value in network.named_parameters() if value.requires_grad}
        assert learning == towers  # what does not move costs no gradient


@pytest.mark.parametrize("patience", [1, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_the_best_epoch_of_each_stage(
    labelled: Dataset, tmp_path: Path, kind: str, patience: int
) -> None:
    steep = {"learning_rate": 0.03, "network_learning_rate": 0.03}  # so that the last epoch is not the best
    run = trained(labelled, tmp_path / "run", kind, epochs=5, patience=patience, **steep)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    by_stage: dict[str, list[float]] = {}
    for line in lines:
        by_stage.setdefault(line["stage"], []).append(line["valid"]["auc"])
    assert any(values[-1] < max(values) for values in by_stage.values())
    assert patience == 1 or all(len(values) == 5 for values in by_stage.values())
    # Of CDAnet each domain is scored by its own second stage, of the others all by the last stage.
    last = [name for name in by_stage if name.startswith("augmentation")] or [list(by_stage)[-1]]
    expected = sum(max(by_stage[name]) for name in last) / len(last)
    opened = open_run(tmp_path / "run", device="cpu")
    assert isinstance(opened, RankingRun)
    assert opened.validation_value() == run.validation_value() == pytest.approx(expected)


def test_one_domain_alone_is_trained_and_validated_on_its_rows(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "ctr", domains=["video"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"]["shop"] is None
    assert lines[0]["loss"]["video"] > 0
    assert run.validation_value() > 0.4


def test_a_domain_that_was_not_trained_on_is_not_judged_nor_scored(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "fm", epochs=1, domains=["news"])
    result = run.evaluate("test")
    number = labelled.schema.domain_number("news")
    assert set(result.domain.tolist()) == {number}
    assert labelled.impressions is not None
    assert result.label.numel() == int((labelled.impressions["test"].domain == number).sum())
    every = score_impressions(run.model, labelled, "test", None)
    assert torch.equal(result.logit, every[torch.from_numpy(labelled.impressions["test"].domain == number)])
    user, item = labelled.vocabulary("user")[0], labelled.vocabulary("item")[0]
    row = f"{user},{item},shop,9e9"
    (tmp_path / "rows.csv").write_text(f"user_id,item_id,domain,time\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match="has rows of shop, and the model was trained on news alone"):
        run.score(tmp_path / "rows.csv", tmp_path / "out.parquet")
    with pytest.raises(InputError, match=r"ends in \.parquet"):
        run.score(tmp_path / "rows.csv", tmp_path / "out.csv")


def test_training_that_diverges_says_so(labelled: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="training diverged"):
        trained(labelled, tmp_path / "run", "ctr", learning_rate=1e38, network_learning_rate=1e38)
    with pytest.raises(DivergedError, match="training diverged"), named_divergence():
        auc(torch.tensor([float("nan")]), torch.tensor([True]))


def test_balance_and_order_and_share_change_the_steps(labelled: Dataset, tmp_path: Path) -> None:
    plain = trained(labelled, tmp_path / "plain", "ctr", epochs=1).model.state_dict()
    for name, changed in (
        ("domains", {"balance": "domains"}),
        ("turn", {"in_turn": True}),
        ("share", {"train_share": 0.2}),
    ):
        other = trained(labelled, tmp_path / name, "ctr", epochs=1, **changed).model.state_dict()
        assert any(not torch.equal(plain[key], other[key]) for key in plain)


def test_a_run_on_a_share_of_the_negatives_gives_corrected_probabilities(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "cdanet", negative_share={"video": 0.25, "news": 0.5})
    train = labelled.impressions["train"] if labelled.impressions else None
    assert train is not None
    assert train.label is not None
    shop, video, news = np.bincount(train.domain[train.label == 0], minlength=3)
    # What is left of whole rows; shop, which is not named, keeps all.
    assert run.kept_shares == (1.0, round(video / 4) / video, round(news / 2) / news)
    assert run.kept_shares == pytest.approx((1.0, 0.25, 0.5), abs=0.5 / min(shop, video, news))
    raw = score_impressions(run.model, labelled, "test", None)
    result = run.evaluate("test")
    moved = torch.tensor(run.kept_shares, dtype=torch.float64).log()[result.domain]
    assert torch.allclose(result.logit, raw + moved, atol=1e-6)
    summary = evaluate(tmp_path / "run")
    assert isinstance(summary, RankingSummary)
    video = next(group for group in summary.slices["all rows"] if group.name == "video").metrics
    assert video["calibration"] < video["calibration_uncorrected"]


def test_a_share_of_few_negatives_is_that_of_whole_rows(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "fm", epochs=1, negative_share=1e-6)
    assert labelled.impressions is not None
    train = labelled.impressions["train"]
    loader = RankingLoader(labelled, batch_size=64, seed=0, negative_shares=(1e-6,) * 3)
    assert loader.num_rows == int((np.asarray(train.label) > 0).sum()) + 3  # one negative a domain
    assert run.kept_shares == tuple(1 / np.bincount(train.domain[np.asarray(train.label) == 0]))


def test_validation_log_loss_is_that_of_corrected_probabilities(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "ctr", epochs=1, negative_share=0.1)
    result = run.evaluate("valid")
    expected = ranking_metrics(result, labelled.schema.domain_names)["macro"]["log_loss"]
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["valid"]["log_loss"] == pytest.approx(expected)


def test_a_file_of_rows_is_scored_with_the_same_correction(labelled: Dataset, tmp_path: Path) -> None:
    trained(labelled, tmp_path / "run", "fm", epochs=1, negative_share={"shop": 0.5})
    users, items = labelled.vocabulary("user")[:3], labelled.vocabulary("item")[:3]
    lines = [
        f"{user},{item},{domain},9e9" for domain in ("shop", "news") for user, item in zip(users, items, strict=True)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["user_id,item_id,domain,time", *lines]) + "\n", encoding="utf-8")
    opened = open_run(tmp_path / "run", device="cpu")
    assert isinstance(opened, RankingRun)
    opened.score(tmp_path / "rows.csv", tmp_path / "corrected.parquet")
    score_file(
        opened.model, labelled, None, tmp_path / "rows.csv", tmp_path / "raw.parquet", kept_shares=(1.0, 1.0, 1.0)
    )
    after, before = (
        torch.tensor(pq.read_table(tmp_path / f"{name}.parquet")["probability"].to_pylist()).double()
        for name in ("corrected", "raw")
    )
    # p / (p + (1 - p) / w): w is about 1/2 in the shop, 1 in the news.
    share = opened.kept_shares[0]
    assert share == pytest.approx(0.5, abs=0.01)
    assert torch.allclose(after[:3], before[:3] / (before[:3] + (1 - before[:3]) / share), atol=1e-6)
    assert torch.allclose(after[3:], before[3:])


def test_a_file_of_rows_is_scored_as_the_test_rows_are(labelled: Dataset, tmp_path: Path) -> None:
    run = trained(labelled, tmp_path / "run", "ctr")
    assert labelled.impressions is not None
    test = labelled.impressions["test"]
    users, items = ["", *labelled.vocabulary("user")], ["", *labelled.vocabulary("item")]
    known = [i for i in range(test.num_rows) if test.user_row[i] and test.item_row[i]][:50]
    names = labelled.schema.domain_names
    assert test.time is not None
    rows = ["user_id,item_id,domain,time"] + [
        f"{users[test.user_row[i]]},{items[test.item_row[i]]},{names[test.domain[i]]},{test.time[i]}"
        for i in known[::-1]
    ]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert score(tmp_path / "run", tmp_path / "rows.csv", tmp_path / "scored.parquet", device="cpu") == len(known)
    table = pq.read_table(tmp_path / "scored.parquet")
    assert table.column_names == ["user", "item", "domain", "probability"]
    offline = score_impressions(run.model, labelled, "test", None).sigmoid()[known[::-1]]
    assert torch.allclose(torch.tensor(table["probability"].to_pylist(), dtype=torch.float64), offline, atol=1e-6)
    assert pacsv.read_csv(tmp_path / "rows.csv")["user_id"].to_pylist() == table["user"].to_pylist()


def test_rows_of_no_known_item_are_told_of_and_a_score_that_is_no_number_is_refused(
    labelled: Dataset, tmp_path: Path
) -> None:
    trained(labelled, tmp_path / "run", "fm", epochs=1)
    item = labelled.vocabulary("item")[0]
    rows = tmp_path / "rows[1].csv"
    rows.write_text("user_id,item_id,domain,time\nu1, 7,shop,5\nu1, 8,shop,5\n", encoding="utf-8")
    rows.with_name("rows1.csv").write_text(
        "user_id,item_id,domain,time\n" + f"u1,{item},shop,5\n" * 3, encoding="utf-8"
    )
    with pytest.warns(UserWarning, match=r"rows\[1\]\.csv: training knows none of its 2 items, such as ' 7'"):
        assert score(tmp_path / "run", rows, tmp_path / "scored.parquet", device="cpu") == 2
    run = open_run(tmp_path / "run", device="cpu")
    assert isinstance(run, RankingRun)
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match=r"rows1\.csv: row 1: the model's score is not finite"):
        run.score(tmp_path / "rows1.csv", tmp_path / "scored.parquet")
    with pytest.raises(InputError, match=r"scores of \d+ test rows of shop.* are no numbers"):
        run.evaluate("test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("user_id,item_id,time\nu1,i1,5\n", "no column 'domain'"),
        ("user_id,item_id,domain,time\nu1,i1,market,5\n", "'market' is not a declared domain"),
        ("user_id,item_id,domain,time\nu1,i1,shop,1700000000000\n", "divide by 1000"),
        ("user_id,item_id,domain,time\n", "no rows"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(labelled: Dataset, tmp_path: Path, rows: str, message: str) -> None:
    trained(labelled, tmp_path / "run", "fm", epochs=1)
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        score(tmp_path / "run", tmp_path / "rows.csv", tmp_path / "out.parquet")
    assert message in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_scores_an_undeclared_domain(labelled: Dataset, tmp_path: Path, kind: str) -> None:
    run = trained(labelled, tmp_path / "run", kind, epochs=1)
    (tmp_path / "rows.csv").write_text("user_id,item_id,domain,time\nu1,i1,market,5\n", encoding="utf-8")
    with pytest.raises(InputError, match="'market' is not a declared domain"):
        run.score(tmp_path / "rows.csv", tmp_path / "out.parquet")


def test_evaluate_and_compare_say_what_a_ranker_is_worth(
    labelled: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(labelled, tmp_path / "a", "ctr", epochs=1)
    trained(labelled, tmp_path / "b", "fm", epochs=1)
    summary = evaluate(tmp_path / "a")
    assert "grouped_auc" in summary.to_markdown()
    assert "log_loss" in compare(tmp_path / "a", tmp_path / "b").to_markdown()
    assert main(["evaluate", str(tmp_path / "a"), "--split", "valid"]) == 0
    assert "Cold users" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["training.domains=[shopp]"],
            "training.domains: 'shopp' is not a domain of the dataset; did you mean 'shop'?",
        ),
        (["training.negative_share={radio: 0.5}"], "training.negative_share: 'radio' is not a domain"),
        (["training.negative_share=0"], "negative_share"),
        (["ranking.targets=[radio]"], "ranking.targets: 'radio' is not a domain"),
        (["ranking.fields=[colour]"], "ranking.fields: unknown field 'colour'"),
        (["ranking.alpha=-1"], "alpha"),
        (["training.temperature=1"], "training.temperature: unknown setting"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    labelled: Dataset, tmp_path: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        train(labelled.path, tmp_path / "run", overrides=changes, task="ranking")
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_labels_and_a_retrieval_run_are_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no labelled rows"):
        train(tiny_dataset.path, tmp_path / "run", task="ranking")
    assert isinstance(read_any_settings(None, task="ranking"), RankingRunSettings)
