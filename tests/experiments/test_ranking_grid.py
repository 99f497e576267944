"""The search of rows' settings: none where none is asked for, on a share of the training rows where that is said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.experiments.catalogue import reproduce
from isthmus.experiments.cdanet_pair_rows import pair_rows, with_fields
from isthmus.experiments.cdanet_rows import FINE_TUNE, all_rows, with_first_order
from isthmus.experiments.kept_dataset import keep_to_one_data_set
from isthmus.experiments.ranking_grid import Problem, Row, search_of, tuned
from isthmus.settings import RankingRunSettings
from isthmus.tuning import Choices, with_values


@pytest.fixture
def row(labelled: Dataset) -> Row:
    """An MLP on the first domain alone, two epochs."""
    row = all_rows(None)[0]
    training = row.settings.training.model_copy(update={"epochs": 2, "batch_size": 64})
    settings = row.settings.model_copy(update={"training": training})
    return Row(row.method, row.group, settings, row.is_single, row.search)


def with_rate(settings: RankingRunSettings, rate: float) -> RankingRunSettings:
    return settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": rate})})


def test_no_trial_leaves_the_rows_as_declared(row: Row, labelled: Dataset, tmp_path: Path) -> None:
    problem = Problem("p", labelled.path, labelled.schema.domain_names[:1])
    assert tuned([row], problem, tmp_path, trials=0, say=lambda _: None) == [row]
    assert not (tmp_path / "tuning").exists()
    with pytest.raises(InputError, match="trials: -1 is below 0"):
        tuned([row], problem, tmp_path, trials=-1, say=lambda _: None)


def test_trials_are_trained_on_the_share_and_what_is_found_is_for_all_rows(
    row: Row, labelled: Dataset, tmp_path: Path
) -> None:
    problem = Problem("p", labelled.path, labelled.schema.domain_names[:1])
    (found,) = tuned([row], problem, tmp_path, trials=1, say=lambda _: None, share=0.5)
    (value,) = tmp_path.glob(f"tuning/*/{problem.targets[0]}/trials/0/value.json")
    trial = json.loads(value.read_text())["settings"]["training"]
    assert (trial["train_share"], trial["domains"]) == (0.5, [problem.targets[0]])
    assert found.settings.training.train_share == 1.0
    assert found.settings.training.learning_rate == trial["learning_rate"] != row.settings.training.learning_rate


def test_every_row_is_searched_for_all_targets_those_of_one_domain_for_each(
    row: Row, labelled: Dataset, tmp_path: Path
) -> None:
    names = labelled.schema.domain_names
    two_stages = next(one for one in all_rows(None) if one.method == FINE_TUNE)
    short = two_stages.settings.training.model_copy(update={"epochs": 1, "batch_size": 64})
    two_stages = replace(two_stages, settings=two_stages.settings.model_copy(update={"training": short}))
    found = tuned([row, two_stages], Problem("p", labelled.path, names), tmp_path, trials=1, say=lambda _: None)
    tuning = tmp_path / "tuning"
    folders = [*(tuning / row.folder / name for name in names), tuning / two_stages.folder]
    tried = [json.loads((folder / "trials" / "0" / "value.json").read_text())["settings"] for folder in folders]
    assert [one["training"]["domains"] for one in tried[:-1]] == [[name] for name in names]
    assert tried[-1]["ranking"]["targets"] == list(names)
    assert [one.settings.training.domains for one in found] == [None, None]
    assert [list(one.by_target) for one in found] == [list(names), []]


@pytest.mark.parametrize("rows", [all_rows(), with_first_order(all_rows()), pair_rows("grocery_kitchen")])
def test_every_value_that_a_search_may_choose_is_a_setting_of_its_row(rows: list[Row]) -> None:
    for row in rows:
        for key, place in search_of(row, 1).space.items():
            for value in place.values if isinstance(place, Choices) else (place.low, place.high):
                with_values(row.settings, {key: value})


def test_stars_search_may_leave_its_norm_out_and_keep_waits_longer() -> None:
    rows = {row.method: row for row in all_rows()}
    assert rows["STAR"].search["ranking.backbone.norm"]["values"] == ["none", "partitioned"]
    patience = {method: row.settings.training.patience for method, row in rows.items()}
    assert patience.pop("KEEP") > max(patience.values())


def test_what_is_found_for_one_target_holds_for_its_model_alone(row: Row) -> None:
    rates = {"a": 1e-3, "b": 2e-3}
    by_target = {name: with_rate(row.settings, rate) for name, rate in rates.items()}
    found = replace(row, settings=by_target["a"], by_target=by_target)
    for one in (found, with_fields(found, ("user_id",), "another"), *with_first_order([found])):
        settings = {name: one.settings_for((name,)) for name in ("a", "b", "c")}
        assert {name: each.training.learning_rate for name, each in settings.items()} == {**rates, "c": 1e-3}
        assert {name: each.training.domains for name, each in settings.items()} == {name: (name,) for name in settings}
        assert len({each.ranking.fields for each in settings.values()}) == 1


def test_a_finished_search_from_other_settings_is_refused(row: Row, labelled: Dataset, tmp_path: Path) -> None:
    problem = Problem("any", labelled.path, labelled.schema.domain_names)
    found = tuned([row], problem, tmp_path, trials=1, say=lambda _: None, share=0.5)
    assert tuned([row], problem, tmp_path, trials=1, say=lambda _: None, share=0.5) == found
    wider = replace(row, search={**row.search, "training.weight_decay": {"values": [0.1, 0.2]}})
    for other in (with_fields(row, ("user_id",), row.method), wider):
        with pytest.raises(InputError, match=r"0: holds a trial of another search.*give another --out, or delete "):
            tuned([other], problem, tmp_path, trials=1, say=lambda _: None, share=0.5)


def test_trials_of_an_experiment_without_a_search_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adi-table-3 has no search"):
        reproduce("adi-table-3", tmp_path, tmp_path, num_seeds=1, quick=False, trials=4)
    with pytest.raises(InputError, match="cdanet-table-7 is made whole"):
        reproduce("cdanet-table-7", tmp_path, tmp_path, num_seeds=1, quick=False, trials=4, methods=["MLP"])


def test_an_output_folder_is_of_one_data_set(tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("other", "ab")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ratings.txt").write_text(text, encoding="utf-8")
    keep_to_one_data_set(tmp_path / "one", tmp_path / "out")
    keep_to_one_data_set(tmp_path / "one", tmp_path / "out")
    (tmp_path / "out" / "table.md").write_text("a result", encoding="utf-8")
    (tmp_path / "one").rename(tmp_path / "moved")
    keep_to_one_data_set(tmp_path / "moved", tmp_path / "out")
    (tmp_path / "out" / "rows").mkdir()
    with pytest.raises(InputError, match=r"holds results of other files than those of .*other"):
        reproduce("cdanet-table-7", tmp_path / "other", tmp_path / "out", num_seeds=1, quick=True, trials=None)
    for _ in range(2):  # what is written into the data's own folder is none of its files
        keep_to_one_data_set(tmp_path / "other", tmp_path / "other" / "out")
    keep_to_one_data_set(tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_mistaken_data_set_of_which_nothing_was_made_is_forgotten(tmp_path: Path) -> None:
    for name, text in (("mistaken", "a"), ("right", "ab")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ratings.txt").write_text(text, encoding="utf-8")
        keep_to_one_data_set(tmp_path / name, tmp_path / "out")
    (tmp_path / "out" / "rows").mkdir()
    keep_to_one_data_set(tmp_path / "right", tmp_path / "out")
    with pytest.raises(InputError, match="holds results of other files"):
        keep_to_one_data_set(tmp_path / "mistaken", tmp_path / "out")
