"""Judging click models: metrics by hand and by scikit-learn, intervals, comparisons, and simple methods."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import log_loss, roc_auc_score

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.evaluation.ranking import (
    RankingResult,
    bin_sizes,
    calibration_error,
    corrected_for_sampling,
    evaluate_ranking,
    ranking_metrics,
)
from isthmus.evaluation.ranking_references import SHRINKS, RankingReference, biases, reference_logits
from isthmus.evaluation.ranking_summary import (
    SavedRanking,
    compare_rankings,
    load_ranking,
    paired,
    resampled,
    save_ranking,
    summarise_ranking,
    weighted_auc,
)
from isthmus.metrics import told_apart
from isthmus.schema import FieldSpec

NAMES = ("a", "b")


def result_of(seed: int = 0, rows: int = 200) -> RankingResult:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, rows)
    columns = {
        "domain": np.sort(rng.integers(0, 2, rows)),
        "user_row": rng.integers(1, 20, rows),
        "item_row": rng.integers(1, 9, rows),
        "label": label,
        "logit": np.round(rng.normal(size=rows) + label, 1),
        "user_rows": rng.integers(0, 9, rows),
        "item_rows": rng.integers(0, 9, rows),
    }
    return RankingResult(**{name: torch.from_numpy(column) for name, column in columns.items()})


def test_metrics_of_a_domain_are_those_of_scikit_learn() -> None:
    result = result_of()
    table = ranking_metrics(result, NAMES)
    for number, name in enumerate(NAMES):
        own = result.select(result.domain == number)
        label, score, probability = own.label.numpy(), own.logit.numpy(), own.logit.sigmoid().numpy()
        assert table[name]["auc"] == pytest.approx(roc_auc_score(label, score))
        assert table[name]["log_loss"] == pytest.approx(log_loss(label, probability))
        assert table[name]["calibration"] == pytest.approx(probability.mean() / label.mean())
        by_user = [(own.user_row == user).numpy() for user in set(own.user_row.tolist())]
        both = [rows for rows in by_user if 0 < label[rows].mean() < 1]
        expected = sum(roc_auc_score(label[r], score[r]) * r.sum() for r in both) / sum(r.sum() for r in both)
        assert table[name]["grouped_auc"] == pytest.approx(expected)
    assert table["macro"]["auc"] == pytest.approx((table["a"]["auc"] + table["b"]["auc"]) / 2)


def test_a_domain_of_one_label_is_named_and_left_out_of_the_mean() -> None:
    result = result_of()
    label = torch.where(result.domain == 1, 1, result.label)
    with pytest.warns(UserWarning, match="b"):
        table = ranking_metrics(RankingResult(**(vars(result) | {"label": label})), NAMES)
    assert np.isnan(table["b"]["auc"])
    assert table["macro"]["auc"] == table["a"]["auc"]


@pytest.mark.parametrize("first", [0, 1])
def test_calibration_error_does_not_depend_on_the_order_of_rows_that_are_predicted_alike(first: int) -> None:
    label = torch.arange(60) // 30 if first == 0 else 1 - torch.arange(60) // 30
    constant = RankingResult(**(vars(result_of(rows=60)) | {"logit": torch.zeros(60), "label": label}))
    assert float(calibration_error(constant)) == 0  # a half is predicted of all, and true of them


def test_calibration_error_by_hand() -> None:
    result = result_of(rows=4)
    logit = torch.tensor([0.25, 0.25, 0.75, 0.75], dtype=torch.float64).logit()
    label = torch.tensor([0, 1, 1, 1])
    changed = RankingResult(**(vars(result) | {"logit": logit, "label": label}))
    assert float(calibration_error(changed, num_bins=2)) == pytest.approx((abs(0.25 - 0.5) + abs(0.75 - 1)) / 2)


def test_the_correction_for_sampled_negatives_by_hand() -> None:
    logit = torch.tensor([0.5, 0.5, 0.75], dtype=torch.float64).logit()
    # One positive for each kept negative, a tenth of negatives kept: one in eleven. Where all are kept, as it was.
    # Three positives for each kept negative, a tenth kept: three in thirteen.
    domain = torch.tensor([1, 0, 1])
    corrected = corrected_for_sampling(logit, domain, (1.0, 0.1)).sigmoid()
    assert corrected.tolist() == pytest.approx([1 / 11, 1 / 2, 3 / 13])
    with pytest.raises(ValueError, match="kept_shares must be above 0 and at most 1, got 0"):
        corrected_for_sampling(logit, domain, (1.0, 0.0))


def test_the_correction_leaves_every_domains_order_as_it_was() -> None:
    result = result_of()
    moved = RankingResult(
        **(vars(result) | {"logit": corrected_for_sampling(result.logit, result.domain, (0.02, 0.5))})
    )
    before, after = ranking_metrics(result, NAMES), ranking_metrics(moved, NAMES)
    for name in NAMES:
        assert after[name]["auc"] == before[name]["auc"]
        assert after[name]["grouped_auc"] == before[name]["grouped_auc"]
        assert after[name]["calibration"] < before[name]["calibration"]


def test_a_summary_shows_calibration_before_and_after_the_correction_on_the_same_rows(tmp_path: Path) -> None:
    result = result_of(rows=4)
    half = torch.zeros(4, dtype=torch.float64)  # what the model says: one half, of four rows of which one is positive
    changed = RankingResult(
        **(
            vars(result)
            | {"domain": torch.zeros(4, dtype=torch.int64), "label": torch.tensor([1, 0, 0, 0])}
            | {"user_row": torch.ones(4, dtype=torch.int64), "user_rows": torch.full((4,), 9)}
            | {"item_rows": torch.full((4,), 9)}
        )
    )
    shares = (1 / 3, 1.0)
    corrected = RankingResult(**(vars(changed) | {"logit": corrected_for_sampling(half, changed.domain, shares)}))
    save_ranking(SavedRanking(corrected, NAMES, "test", shares), tmp_path / "r.parquet")
    summary = summarise_ranking(load_ranking(tmp_path / "r.parquet"), num_resamples=2)
    metrics = summary.slices["all rows"][0].metrics
    # A half by a quarter is 2; with a third of the negatives kept, a half means 1 in 1 + 3, a quarter: right.
    assert metrics["calibration_uncorrected"] == pytest.approx(2)
    assert metrics["calibration"] == pytest.approx(1)
    # All are predicted alike, and of all a quarter is observed: before, a quarter less than predicted; after, as much.
    assert metrics["calibration_error_uncorrected"] == pytest.approx(1 / 4)
    assert metrics["calibration_error"] == pytest.approx(0)
    assert "calibration_uncorrected" in summary.to_markdown()


def test_without_thinned_negatives_a_summary_has_no_uncorrected_columns() -> None:
    summary = summarise_ranking(SavedRanking(result_of(), NAMES, "test", (1.0, 1.0)), num_resamples=2)
    assert "uncorrected" not in summary.to_markdown()


def test_weights_of_users_count_their_rows_as_often() -> None:
    result = result_of(rows=60)
    weight = np.random.default_rng(2).integers(0, 4, 20).astype(float)
    repeated = np.repeat(np.arange(60), weight[result.user_row.numpy()].astype(int))
    expected = roc_auc_score(result.label.numpy()[repeated], result.logit.numpy()[repeated])
    score = weighted_auc(result.logit, result.label, result.user_row)
    assert score(torch.from_numpy(weight)) == pytest.approx(expected)


def test_intervals_hold_the_estimate_and_are_the_same_each_time() -> None:
    saved = SavedRanking(result_of(), NAMES, "test")
    summary = summarise_ranking(saved, num_resamples=50)
    for group in summary.slices["all rows"]:
        interval = group.intervals["auc"]
        assert interval.low < group.metrics["auc"] < interval.high
    assert summary.to_markdown() == summarise_ranking(saved, num_resamples=50).to_markdown()
    assert summary.to_dict()["slices"]["all rows"]["a"]["rows"] == int((saved.result.domain == 0).sum())


def test_a_better_scoring_is_told_apart_and_an_equal_one_is_not() -> None:
    result = result_of(rows=400)
    good = RankingResult(**(vars(result) | {"logit": result.logit + 3 * result.label}))
    better = compare_rankings(SavedRanking(good, NAMES, "test"), SavedRanking(result, NAMES, "test"), num_resamples=100)
    row = next(row for row in better.rows if row.group == "macro" and row.metric == "auc")
    assert row.test.difference.low > 0
    assert row.test.p_value < 0.05
    same = compare_rankings(SavedRanking(result, NAMES, "test"), SavedRanking(result, NAMES, "test"), num_resamples=20)
    assert all(row.test.p_value == 1 for row in same.rows)


def new_users_log(folder: Path) -> Dataset:
    """Domain b has rows of all users, domain a's test rows are of 40 users whom training does not know, four a user."""
    lines = ["user,item,domain,time,label"]
    for user in range(60):
        lines += [f"old{user},i{(user + n) % 7},{'ab'[n % 2]},{100 * n + user},{(user + n) % 2}" for n in range(8)]
    for user in range(40):
        lines += [f"new{user},i{n},a,{10_000 + 4 * user + n},{n % 2}" for n in range(4)]
    folder.mkdir()
    (folder / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    declared = {
        "name": "new users",
        "events": {
            **{name: name for name in ("user", "item", "domain", "time")},
            "files": ["events.csv"],
            "positive": {"column": "label"},
        },
        "domains": {"a": {}, "b": {}},
        "fields": [{"name": name, "side": name, "kind": "id"} for name in ("user", "item")],
        "split": {"by": "time", "valid": 0.1, "test": 0.25},
        "ranking": {"negatives": "explicit"},
    }
    (folder / "log.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    return prepare(folder / "log.yaml", folder / "dataset")


def test_users_whom_training_does_not_know_are_told_apart(tmp_path: Path) -> None:
    dataset = new_users_log(tmp_path / "log")
    assert dataset.impressions is not None
    test = dataset.impressions["test"]
    assert int((test.user_row == 0).sum()) == 160
    assert (test.who[test.user_row > 0] == test.user_row[test.user_row > 0]).all()
    counts = np.unique(test.who[test.user_row == 0], return_counts=True)
    assert len(counts[0]) == 40
    assert set(counts[1]) == {4}
    assert counts[0].min() >= dataset.num_users
    # One score a user: within a user nothing is known, over users much, since some have more of it.
    logit = torch.from_numpy(test.who.astype(float))
    result = evaluate_ranking(logit, dataset, "test").select(torch.from_numpy(test.user_row == 0))
    metrics = ranking_metrics(result, ("a", "b"))["a"]
    assert metrics["grouped_auc"] == pytest.approx(0.5)
    summary = summarise_ranking(SavedRanking(result, ("a", "b"), "test"), num_resamples=20)
    group = summary.slices["all rows"][0]
    assert group.num_users == 40
    assert group.intervals["log_loss"].low < group.intervals["log_loss"].high
    retrieval = dataset.events["test"]
    assert len(np.unique(retrieval.who[retrieval.user_row == 0])) == 40


def test_rows_of_users_whom_nobody_numbered_are_users_of_their_own() -> None:
    assert told_apart(torch.tensor([3, 0, 3, 0])).tolist() == [3, 5, 3, 7]
    assert told_apart(torch.tensor([], dtype=torch.int64)).tolist() == []
    result = result_of(rows=40)
    nobody = replace(result, user_row=torch.zeros(40, dtype=torch.int64))
    with pytest.warns(UserWarning, match=r"^left out .* no value: a \(grouped_auc\); b \(grouped_auc\)$"):
        assert np.isnan(ranking_metrics(nobody, NAMES)["macro"]["grouped_auc"])


def test_a_note_on_what_is_left_out_says_of_which_rows_and_metrics() -> None:
    result = result_of(rows=80)
    is_cold = (result.domain == 0) & (result.label == 1)  # a's cold users have clicks alone
    user_rows = torch.where(is_cold, 0, torch.where(result.domain == 1, torch.arange(80) % 9, 9))
    with pytest.warns(UserWarning, match="left out of the mean over domains") as noted:
        summarise_ranking(SavedRanking(replace(result, user_rows=user_rows), NAMES, "test"), num_resamples=2)
    told = {str(one.message) for one in noted if "cold users" in str(one.message)}
    assert told == {
        "cold users (fewer than 5 training rows in the domain): left out of the mean over domains, having no value: "
        "a (auc, grouped_auc)"
    }


def test_a_notebook_shows_a_summary_as_its_tables() -> None:
    summary = summarise_ranking(SavedRanking(result_of(), NAMES, "test"), num_resamples=2)
    assert summary._repr_markdown_() == summary.to_markdown()


def test_what_has_no_value_has_no_p(tmp_path: Path) -> None:
    result = result_of(rows=80)
    saved = SavedRanking(replace(result, label=torch.where(result.domain == 0, 0, result.label)), NAMES, "test")
    with pytest.warns(UserWarning, match=r"having no value: a \(auc, grouped_auc, calibration\)$"):
        compared = compare_rankings(saved, saved, num_resamples=20)
    with pytest.warns(UserWarning, match=r"having no value: a \(auc, grouped_auc, calibration\)$"):
        metrics = ranking_metrics(saved.result, NAMES)
    rows = {(row.metric, row.group): row for row in compared.rows}
    assert np.isnan(rows["auc", "a"].test.p_value)
    assert rows["auc", "b"].test.p_value == 1
    assert rows["log_loss", "a"].test.p_value == 1
    assert np.isnan(metrics["a"]["calibration"])
    assert metrics["macro"]["calibration"] == metrics["b"]["calibration"]
    some = paired(0.1, torch.tensor([0.1, float("nan"), 0.2], dtype=torch.float64))
    assert some.p_value == pytest.approx(2 / 3)


def test_two_are_compared_in_the_domains_that_both_were_trained_on() -> None:
    result = result_of(rows=80)
    alone = SavedRanking(result.select(result.domain == 1), NAMES, "test")
    rows = compare_rankings(SavedRanking(result, NAMES, "test"), alone, num_resamples=5).rows
    assert {row.group for row in rows} == {"b", "macro"}
    other = SavedRanking(result.select(result.domain == 0), NAMES, "test")
    with pytest.raises(InputError, match="not over the same rows"):
        compare_rankings(other, alone, num_resamples=5)


def test_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not over the same rows"):
        compare_rankings(SavedRanking(result_of(0), NAMES, "test"), SavedRanking(result_of(1), NAMES, "test"))


def test_a_result_reads_back_the_same(tmp_path: Path) -> None:
    saved = SavedRanking(result_of(), NAMES, "valid")
    save_ranking(saved, tmp_path / "r.parquet")
    read = load_ranking(tmp_path / "r.parquet")
    assert (read.domain_names, read.split) == (NAMES, "valid")
    assert all(torch.equal(a, b) for a, b in zip(vars(read.result).values(), vars(saved.result).values(), strict=True))
    with pytest.raises(InputError, match="no result of a click model"):
        load_ranking(tmp_path / "nothing.parquet")


def test_resamples_are_shared_by_all_scorings() -> None:
    result = result_of()
    samples = resampled([result.logit, result.logit], result, NAMES, num_resamples=10)
    assert all(torch.equal(*samples[metric]) for metric in samples)


@pytest.mark.parametrize("num_rows", [0, 3, 10, 33, 16_777_217, 33_333_333])
def test_bins_hold_every_row_and_differ_by_one_at_most(num_rows: int) -> None:
    sizes = bin_sizes(num_rows, 10)
    assert sum(sizes) == num_rows
    assert max(sizes) - min(sizes) <= 1


def test_a_macro_mean_is_over_the_same_domains_in_every_resample() -> None:
    result = result_of()
    # Of the second domain one user alone has a positive, so that many resamples have none there.
    second = (result.domain == 1).nonzero()[:, 0]
    label = result.label.clone()
    label[second] = 0
    label[second[0]] = 1
    result = replace(result, label=label)
    (macro,) = resampled([result.logit], result, NAMES, num_resamples=100, metrics=("auc",))["auc"]
    first = result.select(result.domain != 1)
    (alone,) = resampled([first.logit], first, NAMES, num_resamples=100, metrics=("auc",))["auc"]
    assert 10 < int(macro.isnan().sum()) < 90
    assert not alone.isnan().any()


def test_a_user_of_two_domains_is_one_user_of_the_mean() -> None:
    result = result_of()
    groups = {group.name: group for group in summarise_ranking(SavedRanking(result, NAMES, "test")).slices["all rows"]}
    assert groups["macro"].num_users == torch.unique(result.user_row).numel()
    assert groups["macro"].num_users < sum(groups[name].num_users for name in NAMES)


@pytest.mark.parametrize(
    "reference", ["item mean", "user mean", "user and item biases", "item bias and the user's bias elsewhere"]
)
def test_simple_methods_beat_chance_on_a_log_where_they_should(labelled: Dataset, reference: str) -> None:
    match reference:
        case "item mean" | "user mean" | "user and item biases" | "item bias and the user's bias elsewhere":
            logit = reference_logits(reference, labelled, "test")
        case other:
            raise AssertionError(other)
    assert labelled.impressions is not None
    assert logit.shape[0] == labelled.impressions["test"].num_rows
    assert bool(logit.isfinite().all())
    values = ranking_metrics(evaluate_ranking(logit, labelled, "test"), labelled.schema.domain_names)
    assert values["macro"]["auc"] > (0.45 if "user" in reference and "item" not in reference else 0.5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_biases_are_shrunk_as_much_as_is_best_on_validation_rows(labelled: Dataset, elsewhere: bool) -> None:
    names = labelled.schema.domain_names

    def macro_auc(probability: np.ndarray) -> float:
        result = evaluate_ranking(torch.from_numpy(probability), labelled, "valid")
        return ranking_metrics(result, names)["macro"]["auc"]

    tried = {shrink: macro_auc(biases(labelled, "valid", shrink, elsewhere=elsewhere)) for shrink in SHRINKS}
    best = max(tried, key=lambda shrink: tried[shrink])
    assert len(set(tried.values())) > 1
    reference: RankingReference = "item bias and the user's bias elsewhere" if elsewhere else "user and item biases"
    expected = torch.from_numpy(biases(labelled, "test", best, elsewhere=elsewhere)).clamp(1e-6, 1 - 1e-6).logit()
    torch.testing.assert_close(reference_logits(reference, labelled, "test"), expected)


def test_lightgbm_reads_the_adjusted_means_that_are_declared_in_its_scopes(labelled: Dataset) -> None:
    about = {"name": "fair", "side": "row", "kind": "statistic", "of": "item", "value": "adjusted_mean"}
    fields = (*labelled.schema.fields, FieldSpec.model_validate(about | {"scope": "other"}))
    declares = replace(labelled, schema=labelled.schema.model_copy(update={"fields": fields}))
    own = [reference_logits("LightGBM, own domain", dataset, "test") for dataset in (labelled, declares)]
    every = [reference_logits("LightGBM, all domains", dataset, "test") for dataset in (labelled, declares)]
    assert torch.equal(own[0], own[1])
    assert not torch.equal(every[0], every[1])


def test_lightgbm_for_new_users_does_not_read_what_their_own_domain_says_of_them(labelled: Dataset) -> None:
    about = {"name": "generous", "side": "row", "kind": "statistic", "of": "user", "value": "adjusted_mean"}
    logits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    plain = (
        reference_logits("LightGBM, without the user's own domain", labelled, "test"),
        reference_logits("LightGBM, all domains", labelled, "test"),
    )
    for scope in ("own", "other"):
        fields = (*labelled.schema.fields, FieldSpec.model_validate(about | {"scope": scope}))
        declares = replace(labelled, schema=labelled.schema.model_copy(update={"fields": fields}))
        logits[scope] = (
            reference_logits("LightGBM, without the user's own domain", declares, "test"),
            reference_logits("LightGBM, all domains", declares, "test"),
        )
    assert torch.equal(logits["own"][0], plain[0])
    assert not torch.equal(logits["other"][0], plain[0])
    assert not torch.equal(logits["own"][1], plain[1])
    assert not torch.equal(plain[0], plain[1])


def test_lightgbm_ranks_and_popularity_counts_the_past(labelled: Dataset) -> None:
    for reference in ("LightGBM, all domains", "popularity at the time"):
        logit = reference_logits(
            "LightGBM, all domains" if reference[0] == "L" else "popularity at the time", labelled, "test"
        )
        assert bool(logit.isfinite().all())
