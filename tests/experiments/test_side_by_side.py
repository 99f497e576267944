import json
from pathlib import Path

import pytest
import torch

from isthmus.experiments.side_by_side import Listed, Pair, SideBySide, in_short, shortened


def side_by_side() -> SideBySide:
    """Four lists of books, of which Base finds one and CDAnet three, and one of movies; two seeds alike."""
    base, main = torch.tensor([[1.0, 0, 0, 0, 1]]).double(), torch.tensor([[1.0, 1, 1, 0, 1]]).double()
    best = [Listed("It cost $5\\frac$", True, False), Listed("Heat", False, True)]
    pair = Pair("U1", "Books", 2, [Listed("Dune", False, False), Listed("Heat", False, True)], best)
    auc = [{"Books": 0.7, "Movies": 0.6}] * 2
    domain = torch.tensor([0, 0, 0, 0, 1])
    both = (base.repeat(2, 1), main.repeat(2, 1))
    return SideBySide(("Books", "Movies"), domain, both, (auc, auc), [3, 0], [pair], 100)


def test_the_difference_is_of_one_domain_and_its_p_counts_the_lists_that_differ() -> None:
    # Books: 3/4 - 1/4; two lists differ, both for CDAnet: of the 4 patterns of signs, 2 are as far from 0.
    test = side_by_side().test(0)
    assert test.difference.estimate == pytest.approx(0.5)
    assert test.p_value == pytest.approx(0.5, abs=0.03)
    assert side_by_side().test(1).difference.estimate == 0


def test_markdown_has_a_line_a_domain_and_marks_hits_bad_cases_and_what_one_list_alone_has() -> None:
    text = side_by_side().to_markdown()
    assert "| Books | 4 | 3 | 0.2500 ± 0.0000 | 0.7500 ± 0.0000 | +0.5000 [" in text
    assert "| ✗ **Dune** | ✓ **It cost $5\\frac$** |" in text
    assert "| ✗ Heat | ✗ Heat |" in text


def test_writing_gives_three_files_the_picture_among_them(tmp_path: Path) -> None:
    report = side_by_side().write(tmp_path / "out")
    assert {file.name for file in report.parent.iterdir()} == {"table.md", "table.json", "figure.png"}
    assert (report.parent / "figure.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((report.parent / "table.json").read_text())
    assert content["domains"][0]["hit@5"] == {"Base": [0.25, 0.25], "CDAnet": [0.75, 0.75]}
    assert content["pairs"][0]["main"][0] == {"title": "It cost $5\\frac$", "is_hit": True, "is_in_both": False}


def test_one_seed_has_no_spread_and_a_long_title_is_cut() -> None:
    assert in_short([0.25]) == "0.2500"
    assert shortened("a" * 44) == "a" * 44
    assert shortened("a" * 45) == "a" * 43 + "…"
