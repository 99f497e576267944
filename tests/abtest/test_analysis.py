"""An experiment's figures: those worked by hand on a few lists, a planted effect, none where there is none."""

import json
import shutil
from datetime import UTC, datetime
from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from tests.abtest.small_logs import drawn_logs, example_logs, named, shown, write_logs

import isthmus
from isthmus.abtest.logs import read_impressions
from isthmus.abtest.report import Analysis, Compared, Counted
from isthmus.cli import main
from isthmus.errors import InputError

TRIAL = "name: trial\nvariants:\n- {name: control, share: 0.5}\n- {name: new, share: 0.5}\n"


def counted(analysis: Analysis, variant: str, by: str = "all domains", group: str = "all") -> Counted:
    (row,) = [row for row in analysis.counted if (row.variant, row.key.by, row.key.group) == (variant, by, group)]
    return row


def compared(analysis: Analysis, metric: str, by: str = "all domains", group: str = "all") -> Compared:
    (row,) = [row for row in analysis.compared if (row.metric, row.key.by, row.key.group) == (metric, by, group)]
    return row


def test_a_folder_with_the_signs_of_a_pattern_is_that_folder_alone(logs: Path, tmp_path: Path) -> None:
    other = write_logs(tmp_path / "logs1", shown("r1", "u1", "control", "ab"), named("r1", "a"))
    ours = shutil.copytree(logs, tmp_path / "logs[1]")
    assert other.is_dir()
    assert isthmus.ab(ours).counted == isthmus.ab(logs).counted


def test_a_small_log_comes_to_what_is_worked_by_hand(logs: Path) -> None:
    analysis = isthmus.ab(logs)
    # control: u1 shown 4, clicked a for 2 and B for 5; u2 shown 4, clicked d for 2.
    control = counted(analysis, "control")
    assert (control.num_users, control.num_without_id, control.num_requests) == (2, 0, 3)
    assert (control.num_impressions, control.num_clicks, control.num_orders, control.revenue) == (8, 3, 0, 9.0)
    assert control.values == {
        "ctr": 3 / 8,
        "orders_per_mille": 0,
        "rpm": 1000 * 9 / 8,
        "ppc": 3.0,
        "impressions_per_user": 4.0,
    }
    # new: u3 shown 2, clicked both for 2 and 2; u4 shown 3, clicked B for 5 and 9, which has no price, and ordered B;
    # a request without a user shown 3.
    new = counted(analysis, "new")
    assert (new.num_users, new.num_without_id, new.num_requests) == (3, 1, 3)
    assert (new.num_impressions, new.num_clicks, new.num_orders, new.revenue) == (8, 4, 1, 9.0)
    assert new.values["orders_per_mille"] == 1000 / 8
    assert new.values["ppc"] == 9 / 4
    assert any("1 clicks are of items without a price" in note for note in analysis.notes)

    # By domain: only u1's second list is in video.
    video = counted(analysis, "control", "domain", "video")
    assert (video.num_users, video.num_impressions, video.num_clicks, video.revenue) == (1, 2, 1, 5.0)
    assert not [row for row in analysis.counted if row.key.group == "video" and row.variant == "new"]
    assert counted(analysis, "control", "domain", "shop").num_impressions == 6

    # CTR .5 beside .375. Control's parts 2 - 1.5, 1 - 1.5: variance 2 * .5 / 64. New's 2 - 1, 2 - 1.5, 0 - 1.5:
    # 3 / 2 * 3.5 / 64. Relative: .015625 / .140625 = .1111 with 1 degree, .08203 / .25 = .3281 with 2.
    found = compared(analysis, "ctr")
    assert (found.num_users_with_event, compared(analysis, "rpm").num_users_with_event) == (2, 2)
    assert compared(analysis, "orders_per_mille").num_users_with_event == 0
    a, b = 0.015625 / 0.140625, 0.08203125 / 0.25
    freedom = (a + b) ** 2 / (a**2 + b**2 / 2)
    assert freedom == pytest.approx(0.192932 / 0.066179, abs=1e-4)
    t = scipy.stats.t.ppf(0.975, freedom)  # 3.23, between the printed table's 4.30 of 2 degrees and 3.18 of 3
    assert found.difference.estimate == pytest.approx(1 / 3)
    assert found.difference.low == pytest.approx(4 / 3 * exp(-t * sqrt(a + b)) - 1)
    assert found.difference.high == pytest.approx(4 / 3 * exp(t * sqrt(a + b)) - 1)
    assert compared(analysis, "orders_per_mille").difference.why_no_interval == "the control's is not above 0"


def test_where_orders_pay_revenue_is_of_orders(logs: Path) -> None:
    analysis = isthmus.ab(logs, revenue="order")
    new = counted(analysis, "new")
    assert new.revenue == 5.0
    assert new.values == {
        "ctr": 0.5,
        "orders_per_mille": 125.0,
        "orders_per_user": 1 / 3,
        "rpm": 1000 * 5 / 8,
        "order_value": 5.0,
        "revenue_per_user": 5 / 3,
        "impressions_per_user": 8 / 3,
    }
    assert counted(analysis, "control").values["order_value"] is None
    assert compared(analysis, "order_value").difference.why_no_interval == "nothing to divide by in the control"


def test_the_counts_are_those_of_the_rows_that_are_read_one_by_one(tmp_path: Path) -> None:
    folder = drawn_logs(tmp_path / "logs", num_experiments=2, num_users=40, seed=3)
    rows = [row for row in read_impressions(folder).to_pylist() if row["experiment"] == "trial1"]
    analysis = isthmus.ab(folder, experiment="trial1")
    for variant in ("control", "new"):
        mine = [row for row in rows if row["variant"] == variant]
        found = counted(analysis, variant)
        assert found.num_impressions == len(mine)
        assert found.num_clicks == sum(row["click"] for row in mine)
        assert found.num_users == len({row["user"] for row in mine})
    assert len(rows) > 100


def test_segments_are_those_of_the_file_and_nobody_is_lost(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,level,age\nu1,rich,\nu2,poor,30s\nu3,rich,30s\nu9,rich,40s\n")
    analysis = isthmus.ab(logs, segments=tmp_path / "users.csv")
    users = {
        (row.key.by, row.key.group, row.variant): row.num_users
        for row in analysis.counted
        if row.key.by.startswith("segment")
    }
    assert users == {
        ("segment level", "poor", "control"): 1,
        ("segment level", "rich", "control"): 1,
        ("segment level", "rich", "new"): 1,
        ("segment level", "(not in the file)", "new"): 1,
        ("segment level", "(no user)", "new"): 1,
        ("segment age", "30s", "control"): 1,
        ("segment age", "30s", "new"): 1,
        ("segment age", "(empty)", "control"): 1,
        ("segment age", "(not in the file)", "new"): 1,
        ("segment age", "(no user)", "new"): 1,
    }
    assert counted(analysis, "control", "segment level", "rich").num_impressions == 4  # u1's in both domains


def test_only_impressions_of_the_span_count_and_their_feedback_whenever_it_came(logs: Path) -> None:
    # 13:00 leaves out r2 at 13:00 itself, and r5 at 14:00; r1's and r3's clicks came before, none after.
    until = isthmus.ab(logs, end="2026-11-01T14:00+01:00")
    assert (counted(until, "control").num_impressions, counted(until, "new").num_impressions) == (6, 5)
    assert until.overview.rows_in_span["trial"] == 11
    assert "Left out: 5 impressions outside of the span" in until.notes
    since = isthmus.ab(logs, start=datetime(2026, 11, 1, 13, tzinfo=UTC), end="2026-11-02")
    assert (counted(since, "control").num_impressions, counted(since, "new").num_impressions) == (2, 3)
    assert counted(since, "new").num_clicks == 2
    assert "3 clicks and orders came after the end of the span, and count" in since.notes  # 18:00 and 19:00 of the 2nd


def test_feedback_counts_within_its_hours_alone(logs: Path) -> None:
    # r5 was shown at 14:00, clicked 28 hours and ordered 29 hours later.
    for hours, clicks, orders, late in ((28.5, 4, 1 - 1, 1), (28.0, 2, 0, 3), (29.001, 4, 1, 0)):
        analysis = isthmus.ab(logs, attribution_h=hours)
        new = counted(analysis, "new")
        assert (new.num_clicks, new.num_orders, analysis.trouble.too_late) == (clicks, orders, late)


def test_the_first_of_repeated_clicks_decides_whether_it_was_in_time(tmp_path: Path) -> None:
    clicks = [*named("r1", "a", hour=9), *named("r1", "a", hour=0.5), *named("r1", "b", hour=9)]
    folder = write_logs(tmp_path / "logs", shown("r1", "u1", "control", "ab"), clicks)
    analysis = isthmus.ab(folder, attribution_h=1.0)
    assert (counted(analysis, "control").num_clicks, analysis.trouble.too_late) == (1, 1)


def test_repeated_feedback_counts_once_and_that_of_nothing_shown_not_at_all(tmp_path: Path) -> None:
    impressions = [*shown("r1", "u1", "control", "ab"), *shown("r2", "u2", "new", "ab"), *shown("r3", "u3", None, "ab")]
    feedback = [*named("r1", "aaa"), *named("r1", "z"), *named("gone", "a"), *named("r2", "b", kind="seen")]
    analysis = isthmus.ab(write_logs(tmp_path / "logs", impressions, feedback))
    assert counted(analysis, "control").num_clicks == 1
    left_out = [note for note in analysis.notes if note.startswith("Left out")]
    assert left_out == [
        "Left out: 2 impressions of no experiment",
        "Left out: 2 clicks and orders of what the logs do not show",
        "Left out: 2 repeated clicks and orders of one shown item",
        "Left out: 1 rows of feedback that is neither click nor order",
    ]


def test_other_experiments_are_left_out_and_one_must_be_named(tmp_path: Path) -> None:
    rows = [*shown("r1", "u1", "control", "ab"), *shown("r2", "u1", "control", "abc", experiment="other")]
    folder = write_logs(tmp_path / "logs", rows)
    with pytest.raises(InputError, match="several experiments; say with --experiment which of other, trial"):
        isthmus.ab(folder)
    with pytest.raises(InputError, match="no impressions of experiment 'trail'; did you mean 'trial'"):
        isthmus.ab(folder, experiment="trail")
    analysis = isthmus.ab(folder, experiment="trial")
    assert counted(analysis, "control").num_impressions == 2
    assert "Left out: 3 impressions of other experiments" in analysis.notes


def test_users_of_two_variants_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        *shown("r1", "u1", "control", "ab"),
        *shown("r2", "u1", "new", "abc", domain="video", hour=5),
        *shown("r3", "u2", "control", "ab"),
        *shown("r4", "u3", "new", "a", hour=5),
    ]
    folder = write_logs(tmp_path / "logs", rows, named("r1", "a"))
    analysis = isthmus.ab(folder)
    assert (analysis.trouble.moved_users, analysis.trouble.moved_impressions) == (1, 5)
    assert [counted(analysis, name).num_impressions for name in ("control", "new")] == [2, 1]
    assert any("1 users were in more than one variant and are left out with 5" in text for text in analysis.warnings)
    late = isthmus.ab(folder, start="2026-11-01T16:00", control="new")
    assert counted(late, "new").num_users == 2
    assert late.trouble.moved_users == 0
    (tmp_path / "trial.yaml").write_text(TRIAL)
    only = write_logs(tmp_path / "only", rows[:5])
    with pytest.raises(InputError, match="every user of 'trial' was in two variants"):
        isthmus.ab(only)


def test_a_sample_ratio_that_is_off_stands_first(tmp_path: Path) -> None:
    (tmp_path / "trial.yaml").write_text(TRIAL)
    rows = [row for n in range(100) for row in shown(f"r{n}", f"u{n}", "new" if n < 70 else "control", "a")]
    folder = write_logs(tmp_path / "logs", rows)
    analysis = isthmus.ab(folder, trial=tmp_path / "trial.yaml")
    assert analysis.sample_ratio is not None
    assert analysis.sample_ratio.statistic == pytest.approx(2 * 20**2 / 50)
    assert analysis.is_mismatched
    lines = analysis.to_markdown().splitlines()
    assert lines[2].startswith("**SAMPLE RATIO MISMATCH: control 30 of 100 (30.00%, declared 50.00%)")
    assert analysis.to_dict()["sample_ratio"]["is_mismatched"] is True
    (tmp_path / "trial.yaml").write_text(
        TRIAL.replace("control, share: 0.5", "control, share: 0.3").replace("new, share: 0.5", "new, share: 0.7")
    )
    fine = isthmus.ab(folder, trial=tmp_path / "trial.yaml")
    assert not fine.is_mismatched
    assert fine.warnings == []
    assert any(note.startswith("Users came as declared: control 30 of 100") for note in fine.notes)


def test_the_trial_file_names_experiment_control_and_order(tmp_path: Path) -> None:
    (tmp_path / "trial.yaml").write_text(
        "name: trial\nvariants:\n- {name: zero, share: 0.5}\n- {name: b, share: 0.25}\n- {name: a, share: 0.25}\n"
    )
    rows = [*shown("r1", "u1", "zero", "ab"), *shown("r2", "u2", "a", "ab"), *shown("r3", "u3", "b", "ab")]
    folder = write_logs(tmp_path / "logs", [*rows, *shown("r4", "u4", "a", "b", experiment="other")])
    analysis = isthmus.ab(folder, trial=tmp_path / "trial.yaml")
    assert (analysis.experiment, analysis.control) == ("trial", "zero")
    # Of one domain alone there is nothing to say that was not said of all.
    assert [(row.key.by, row.variant) for row in analysis.counted] == [("all domains", v) for v in ("zero", "b", "a")]
    assert [row.variant for row in isthmus.ab(folder, experiment="trial", control="a").counted][:3] == [
        "a",
        "b",
        "zero",
    ]
    with pytest.raises(InputError, match="say with --control which variant the others are compared with: a, b, zero"):
        isthmus.ab(folder, experiment="trial")
    with pytest.raises(InputError, match="control 'zer': no user saw this variant alone; did you mean 'zero'"):
        isthmus.ab(folder, experiment="trial", control="zer")
    with pytest.raises(InputError, match="'other' is not that of the trial file, 'trial'"):
        isthmus.ab(folder, experiment="other", trial=tmp_path / "trial.yaml")
    (tmp_path / "trial.yaml").write_text(TRIAL)
    with pytest.raises(InputError, match="declares no variant 'a', which the logs have"):
        isthmus.ab(folder, trial=tmp_path / "trial.yaml")


def test_several_bundles_of_a_variant_are_named(tmp_path: Path) -> None:
    rows = [*shown("r1", "u1", "control", "ab", bundle="monday"), *shown("r2", "u1", "control", "abc", hour=1)]
    analysis = isthmus.ab(write_logs(tmp_path / "logs", rows))
    assert analysis.bundles == {"control": {"monday": 2, "b1": 3}}
    assert "control was answered by several bundles: monday (2 impressions), b1 (3 impressions)" in analysis.warnings
    assert "only variant 'control' was seen: there is nothing to compare" in analysis.warnings
    assert analysis.compared == ()


def test_what_says_nothing_is_said_in_words(tmp_path: Path) -> None:
    rows = [*shown("r1", "u1", "control", "12"), *shown("r2", "u2", "new", "12")]
    analysis = isthmus.ab(write_logs(tmp_path / "logs", rows))
    assert {row.metric for row in analysis.compared} == {"ctr", "orders_per_mille", "impressions_per_user"}
    assert "No impression has a price: nothing is said of revenue" in analysis.notes
    assert {row.difference.p_value for row in analysis.compared} == {None}
    assert compared(analysis, "ctr").difference.why_no_interval == "the control's is not above 0"
    assert compared(analysis, "impressions_per_user").difference.why_no_interval == "a single user in the control"
    text = analysis.to_markdown()
    assert "nan" not in text.replace("experiment", "")
    assert json.loads(json.dumps(analysis.to_dict()))["differences"][0]["p_value"] is None


def test_values_for_programs_have_no_digits_that_the_order_of_adding_decides(tmp_path: Path) -> None:
    rows = [*shown("r1", "u1", "control", "abc"), *shown("r2", "u2", "control", "a"), *shown("r3", "u3", "new", "a")]
    rows[0]["price"], rows[1]["price"] = 0.1, 0.2  # together .30000000000000004
    told = isthmus.ab(write_logs(tmp_path / "logs", rows, named("r1", "ab"))).to_dict()
    assert (told["counts"][0]["revenue"], told["counts"][0]["ppc"]) == (0.3, 0.15)
    assert told["counts"][0]["users"] == 2


def test_prices_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    rows = [*shown("r1", "u1", "control", "abc"), *shown("r2", "u2", "new", "a")]
    rows[0]["price"], rows[1]["price"] = float("nan"), float("inf")
    analysis = isthmus.ab(write_logs(tmp_path / "logs", rows, named("r1", "abc")))
    assert counted(analysis, "control").revenue == 2.0
    assert "2 clicks are of items without a price and add nothing to the revenue" in analysis.notes


def test_an_id_of_a_user_is_not_that_of_a_request(tmp_path: Path) -> None:
    rows = [*shown("same", None, "control", "a"), *shown("r2", "same", "new", "a")]
    analysis = isthmus.ab(write_logs(tmp_path / "logs", rows))
    assert analysis.trouble.moved_users == 0
    assert [counted(analysis, name).num_users for name in ("control", "new")] == [1, 1]


def test_where_nothing_differs_one_test_in_twenty_says_that_it_does(tmp_path: Path) -> None:
    num = 40
    folder = drawn_logs(tmp_path / "logs", num_experiments=num, num_users=100, seed=11)
    p_values = []
    for number in range(num):
        found = isthmus.ab(folder, experiment=f"trial{number}")
        for metric in ("ctr", "impressions_per_user"):
            p = compared(found, metric).difference.p_value
            assert p is not None
            p_values.append(p)
    # 80 p values: 4 below .05 are expected, with a standard error of 1.9; and half of them below a half.
    assert sum(p < 0.05 for p in p_values) <= 10
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.17)  # 3 standard errors


def test_a_planted_effect_is_found(tmp_path: Path) -> None:
    folder = drawn_logs(tmp_path / "logs", num_experiments=1, num_users=8000, uplift=0.25, seed=4)
    found = compared(isthmus.ab(folder), "ctr")
    assert found.p_holm is not None
    assert found.p_holm < 0.001
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert 0 < found.difference.low < 0.25 < found.difference.high < 0.4


def test_the_verb_prints_tables_or_json(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trial.yaml").write_text(TRIAL)
    (tmp_path / "users.csv").write_text("user,level\nu1,rich\n")
    words = ["ab", str(logs), "--trial", str(tmp_path / "trial.yaml"), "--segments", str(tmp_path / "users.csv")]
    assert main([*words, "--from", "2026-11-01", "--to", "2026-11-03", "--attribution", "48"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Experiment trial; control is control; impressions 2026-11-01 12:00:00 to 2026-11-01 14:00:00, counted from "
        "2026-11-01 00:00:00 to 2026-11-03 00:00:00 (UTC)."
    )
    assert "| all domains | all | control | 2 | 3 | 8 | 3 | 0 | 9.00 | 0.3750 |" in printed
    assert "| ctr | all domains | all | new | 0.3750 | 0.5000 | +33.33% | [" in printed
    assert main([*words, "--json", "--revenue", "order", "--control", "new", "--experiment", "trial"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["control"], told["revenue"]) == ("new", "order")
    assert told["counts"][0] | {"variant": "new", "users": 3, "revenue": 5.0} == told["counts"][0]
    assert main(["ab", str(tmp_path)]) == 2
    assert "no impressions-*.parquet" in capsys.readouterr().err


def test_the_page_on_logs_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = example_logs(tmp_path)
    files = ("--trial", str(tmp_path / "trial.yaml"), "--segments", str(tmp_path / "users.csv"))
    assert main(["ab", str(logs), *files]) == 0
    printed = capsys.readouterr().out.splitlines()
    page = (Path(__file__).parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")
    shown_there = [line for line in page.split("```text\n")[1].split("```")[0].splitlines() if line not in ("", "...")]
    assert [line for line in shown_there if line not in printed] == []
    assert len(shown_there) > 15
    assert sum(line.startswith("| ") for line in printed) == 4 + 18 + 60  # headers and rows, as the page says
