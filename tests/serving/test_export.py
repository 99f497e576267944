"""What ONNX Runtime computes is what the models say; a copy that is not like its model makes no bundle."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.serving.bundles import CDANET, PERSONAL, click_model, new_bundle, two_tower
from torch import Tensor

from isthmus.batch import RankingFeatures
from isthmus.data.dataset import Dataset
from isthmus.data.features import ALL_SIDES, feature_sizes, ranking_sizes, table_sizes
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.serving.bundle_files import save_tensors
from isthmus.serving.engines import EagerRowScorer, EagerUserEncoder, OnnxRowScorer, OnnxUserEncoder, open_graph
from isthmus.serving.export import (
    SHARED_BYTES,
    TableRows,
    draw_features,
    export_user_tower,
    exported,
    largest_difference,
    require_parity,
)
from isthmus.serving.requests import RecommendRequest, ScoreRequest
from isthmus.serving.service import Service, open_service


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, with_onnx=True)
    return folder


@pytest.fixture(scope="module")
def both(bundle: Path) -> tuple[Service, Service]:
    return open_service(bundle, engine="eager"), open_service(bundle, engine="onnx")


def test_both_engines_give_the_same_lists_and_scores(both: tuple[Service, Service]) -> None:
    eager, onnx = both
    num_compared = 0
    for domain in eager.domains:
        for user in [*(f"u{number}" for number in range(20)), "nobody"]:
            request = RecommendRequest(domain, user=user, k=20)
            expected, found = eager.recommend(request), onnx.recommend(request)
            assert [item.item for item in found.items] == [item.item for item in expected.items]
            for one, other in zip(found.items, expected.items, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-6)
            num_compared += found.ordered_by == "click_probability"
        asked = ScoreRequest(domain, ("i1", "i2", "i3", "never"), user="u1")
        for scored, expected_score in zip(onnx.score(asked), eager.score(asked), strict=True):
            assert scored.probability == pytest.approx(expected_score.probability, rel=1e-5)
    assert num_compared > 20


def test_served_items_are_those_of_an_exact_search(both: tuple[Service, Service], tiny_dataset: Dataset) -> None:
    model, texts = two_tower(tiny_dataset), ["", *tiny_dataset.vocabulary("item")]
    for service in both:
        for domain, name in enumerate(service.domains):
            corpus = service.retriever.corpora[domain]
            row = service.view.users.row("u3")
            taken = service.view.stored(row)
            features = service.view.user_features(row, domain, taken, service.view.context({}))
            slices = DomainSlices.single(domain, 1, tiny_dataset.num_domains)
            with torch.inference_mode():
                score = (model.encode_user(features, slices) @ corpus.vectors.T)[0].numpy()
            score[np.isin(corpus.item_row, taken.item_row[taken.domain == domain])] = -np.inf
            best = corpus.item_row[np.argsort(-score, kind="stable")[:15]].tolist()
            answer = service.recommend(RecommendRequest(name, user="u3", k=15)).items
            assert {item.item for item in answer} == {texts[one] for one in best}


@pytest.mark.parametrize("engine", [0, 1])
def test_a_score_is_the_same_alone_and_beside_others(both: tuple[Service, Service], engine: int) -> None:
    items = tuple(f"i{number}" for number in range(40))
    together = both[engine].score(ScoreRequest("shop", items, user="u1"))
    turned = both[engine].score(ScoreRequest("shop", items[::-1], user="u1"))
    for item, one, other in zip(items, together, turned[::-1], strict=True):
        (alone,) = both[engine].score(ScoreRequest("shop", (item,), user="u1"))
        assert one.probability == pytest.approx(alone.probability, rel=1e-5)
        assert one.probability == pytest.approx(other.probability, rel=1e-5)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 64])
def test_copies_take_any_number_of_rows(bundle: Path, tiny_dataset: Dataset, num_rows: int) -> None:
    sizes = feature_sizes(tiny_dataset, "user", None)
    rows = TableRows.of(sizes, table_sizes(tiny_dataset, None, ("user", "context")))
    users = draw_features(sizes, rows, num_rows, torch.Generator().manual_seed(2))
    eager = EagerUserEncoder(two_tower(tiny_dataset).user_tower, num_domains=3, has_bias=True)
    copies = OnnxUserEncoder(exported(bundle / "retrieval", "user", 3))
    for domain in range(3):
        with torch.inference_mode():
            expected = eager(users, domain)
        assert copies(users, domain).shape == expected.shape
        assert torch.allclose(copies(users, domain), expected, atol=1e-5)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 64])
def test_one_row_of_the_user_stands_for_all(bundle: Path, labelled: Dataset, num_rows: int) -> None:
    sizes, tables = ranking_sizes(labelled, None), table_sizes(labelled, None, ALL_SIDES)
    generator = torch.Generator().manual_seed(3)
    sides = (sizes.user, sizes.item, sizes.row)
    drawn = [
        draw_features(side, TableRows.of(side, tables), count, generator)
        for side, count in zip(sides, (1, num_rows, num_rows), strict=True)
    ]
    once = RankingFeatures(*drawn)
    repeated = RankingFeatures(drawn[0].take(torch.zeros(num_rows, dtype=torch.int64)), *drawn[1:])
    eager = EagerRowScorer(click_model(labelled), num_domains=3)
    copies = OnnxRowScorer(exported(bundle / "ranking", "ranker", 3))
    for domain in range(3):
        with torch.inference_mode():
            expected = eager(repeated, domain)
            assert torch.allclose(eager(once, domain), expected, atol=1e-6)
        assert copies(once, domain).shape == (num_rows,)
        assert torch.allclose(copies(once, domain), expected, atol=1e-5)


def test_a_copy_unlike_its_model_is_refused_with_the_difference() -> None:
    def draw(num_rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.ones(num_rows)}

    def model(inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]

    assert require_parity(model, model, draw, "tower") == 0.0
    # |1.5 - 1| / (1 + 1)
    with pytest.raises(InputError, match=r"user tower of 'shop': its ONNX copy differs from the model by up to 0\.25"):
        require_parity(model, lambda inputs: inputs["x"] + 0.5, draw, "user tower of 'shop'")
    with pytest.raises(InputError, match="by up to nan"):
        require_parity(model, lambda inputs: inputs["x"] * torch.nan, draw, "tower")
    with pytest.raises(InputError, match="by up to nan"):  # as where a copy makes a row of none
        require_parity(model, lambda inputs: torch.ones(max(1, len(inputs["x"]))), draw, "tower")
    assert largest_difference(torch.tensor([0.0, 3.0]), torch.tensor([0.1, 3.0])) == pytest.approx(0.1)


def test_large_tables_are_read_from_the_weights_and_not_written_again(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = TwoTowerSettings(embedding_dim=512, initial_std=1.0)
    tower = two_tower(tiny_dataset, settings).user_tower
    save_tensors(tmp_path / "user.safetensors", tower.state_dict())
    tables = table_sizes(tiny_dataset, None, ("user", "context"))
    sizes = feature_sizes(tiny_dataset, "user", None)
    assert max(tables.values()) * 512 * 4 > SHARED_BYTES
    export_user_tower(tower, sizes, tables, domains=("a", "b", "c"), has_bias=True, folder=tmp_path)
    assert (tmp_path / "user-0.onnx").stat().st_size < SHARED_BYTES < (tmp_path / "user.safetensors").stat().st_size
    assert b"site-packages" not in (tmp_path / "user-0.onnx").read_bytes()
    (tmp_path / "user.safetensors").unlink()
    with pytest.raises(InputError, match=r"user-0\.onnx: ONNX Runtime cannot open it"):
        open_graph(tmp_path / "user-0.onnx")


def test_a_bundle_without_copies_is_served_by_pytorch(tiny_dataset: Dataset, tmp_path: Path) -> None:
    new_bundle(tmp_path / "plain", tiny_dataset)
    assert isinstance(open_service(tmp_path / "plain").retriever.encoder, EagerUserEncoder)
    with pytest.raises(InputError, match="has no ONNX copies"):
        open_service(tmp_path / "plain", engine="onnx")


def test_copies_serve_unless_told_otherwise(both: tuple[Service, Service], bundle: Path) -> None:
    assert isinstance(open_service(bundle).retriever.encoder, OnnxUserEncoder)
    assert isinstance(both[0].retriever.encoder, EagerUserEncoder)
    assert CDANET.gate == "sigmoid"
    assert PERSONAL.adaptation == "se"
    explained = both[1].recommend(RecommendRequest("shop", user="u3", explain=True))
    assert explained.field_weights is not None
