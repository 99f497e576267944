import json
from math import sqrt
from pathlib import Path

import pytest

from isthmus.experiments.table import Table, TableRow


def seed(s1: float, s2: float) -> dict[str, dict[str, float]]:
    return {"s1": {"recall@10": s1, "ndcg@10": s1 / 2}, "s2": {"recall@10": s2, "ndcg@10": s2 / 2}}


def table() -> Table:
    two_seeds = TableRow("ADI", "networks", [seed(0.2, 0.4), seed(0.4, 0.6)], 1234, {"s1": 0.25, "s2": 0.5}, "+0.1")
    one_seed = TableRow("popularity", "simple", [seed(0.1, 0.3)], 0, {}, "")
    return Table("A table", ("s1", "s2"), "recall@10", ("ndcg@10",), (one_seed, two_seeds), ("A note.",))


def test_a_value_is_the_mean_over_seeds_and_the_macro_the_mean_over_domains_of_each_seed() -> None:
    row = table().rows[1]
    # s1: mean of .2 and .4, deviation sqrt(2 * .1^2 / (2 - 1)); macro: seeds (.2 + .4) / 2 = .3 and (.4 + .6) / 2 = .5
    assert row.mean_and_spread("s1", "recall@10") == pytest.approx((0.3, sqrt(0.02)))
    assert row.mean_and_spread("macro", "recall@10") == pytest.approx((0.4, sqrt(0.02)))
    assert row.mean_and_spread("macro", "ndcg@10") == pytest.approx((0.2, sqrt(0.005)))


def test_one_seed_has_no_spread() -> None:
    assert table().rows[0].mean_and_spread("s1", "recall@10") == (0.1, None)


def test_json_has_columns_and_a_mean_and_std_for_each_method_domain_and_metric() -> None:
    content = json.loads(json.dumps(table().to_dict()))
    assert content["columns"] == ["s1", "s2", "macro"]
    assert [row["method"] for row in content["rows"]] == ["popularity", "ADI"]
    assert content["rows"][1]["metrics"]["macro"]["recall@10"]["mean"] == pytest.approx(0.4)
    assert content["rows"][0]["metrics"]["s2"]["recall@10"] == {"mean": 0.3, "std": None}
    assert content["rows"][1]["published"] == {"s1": 0.25, "s2": 0.5}


def test_markdown_shows_every_method_with_the_published_value_in_brackets() -> None:
    lines = table().to_markdown().splitlines()
    assert next(line for line in lines if line.startswith("| ADI")).startswith("| ADI | 0.3000 ± 0.1414 (0.250) |")
    assert next(line for line in lines if line.startswith("| popularity")).endswith("| 1 | 0 |  |")
    assert lines[-1] == "- A note."


def test_facts_that_no_row_has_make_no_column() -> None:
    bare = TableRow("popularity", "simple", [seed(0.1, 0.3)], 0, {}, "")
    header = Table("A table", ("s1",), "recall@10", (), (bare,), ()).to_markdown().splitlines()[2]
    assert header == "| method | recall@10 s1 | recall@10 macro |"


def test_writing_gives_three_files_the_picture_among_them(tmp_path: Path) -> None:
    report = table().write(tmp_path / "out")
    assert report == tmp_path / "out" / "table.md"
    assert {file.name for file in report.parent.iterdir()} == {"table.md", "table.json", "table.png"}
    assert (report.parent / "table.png").read_bytes().startswith(b"\x89PNG")
