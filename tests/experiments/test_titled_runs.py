"""Both looks into the models on few books and movies; the real data is read by nobody here."""

import json
from pathlib import Path

import pytest
import torch
from tests.small_books_and_movies import NUM_BOOKS, NUM_MOVIES, write_native

import isthmus
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.experiments import cdanet_figure_2, cdanet_table_6
from isthmus.experiments.titled_runs import (
    WITHOUT_TITLES,
    base_row,
    item_titles,
    main_row,
    prepared,
    title_vectors,
    trained,
    without_disambiguation,
)
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings


def test_one_training_serves_both_and_started_again_nothing_is_trained(tmp_path: Path) -> None:
    data, out = write_native(tmp_path / "native"), tmp_path / "out"
    said: list[str] = []
    study = cdanet_table_6.reproduce(data, out, num_seeds=3, quick=True, say=said.append)
    lists = cdanet_figure_2.reproduce(data, out, num_seeds=3, quick=True, say=said.append)
    assert [line.split(" ")[0] for line in said] == ["preparing", "[1/2]", "[2/2]", "1", "[1/1]"]
    assert {file.name for file in study.parent.iterdir()} == {"table.md", "table.json"}
    assert {file.name for file in lists.parent.iterdir()} == {"table.md", "table.json", "figure.png"}
    content = json.loads(study.with_suffix(".json").read_text())
    assert content["num_users_of_both"] == 25
    assert 0 < content["num_users"] <= 25
    assert content["num_book_rows"] >= 15 * content["num_users"]
    assert len(content["rows"]) == 2 * 4 + 3
    side_by_side = json.loads(lists.with_suffix(".json").read_text())
    assert [row["domain"] for row in side_by_side["domains"]] == ["Books", "Movies_and_TV"]
    before = study.read_text(), lists.read_text()
    said.clear()
    cdanet_table_6.reproduce(data, out, num_seeds=3, quick=True, say=said.append)
    isthmus.reproduce("cdanet-figure-2", data, out, quick=True)
    assert said == ["2 of 2 runs are finished already"]
    assert before == (study.read_text(), lists.read_text())


def test_fewer_than_one_seed_is_an_error(tmp_path: Path) -> None:
    dataset = prepared(write_native(tmp_path / "native"), tmp_path / "out", lambda _: None)
    with pytest.raises(InputError, match="seeds: 0"):
        trained([base_row(quick=True)], dataset, 0, tmp_path / "out", quick=False, say=lambda _: None)


def test_the_model_that_titles_judge_does_not_read_them_and_base_differs_in_translation_alone() -> None:
    blind, main, base = (
        main_row(with_titles=False, quick=False),
        main_row(with_titles=True, quick=False),
        base_row(quick=False),
    )
    assert blind.settings.ranking.fields == WITHOUT_TITLES
    assert "words" not in WITHOUT_TITLES
    assert isinstance(main.settings.ranking, CDAnetSettings)
    assert isinstance(base.settings.ranking, CTRSettings)
    assert main.settings.ranking.fields is None
    assert base.settings.ranking.fields is None
    assert main.settings.ranking.extractor == base.settings.ranking.backbone
    shared = ("embedding_dim", "latent_dim", "tower_dims", "dropout", "initial_std", "linear")
    ours, theirs = main.settings.ranking.model_dump(), base.settings.ranking.model_dump()
    assert [ours[name] for name in shared] == [theirs[name] for name in shared]
    assert main.settings.training == base.settings.training == blind.settings.training


@pytest.mark.parametrize(
    ("title", "expected"),
    [("Dune (1984 film)", "Dune"), ("Dune (novel)", "Dune"), ("M (I) of Paris", "M (I) of Paris"), ("Dune", "Dune")],
)
def test_brackets_at_the_end_of_a_title_are_left_out(title: str, expected: str) -> None:
    assert without_disambiguation(title) == expected


def test_a_title_and_its_namesake_have_cosine_1_whatever_stands_in_brackets_and_no_title_has_none() -> None:
    # Five words in five titles of which two are alike: four dimensions hold all there is.
    vectors = title_vectors(["", "Dune (novel)", "Heat", "Dune (1984 film)", "Alien", "Big Fish"], dim=4)
    cosine = vectors @ vectors.T
    assert cosine[1].tolist() == pytest.approx([0, 1, 0, 1, 0, 0], abs=1e-5)
    assert torch.equal(cosine[0], torch.zeros(6))


def test_every_item_has_its_title(tmp_path: Path) -> None:
    dataset: Dataset = prepared(write_native(tmp_path / "native"), tmp_path / "out", lambda _: None)
    titles, ids = item_titles(dataset), ["", *dataset.vocabulary("item")]
    expected = {"B07": "Story word7 (novel)", "M07": "Story word7 (film)"}
    assert {item: titles[ids.index(item)] for item in expected} == expected
    assert len(titles) == 1 + NUM_BOOKS + NUM_MOVIES
