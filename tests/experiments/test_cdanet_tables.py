"""CDAnet's tables and figures on a few hundred ratings in Epinions' form, with the real rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult, evaluate_ranking
from isthmus.experiments import cdanet_figures, cdanet_more_domains, cdanet_table_2
from isthmus.experiments.cdanet_rows import (
    FAIR_TREES,
    FINE_TUNE,
    MAIN,
    NEW_USERS_REFERENCES,
    SIMPLE,
    TREES,
    all_rows,
    first_order,
)
from isthmus.experiments.ranking_grid import Results

NUM_USERS, NUM_ITEMS = 60, 12
CATEGORIES = {3: "Movies", 4: "Books", 5: "Music", 6: "Games"}
CATEGORY_NAMES = "".join(f"{number}\t{name}\n" for number, name in CATEGORIES.items())


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who are generous or not, in all categories, with eight ratings in each."""
    folder = tmp_path_factory.mktemp("epinions")
    rng = np.random.default_rng(0)
    rows = [
        (user, 100 * category + item, category, int(rng.integers(1, 4) + 2 * (user % 2)))
        for user in range(NUM_USERS)
        for category in CATEGORIES
        for item in rng.permutation(NUM_ITEMS)[:8].tolist()
    ]
    # A thing of each user's own, in Movies and in Music: of a test user training knows it where it has all categories.
    rows += [(user, 9000 + user, category, 1 + 4 * (user % 2)) for user in range(NUM_USERS) for category in (3, 5)]
    columns = zip(("user", "item", "category", "rating"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), folder / "ratings.parquet")
    (folder / "categories.tsv").write_text("category\tname\n" + CATEGORY_NAMES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, as a user would take it: datasets, searches and finished rows serve each other."""
    return tmp_path_factory.mktemp("out")


def test_every_method_of_the_papers_table_has_a_row() -> None:
    paper = {"MLP", "ShareBottom", "STAR", "DDTCDR", "MMoE", "PLE"}
    paper |= {f"CDAnet+{name}" for name in ("IndepMLP", "SharedMLP", "PLE", "MMoE")}
    methods = [row.method for row in all_rows()]
    assert paper | {"KEEP", FINE_TUNE} <= set(methods)
    assert len({row.folder for row in all_rows()}) == len(methods)


def test_every_row_with_a_network_has_a_search_of_its_learning_rates() -> None:
    for row in all_rows():
        assert {"training.learning_rate", "training.network_learning_rate"} <= set(row.search), row.method


def test_a_quick_table_has_its_rows_and_started_again_trains_nothing(ratings: Path, out: Path) -> None:
    said: list[str] = []
    report = cdanet_table_2.reproduce(ratings, out, num_seeds=3, quick=True, say=said.append)
    assert report == out / "cdanet-table-2" / "users-new-to-the-target-domain" / "table.md"
    content = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in content["rows"]}
    assert {"item mean", "LightGBM, all domains", "MLP", "MMoE", FINE_TUNE, MAIN, f"{MAIN}, statistics"} <= set(rows)
    linear = first_order(FINE_TUNE)
    assert rows[linear]["paired_test"].endswith("(against item bias and the user's bias elsewhere)")
    assert any(note.startswith(f"{linear}, less {FINE_TUNE}: ") for note in content["notes"])
    assert any("as many trials again" in note for note in content["notes"])
    assert rows[FINE_TUNE]["paired_test"] == ""
    assert rows[f"{MAIN}, statistics"]["paired_test"].endswith(f"(against {FAIR_TREES})")
    for row in rows.values():
        assert 0 <= row["metrics"]["macro"]["auc"]["mean"] <= 1
    # A user's generosity is planted, and the other domain alone knows it of new users.
    elsewhere = rows["item bias and the user's bias elsewhere"]["metrics"]["macro"]["auc"]["mean"]
    assert elsewhere > rows["item mean"]["metrics"]["macro"]["auc"]["mean"] + 0.2
    said.clear()
    cdanet_table_2.reproduce(ratings, out, num_seeds=3, quick=True, say=said.append)
    assert len(said) == 4
    for line in said:
        finished, _, rest = line.partition(" of ")
        assert rest == f"{finished} runs are finished already"
    cdanet_table_2.reproduce(ratings, out, num_seeds=3, quick=True, methods=["MLP"], say=said.append)
    some = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    trained = {row["method"]: row["metrics"] for row in some["rows"] if row["group"] != SIMPLE}
    statistics = {f"{method}, statistics" for method in ("MLP", FINE_TUNE)}
    assert trained.keys() == {"MLP", FINE_TUNE, first_order(FINE_TUNE)} | statistics
    assert all(rows[method]["metrics"] == metrics for method, metrics in trained.items())
    with pytest.raises(InputError, match="no row is called 'MLPP'"):
        cdanet_table_2.reproduce(ratings, out / "none", num_seeds=3, methods=["MLPP"], say=said.append)
    assert not (out / "none").exists()  # a slip is found before anything is prepared
    with pytest.raises(InputError, match=r"rows.*with other settings than it has now.*give another --out"):
        cdanet_table_2.reproduce(ratings, out, num_seeds=3, quick=True, trials=0, say=lambda _: None)


def test_all_categories_stand_beside_two_domains_on_the_same_test_rows(ratings: Path, out: Path) -> None:
    report = cdanet_more_domains.reproduce(ratings, out, num_seeds=1, quick=True, say=lambda _: None)
    content = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in content["rows"]}
    assert {
        *(TREES, f"{TREES} (on two domains)", FAIR_TREES, FINE_TUNE, MAIN, f"{MAIN}, statistics"),
        *(f"{FINE_TUNE}, statistics{variant}" for variant in ("", ", no adjusted means", " (on two domains)")),
    } <= set(rows)
    assert rows[f"{MAIN}, statistics"]["paired_test"].endswith(f"(against {FAIR_TREES} (on two domains))")
    # A user's generosity is planted, and three other categories tell more of it than one does.
    elsewhere = [
        rows[f"item bias and the user's bias elsewhere{domains}"]["metrics"]["macro"]["auc"]["mean"]
        for domains in ("", " (on two domains)")
    ]
    assert elsewhere[0] >= elsewhere[1]
    assert "1 split;" in content["notes"][0]
    compared = {note.split(": ")[0] for note in content["notes"] if note.startswith(f"{FINE_TUNE}, statistics, less")}
    beside = f"{FINE_TUNE}, statistics, less"
    assert compared == {
        *(f"{beside} {control}, auc" for control in (FAIR_TREES, TREES, f"{TREES} (on two domains)")),
        f"{beside} {FAIR_TREES} (on two domains), grouped_auc",
        *(f"{beside} {FINE_TUNE}, statistics, no adjusted means, {metric}" for metric in ("auc", "grouped_auc")),
    }
    random = json.loads((report.parent / "random-rows" / "table.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in random["rows"]} == {
        *("user and item biases", TREES, f"{TREES} (on two domains)"),
        *(f"{method}, statistics" for method in (FINE_TUNE, MAIN)),
    }
    for row in random["rows"]:
        assert row["paired_test"].endswith(f"(against {TREES} (on two domains))") or row["method"].startswith(TREES)


def test_rows_of_two_domains_stand_in_the_order_of_those_of_all_categories(ratings: Path, out: Path) -> None:
    own, other = (
        Dataset.open(cdanet_table_2.cold_problem(ratings, out, "Movies", 0, print, rest=rest).dataset)
        for rest in (None, cdanet_more_domains.REST)
    )
    items = ["", *own.vocabulary("item")]

    def judged(dataset: Dataset) -> tuple[RankingResult, list[tuple[str, str, int]]]:
        """Rows scored by their own text, an item that two domains do not know being none; and these texts."""
        result = evaluate_ranking(torch.zeros(dataset.impressions["test"].num_rows), dataset, "test")  # type: ignore[index]
        users, texts = ["", *dataset.vocabulary("user")], ["", *dataset.vocabulary("item")]
        rows = zip(result.user_row.tolist(), result.item_row.tolist(), result.label.tolist(), strict=True)
        named = [(users[user], texts[item] if texts[item] in items else "", label) for user, item, label in rows]
        return replace(result, logit=torch.tensor([float(sum(map(ord, "".join(one[:2])))) for one in named])), named

    (few, few_named), (many, many_named) = judged(own), judged(other)
    assert few_named != many_named
    assert sorted(few_named) == sorted(many_named)
    found = cdanet_more_domains.in_order_of(many, other, few, own)
    assert torch.equal(found.logit, many.logit)
    assert not torch.equal(few.item_row.sort().values, many.item_row.sort().values)  # to two domains some are unknown
    assert torch.equal(found.item_row, many.item_row)
    assert torch.equal(found.user_row, many.user_row)


def test_a_figure_has_a_point_for_every_value_and_takes_the_tables_search(ratings: Path, out: Path) -> None:
    report = cdanet_figures.reproduce("cdanet-figure-4", ratings, out, num_seeds=1, quick=True, say=lambda _: None)
    content = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    methods = [row["method"] for row in content["rows"]]
    classical, methods = methods[: len(NEW_USERS_REFERENCES)], methods[len(NEW_USERS_REFERENCES) :]
    assert methods == [
        FINE_TUNE,
        f"{MAIN}, alpha 0.001",
        f"{MAIN}, alpha 10",
        f"{MAIN}, beta 0.0001",
        f"{MAIN}, beta 1",
    ]
    assert classical == [row.method for row in NEW_USERS_REFERENCES]
    assert (out / "cdanet-figure-4" / "figure.png").stat().st_size > 10_000


def test_a_share_of_the_rows_is_compared_with_the_control_on_the_same_share() -> None:
    rows = [row for row in all_rows() if row.method in (FINE_TUNE, MAIN)]
    points = cdanet_figures.share_points(rows, quick=False)
    assert [(p.line, p.x, p.control) for p in points if p.line == MAIN] == [
        (MAIN, 0.1, f"{FINE_TUNE}, 10% of the rows"),
        (MAIN, 0.25, f"{FINE_TUNE}, 25% of the rows"),
        (MAIN, 0.5, f"{FINE_TUNE}, 50% of the rows"),
        (MAIN, 1.0, FINE_TUNE),
    ]
    shares = {p.row.method: p.row.settings.training.train_share for p in points}
    assert shares[f"{MAIN}, 25% of the rows"] == 0.25
    assert shares[MAIN] == 1.0


def test_fewer_than_one_seed_is_an_error(ratings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seeds: 0"):
        cdanet_table_2.reproduce(ratings, tmp_path, num_seeds=0)
    with pytest.raises(InputError, match="seeds: 0"):
        cdanet_figures.reproduce("cdanet-figure-3", ratings, tmp_path, num_seeds=0)
    with pytest.raises(InputError, match="seeds: 0"):
        cdanet_more_domains.reproduce(ratings, tmp_path, num_seeds=0)


def test_seeds_together_are_the_mean_of_their_log_odds() -> None:
    rows = torch.arange(3)
    first = RankingResult(rows, rows, rows, rows, torch.tensor([0.0, 1.0, 2.0]), rows, rows)
    second = replace(first, logit=torch.tensor([2.0, 1.0, -1.0]))
    named = all_rows()[:2]
    row, other = (replace(one, method=m) for one, m in zip(named, ("asked for", "of one seed"), strict=True))
    results: Results = {
        ("asked for", "draw", "Movies"): [first, second],
        ("of one seed", "draw", "Movies"): [first],
        ("a reference", "draw", "Movies"): [first, second],
    }
    found = cdanet_more_domains.together([row, other], results)
    assert list(found) == [("asked for, its seeds together", "draw", "Movies")]
    (joined,) = found["asked for, its seeds together", "draw", "Movies"]
    assert joined.logit.tolist() == [1.0, 1.0, 0.5]
    assert joined.label is first.label
