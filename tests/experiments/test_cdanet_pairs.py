"""Pairs of purchases alone: which files are whose, who the other user is, and a planted taste that only he lacks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from isthmus import reproduce
from isthmus.api import RankingRun, train
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult, evaluate_ranking
from isthmus.evaluation.ranking_references import RankingReference, reference_logits
from isthmus.experiments.cdanet_pair_rows import (
    BOTH,
    BOTH_FIELDS,
    JOINT_OWN,
    LITERAL_FIELDS,
    OWN,
    OWN_FIELDS,
    another_users,
    literal_rows,
    pair_rows,
    references,
    with_another_users_own_history,
)
from isthmus.experiments.cdanet_pairs import (
    another_users_problem,
    difference,
    new_problem,
    new_table,
    pair_in,
    permuted,
)
from isthmus.experiments.cdanet_rows import FINE_TUNE, MAIN, SIMPLE, all_rows
from isthmus.experiments.cdanet_table_2 import metrics_of
from isthmus.experiments.ranking_grid import Problem

NUM_USERS, NUM_ITEMS = 600, 20
SMALL_STEPS = {"batch_size": 128, "epochs": 12, "patience": 8, "learning_rate": 5e-3, "network_learning_rate": 3e-3}


def write_taste(folder: Path, num_users: int = NUM_USERS) -> Path:
    """Purchases of users of two tastes: every item that a user buys, eight groceries and one of kitchen, is of his.

    So what is known of a user in kitchen is in groceries alone.
    """
    rng = np.random.default_rng(0)
    lines: list[tuple[str, str, str, int]] = []
    for user in range(num_users):
        for domain, count in (("grocery", 8), ("kitchen", 1)):
            for item in rng.choice(NUM_ITEMS, count, replace=False):
                asin = f"{domain}{user % 2}-{item}"
                lines.append((f"u{user}", asin, domain, int(rng.integers(1_000_000))))
    names = ("user", "asin", "domain", "timestamp")
    folder.mkdir(parents=True)
    pq.write_table(pa.table(dict(zip(names, zip(*lines, strict=True), strict=True))), folder / "events.parquet")
    items = sorted({asin for _, asin, _, _ in lines})
    pq.write_table(pa.table({"asin": items, "title": ["a thing"] * len(items)}), folder / "titles.parquet")
    return folder


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Problem]:
    """The folder of the files, that of the output, and the problem with its time-matched negatives."""
    root = tmp_path_factory.mktemp("taste")
    data = write_taste(root / "data")
    return data, root / "out", new_problem("grocery_kitchen", data, root / "out", "matched", None, lambda _: None)


def auc(result: RankingResult, dataset: Dataset, target: str) -> float:
    return metrics_of(result.select(result.domain == dataset.schema.domain_number(target)))["auc"]


def trained(method: str, problem: Problem, folder: Path, target: str) -> RankingRun:
    """A row trained as its table trains it, in small steps since the log is small."""
    row = next(row for row in pair_rows("grocery_kitchen") if row.method == method)
    settings = row.settings_for((target,))
    training = settings.training.model_copy(update=SMALL_STEPS)
    settings = settings.model_copy(update={"training": training})
    return train(problem.dataset, folder, settings, device="cpu", say=lambda _: None)


def trained_auc(method: str, problem: Problem, folder: Path) -> float:
    """Test AUC on kitchen of a trained row."""
    run = trained(method, problem, folder, "kitchen")
    return auc(run.evaluate("test"), run.dataset, "kitchen")


def test_the_folders_files_say_which_pair_it_is(tmp_path: Path) -> None:
    expected = {
        "epinions": (["ratings.parquet", "categories.tsv"], None),
        "matlab": (["rating.mat"], None),
        "gk": (["events.parquet", "titles.parquet"], "grocery_kitchen"),
        "mb": (["events.parquet", "movie_titles.parquet"], "movie_book"),
        "kg": (["Books.inter.tsv", "Books.link.tsv"], "kg_books_movies"),
    }
    for name, (files, pair) in expected.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        assert pair_in(tmp_path / name) == pair


def test_a_folder_of_none_is_refused_by_the_command_with_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"titles\.parquet \(grocery and kitchen\)"):
        reproduce("cdanet-table-2", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="holds none of what Table 2 is made on"):
        reproduce("cdanet-table-2", tmp_path / "nowhere", tmp_path / "out")


def test_one_domains_users_change_among_those_of_their_kind_and_nothing_else_does() -> None:
    lines = [(f"u{n}", f"i{n}", domain) for n in range(6) for domain in ("grocery", "kitchen")]
    names = ("user_id", "item_id", "domain")
    events = pa.table(dict(zip(names, zip(*lines, strict=True), strict=True)))
    in_training = {"u0", "u1", "u2", "u3"}
    changed = permuted(events, "grocery", in_training).to_pylist()
    assert [line for line in changed if line["domain"] == "kitchen"] == [
        line for line in events.to_pylist() if line["domain"] == "kitchen"
    ]
    ours = {f"u{line['item_id'][1:]}": line["user_id"] for line in changed if line["domain"] == "grocery"}
    assert all(own != other for own, other in ours.items())
    assert {ours[user] for user in in_training} == in_training
    assert {ours["u4"], ours["u5"]} == {"u4", "u5"}
    assert permuted(events, "grocery", in_training).equals(permuted(events, "grocery", in_training))


def test_another_users_history_leaves_the_targets_rows_as_they_are(problem: tuple[Path, Path, Problem]) -> None:
    data, out, matched = problem
    other = another_users_problem(matched, data, out, "grocery", "kitchen", lambda _: None)
    a, b = Dataset.open(matched.dataset), Dataset.open(other.dataset)
    kitchen = a.schema.domain_number("kitchen")
    assert a.impressions is not None
    assert b.impressions is not None
    for split in ("train", "valid", "test"):
        ours, theirs = a.impressions[split], b.impressions[split]
        for name in ("user_row", "item_row", "time", "label"):
            one, another = (np.asarray(vars(e)[name])[np.asarray(e.domain) == kitchen] for e in (ours, theirs))
            assert np.array_equal(one, another)
    assert not np.array_equal(a.history.item_row, b.history.item_row)


def test_a_planted_taste_is_found_by_histories_and_by_item_knn_and_not_by_popularity(
    problem: tuple[Path, Path, Problem],
) -> None:
    dataset = Dataset.open(problem[2].dataset)

    def of(reference: RankingReference) -> float:
        result = evaluate_ranking(reference_logits(reference, dataset, "test"), dataset, "test")
        return auc(result, dataset, "grocery")

    # Half of the negatives are of the user's taste and cannot be told from the positive: .75 is the best there is.
    assert of("item-kNN, own domain") > 0.65
    assert abs(of("popularity") - 0.5) < 0.06
    assert abs(of("popularity at the time") - 0.5) < 0.06


def test_the_sources_history_says_a_taste_that_another_users_does_not(
    problem: tuple[Path, Path, Problem], tmp_path: Path
) -> None:
    data, out, matched = problem
    other = another_users_problem(matched, data, out, "grocery", "kitchen", lambda _: None)
    real = trained_auc(BOTH, matched, tmp_path / "real")
    shuffled = trained_auc(BOTH, other, tmp_path / "shuffled")
    assert real > 0.65
    assert real - shuffled > 0.05


def test_a_users_own_history_says_a_taste_that_another_users_does_not(
    problem: tuple[Path, Path, Problem], tmp_path: Path
) -> None:
    run = trained(OWN, problem[2], tmp_path / "run", "grocery")
    real, other = run.evaluate("test"), with_another_users_own_history(run)
    assert torch.equal(real.user_row, other.user_row)
    assert torch.equal(real.item_row, other.item_row)
    assert torch.equal(real.label, other.label)
    assert not torch.equal(real.logit, other.logit)
    assert auc(real, run.dataset, "grocery") > 0.65
    # Tastes are two, so that half of the other users have the same.
    assert abs(auc(other, run.dataset, "grocery") - 0.5) < 0.1


def test_a_table_of_one_method_has_it_its_control_and_what_needs_no_network(tmp_path: Path) -> None:
    data, out = write_taste(tmp_path / "data", num_users=50), tmp_path / "out"
    report = reproduce("cdanet-table-2", data, out, quick=True, trials=1, methods=["MMoE"])
    (tried,) = out.glob("tuning/mmoe/trials/*/value.json")
    assert json.loads(tried.read_text(encoding="utf-8"))["settings"]["training"]["train_share"] == 1.0
    for file in (report, out / "cdanet-table-2" / "paper-literal" / "table.md"):
        content = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        trained = [row["method"] for row in content["rows"] if row["group"] != SIMPLE]
        assert trained == ["MMoE", FINE_TUNE]
        assert any("Paper-literal" in note for note in content["notes"]) == (file != report)
    with pytest.raises(InputError, match=r"no row is called 'MMOE'; known are MLP, own history; .*CDAnet\+MMoE"):
        reproduce("cdanet-table-2", data, out, quick=True, methods=["MMOE"])


def test_the_rows_are_those_of_the_paper_and_one_on_own_history_alone() -> None:
    rows = pair_rows("grocery_kitchen")
    methods = [row.method for row in rows]
    assert methods[:3] == [OWN, BOTH, JOINT_OWN]
    assert methods[3:] == [row.method for row in all_rows() if row.method != "MLP"]
    fields = {row.method: row.settings.ranking.fields for row in rows}
    assert fields.pop(OWN) == OWN_FIELDS
    assert fields.pop(JOINT_OWN) == OWN_FIELDS
    assert [row.method for row in rows if row.is_single] == [OWN, BOTH]
    assert set(fields.values()) == {BOTH_FIELDS}
    assert all(row.search for row in rows)
    literal = literal_rows(rows)
    assert [row.method for row in literal] == ["MLP", "MMoE", FINE_TUNE, MAIN]
    assert all(row.settings.ranking.fields == LITERAL_FIELDS for row in literal)


def results_of(shift: dict[str, float]) -> dict[tuple[str, str, str], list[RankingResult]]:
    """For each method logits that are the label times its shift, and noise that all share."""
    results = {}
    for number, target in enumerate(("grocery", "kitchen")):
        rng = np.random.default_rng(number)
        user, label, noise = rng.integers(1, 30, 300), rng.integers(0, 2, 300), rng.normal(size=300)
        for method, by in shift.items():
            columns = {"domain": np.full(300, number), "user_row": user, "item_row": user, "label": label}
            columns |= {"logit": noise + by * label, "user_rows": user, "item_rows": user}
            results[method, "matched", target] = [
                RankingResult(**{name: torch.from_numpy(column) for name, column in columns.items()})
            ]
    return results


def test_the_table_says_what_histories_bring_over_item_knn_and_over_another_users() -> None:
    rows = [row for row in pair_rows("grocery_kitchen") if row.method in (OWN, BOTH, FINE_TUNE)]
    simple = references(has_clock=True)
    shift = {one.method: 0.0 for one in simple} | {OWN: 1.0, BOTH: 2.0, FINE_TUNE: 2.0}
    shift |= {another_users(OWN): 0.5, another_users(BOTH): 1.0}
    problem = Problem("matched", Path("nowhere"), ("grocery", "kitchen"))
    others = [row for row in rows if row.method == BOTH]
    unlike = replace(rows[0], method=another_users(OWN))
    table = new_table("A table", [*rows, unlike], others, simple, problem, results_of(shift))
    assert [row.method for row in table.rows] == [*shift]
    notes = "\n".join(table.notes)
    assert f"{BOTH}, less the same with another user's history of the source: +0." in notes
    assert f"{OWN}, less item-kNN, own domain: +0." in notes
    assert f"{OWN}, less text-kNN, own domain: +0." in notes
    assert f"{OWN}, less the same model reading another user's history in the domain: +0." in notes
    assert table.rows[-1].against.startswith("-0.")


def test_methods_judged_on_other_rows_are_not_tested_against_each_other() -> None:
    results = results_of({"a": 0.0, "b": 1.0})
    moved = results["b", "matched", "kitchen"][0]
    results["b", "matched", "kitchen"] = [RankingResult(**(vars(moved) | {"label": 1 - moved.label}))]
    with pytest.raises(AssertionError, match="test rows differ"):
        difference("a", "b", Problem("matched", Path("nowhere"), ("grocery", "kitchen")), results)


def test_every_joint_row_reads_products_and_only_what_goes_on_from_a_stage_learns_slower() -> None:
    rows = {row.method: row.settings for row in pair_rows("grocery_kitchen")}
    for method, settings in rows.items():
        assert getattr(settings.ranking, "products", True), method  # a factorisation machine is nothing else
    slower = {method for method, settings in rows.items() if settings.training.later_rate_factor < 1}
    assert slower == {FINE_TUNE, *(method for method in rows if method.startswith("CDAnet"))}
