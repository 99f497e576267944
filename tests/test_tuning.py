"""The search of settings: what is tried, kept and chosen."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate
from isthmus.errors import InputError
from isthmus.settings import AnyRunSettings, RankingRunSettings, read_settings
from isthmus.tuning import Search, read_search, tune, with_values

FEW = {"seed": 0, "epochs": 1, "batch_size": 512}
BASE = RankingRunSettings.model_validate({"ranking": {"kind": "fm", "embedding_dim": 2}, "training": FEW})
MLP = {"kind": "dnn", "hidden_dims": [4]}
GRID = Search.model_validate({"sampler": "grid", "space": {"training.learning_rate": {"values": [1e-6, 1e-2]}}})


def test_the_best_of_the_grid_is_chosen_and_trials_are_kept(labelled: Dataset, tmp_path: Path) -> None:
    said: list[str] = []
    best = tune(labelled.path, tmp_path, BASE, GRID, say=said.append)
    assert isinstance(best, RankingRunSettings)
    assert best.training.learning_rate == 1e-2
    assert (tmp_path / "best.yaml").is_file()
    times = [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("trials/*/metrics.jsonl"))]
    assert len(times) == 2
    again = tune(labelled.path, tmp_path, BASE, GRID, say=said.append)
    assert again == best
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("trials/*/metrics.jsonl"))] == times


def test_trials_of_another_dataset_are_refused(labelled: Dataset, tmp_path: Path) -> None:
    tune(labelled.path, tmp_path / "out", BASE, GRID, say=lambda _: None)
    other = prepare(simulate(tmp_path / "log", num_users=60, num_items=30, seed=5, num_shown=2), tmp_path / "other")
    with pytest.raises(InputError, match="the run was trained"):
        tune(other.path, tmp_path / "out", BASE, GRID, say=lambda _: None)


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_trial_that_diverges_is_one_of_the_search_and_never_the_best(
    labelled: Dataset, tmp_path: Path, sampler: str
) -> None:
    rates = {"values": [1e38, 1e-2]}
    search = Search.model_validate(
        {"sampler": sampler, "trials": 4 if sampler == "tpe" else 2, "space": {"training.learning_rate": rates}}
    )
    said: list[str] = []
    best = tune(labelled.path, tmp_path, BASE, search, say=said.append)
    assert best.training.learning_rate == 1e-2
    assert any("diverged" in line for line in said)
    assert "diverged" in (tmp_path / "trials.md").read_text(encoding="utf-8")
    assert tune(labelled.path, tmp_path, BASE, search, say=lambda _: None) == best  # kept, and not trained again
    hopeless = Search.model_validate({"sampler": "grid", "space": {"training.learning_rate": {"values": [1e38]}}})
    with pytest.raises(InputError, match="every trial diverged"):
        tune(labelled.path, tmp_path / "hopeless", BASE, hopeless, say=lambda _: None)


def test_a_tpe_search_tries_the_same_settings_each_time(labelled: Dataset, tmp_path: Path) -> None:
    space = {
        "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "ranking.embedding_dim": {"low": 1, "high": 4},
    }
    search = Search.model_validate({"trials": 2, "space": space})
    first, second = (tune(labelled.path, tmp_path / name, BASE, search, say=lambda _: None) for name in "ab")
    assert first == second


def test_a_tpe_search_of_ten_trials_is_drawn_whatever_it_finds(
    labelled: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    search = Search.model_validate({"trials": 20, "begin_as_given": False, "space": space})

    def rates(sign: float) -> list[float]:
        tried: list[float] = []

        def run_trial(dataset: Path, folder: Path, base: AnyRunSettings, chosen: Mapping[str, float]) -> float:
            tried.append(chosen["training.learning_rate"])
            return sign * tried[-1]

        monkeypatch.setattr("isthmus.tuning.run_trial", run_trial)
        tune(labelled.path, tmp_path / str(sign), BASE, search, say=lambda _: None)
        return tried

    higher, lower = rates(1.0), rates(-1.0)
    assert len(higher) == len(lower) == 20
    assert higher[:10] == lower[:10]
    assert higher[10:] != lower[10:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {training.seed: {low: 3, high: 1}}", "low must be below high"),
        ("space: {training.seed: {low: 0, high: 1, log: true}}", "low must be above 0"),
        ("sampler: grid\nspace: {training.seed: {low: 0, high: 1}}", "a grid takes 'values'"),
        ("trials: 3", "space: missing"),
        (
            "sampler: grid\ntrials: 3\nspace: {training.seed: {values: [0, 1]}, training.epochs: {values: [1, 2]}}",
            "a grid of 4 combinations, and trials is 3",
        ),
    ],
)
def test_a_wrong_search_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_search(file)
    assert message in str(caught.value)


def test_a_search_begins_with_the_settings_as_given_where_they_lie_in_its_space(
    labelled: Dataset, tmp_path: Path
) -> None:
    base = with_values(BASE, {"training.learning_rate": 0.0123})
    widths = {"values": [4, 2]}
    near = {"training.learning_rate": {"low": 0.01, "high": 0.02, "log": True}, "ranking.embedding_dim": widths}
    far = {"training.learning_rate": {"low": 0.05, "high": 0.06}, "ranking.embedding_dim": widths}
    unset = {"training.checkpoint_steps": {"low": 50, "high": 60}}
    for name, space, begins in (
        ("near", near, True),
        ("far", far, False),
        ("unset", unset, False),
        ("drawn", near, False),
    ):
        search = Search.model_validate({"trials": 1, "space": space, "begin_as_given": name != "drawn"})
        best = tune(labelled.path, tmp_path / name, base, search, say=lambda _: None)
        assert (best == base) == begins, name


def test_a_grid_is_checked_whole_before_anything_is_trained(labelled: Dataset, tmp_path: Path) -> None:
    search = Search.model_validate({"sampler": "grid", "space": {"training.epochs": {"values": [1, "many"]}}})
    with pytest.raises(InputError, match=r"training\.epochs: 'many'"):
        tune(labelled.path, tmp_path / "out", BASE, search, say=lambda _: None)
    assert not (tmp_path / "out").exists()


def linear(value: bool, **training: object) -> RankingRunSettings:
    content = BASE.model_dump(mode="json") | {"ranking": {"kind": "ctr", "backbone": MLP, "linear": value}}
    return RankingRunSettings.model_validate(content | {"training": content["training"] | training})


BOTH = {"values": [True, False]}
RATES = {"low": 0.02, "high": 0.2, "log": True}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"ranking.dropuot": {"values": [0.1]}}, "space.ranking.dropuot: unknown setting; did you mean 'dropout'?"),
        ({"nets.dropout": {"values": [0.1]}}, "space.nets.dropout: 'nets' is no section of the settings"),
        ({"ranking.dropout": {"values": [0.1, 0.2, 1.5]}}, "space.ranking.dropout: 1.5: input should be less than"),
        ({"ranking.dropout": {"low": 0.1, "high": 1.5}}, "space.ranking.dropout: 1.5: input should be less than"),
        ({"training.epochs": {"low": 1.0, "high": 2.0}}, "space.training.epochs: a whole number is wanted; give whole"),
        ({"training.epochs": {"low": 1, "high": 2.5}}, "space.training.epochs: 2.5: input should be a valid integer"),
        ({"training.train_share": {"values": [0.5, True]}}, "space.training.train_share: True is no number"),
        (
            {"ranking.fields": {"values": [["user_id", "item_id"], ["user_id", "item_id", "colour"]]}},
            "space.ranking.fields: unknown field 'colour'",
        ),
        ({"training.domains": {"values": [["shop"], ["shopp"]]}}, "space.training.domains: 'shopp' is not a domain"),
        (
            {"ranking.linear": BOTH, "training.first_order_learning_rate": {"values": [0.1, -1]}},
            "space.training.first_order_learning_rate: -1: input should be greater than 0",
        ),
        (
            {"training.later_rate_factor": {"values": [1, 0.5]}},
            "space.training.later_rate_factor: no stage of this model goes on",
        ),
    ],
)
def test_a_mistake_in_the_space_is_told_before_anything_is_trained(
    labelled: Dataset, tmp_path: Path, space: dict[str, object], message: str
) -> None:
    content = {"trials": 1, "space": {"training.learning_rate": {"values": [1e-3, 1e-2]}, **space}}
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    for name, search in ((file, read_search(file)), ("search", Search.model_validate(content))):
        with pytest.raises(InputError) as caught:
            tune(labelled.path, tmp_path / "out", linear(False), search, say=lambda _: None)
        assert str(caught.value).startswith(f"{name}: {message}")
        assert not (tmp_path / "out").exists()


def test_a_rate_of_first_order_weights_is_left_out_of_trials_without_them(labelled: Dataset, tmp_path: Path) -> None:
    grid = Search.model_validate({"sampler": "grid", "space": {"ranking.linear": BOTH}})
    tune(labelled.path, tmp_path / "a", linear(True, first_order_learning_rate=0.05), grid, say=lambda _: None)
    rates = {"ranking.linear": BOTH, "training.first_order_learning_rate": {"values": [0.05]}}
    search = Search.model_validate({"sampler": "grid", "space": rates})
    tune(labelled.path, tmp_path / "b", linear(False), search, say=lambda _: None)
    for name in "ab":
        kept = [json.loads((tmp_path / name / "trials" / n / "value.json").read_text())["settings"] for n in "01"]
        assert [one["training"]["first_order_learning_rate"] for one in kept] == [0.05, None]


def test_two_values_that_do_not_go_together_are_told_before_anything_is_trained(
    labelled: Dataset, tmp_path: Path
) -> None:
    base = RankingRunSettings.model_validate({"ranking": {"kind": "cdanet", "extractor": MLP}, "training": FEW})
    space = {
        "training.domains": {"values": [["shop", "video"], ["shop", "news"]]},
        "ranking.targets": {"values": [["shop"], ["news"]]},
    }
    with pytest.raises(InputError) as caught:
        tune(labelled.path, tmp_path / "out", base, Search.model_validate({"space": space}), say=lambda _: None)
    assert str(caught.value) == (
        "search: space: with training.domains ['shop', 'video'], ranking.targets ['news']: ranking.targets: 'news' is "
        "not among training.domains (shop, video)"
    )
    assert not (tmp_path / "out").exists()


def test_what_the_settings_themselves_get_wrong_is_not_blamed_on_the_space(
    labelled: Dataset, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"^{tiny_dataset.path}: has no labelled rows"):
        tune(tiny_dataset.path, tmp_path / "out", BASE, GRID, say=lambda _: None)
    retrieval = read_settings(None, ["parameter_budget=1000"])
    with pytest.raises(InputError, match=r"^parameter_budget: there is no backbone"):
        tune(labelled.path, tmp_path / "out", retrieval, GRID, say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(labelled: Dataset, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=f"^{tmp_path}: holds other files and no search; give a new or empty folder$"):
        tune(labelled.path, tmp_path, BASE, GRID, say=lambda _: None)
    assert [file.name for file in tmp_path.iterdir()] == ["best.yaml"]
    assert (tmp_path / "best.yaml").read_text(encoding="utf-8") == "mine"
    with pytest.raises(InputError, match=r"best\.yaml: is a file; give the path of a folder"):
        tune(labelled.path, tmp_path / "best.yaml", BASE, GRID, say=lambda _: None)


def test_a_trial_is_called_by_the_number_of_its_folder(labelled: Dataset, tmp_path: Path) -> None:
    said: list[str] = []
    tune(labelled.path, tmp_path, BASE, GRID, say=said.append)
    assert [line.split(":")[0] for line in said[:2]] == ["trial 0", "trial 1"]
    assert sorted(folder.name for folder in (tmp_path / "trials").iterdir()) == ["0", "1"]
    assert [line.split()[1] for line in (tmp_path / "trials.md").read_text().splitlines()[2:]] == ["0", "1"]


def test_a_key_that_is_no_setting_is_named() -> None:
    with pytest.raises(InputError, match="'nets' is no section"):
        with_values(BASE, {"nets.dropout": 0.1})
    with pytest.raises(InputError, match="unknown setting"):
        with_values(BASE, {"ranking.dropuot": 0.1})


def test_a_kept_trial_counts_where_a_setting_was_added_since_and_left_alone(labelled: Dataset, tmp_path: Path) -> None:
    first = tune(labelled.path, tmp_path, BASE, GRID, say=lambda _: None)
    file = tmp_path / "trials" / "0" / "value.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["settings"]["training"]["checkpoint_steps"]
    file.write_text(json.dumps(kept | {"value": kept["value"] + 1}), encoding="utf-8")
    said: list[str] = []
    again = tune(labelled.path, tmp_path, BASE, GRID, say=said.append)
    assert said[0].startswith(f"trial 0: {kept['value'] + 1:.4f}")  # read, not trained again
    assert again.training.learning_rate == kept["settings"]["training"]["learning_rate"]
    assert again.training.checkpoint_steps == first.training.checkpoint_steps
    kept["settings"]["training"]["checkpoint_steps"] = 7
    file.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(InputError, match=r"trials.0: holds a trial of another search.*or delete "):
        tune(labelled.path, tmp_path, BASE, GRID, say=lambda _: None)
