"""Shards of a corpus, merged, answer as the whole does."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle, rich_log

import isthmus
from isthmus.cli import main
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.serving.app import new_app
from isthmus.serving.attributes import Filter
from isthmus.serving.bundle_files import Shard
from isthmus.serving.merge import merge, read_answer
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.serve_settings import ServeSettings
from isthmus.serving.service import Service, open_service

NUM_SHARDS = 3
CANDIDATES = 15  # of the small bundles


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("merge")
    return prepare(rich_log(folder), folder / "dataset")


@pytest.fixture(scope="module", params=["ranked by retrieval's score too", "not ranked"])
def places(request: pytest.FixtureRequest, rich: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle, and then its shards."""
    folder, is_ranked = tmp_path_factory.mktemp("shards"), request.param != "not ranked"
    names = [folder / "whole", *(folder / str(number) for number in range(NUM_SHARDS))]
    parts = [None, *(Shard(place=number, count=NUM_SHARDS) for number in range(NUM_SHARDS))]
    for name, shard in zip(names, parts, strict=True):
        ranking, score = (rich, "found") if is_ranked else (None, None)
        new_bundle(name, rich, ranking, score_field=score, domains=("shop", "video"), shard=shard)
    return names


@pytest.fixture(scope="module")
def services(places: list[Path]) -> tuple[Service, list[Service]]:
    whole, *shards = map(open_service, places)
    return whole, shards


REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"user": "nobody"},
    *({"user": f"u{number}"} for number in range(12)),
    {"user": "u3", "exclude": ("i1", "i5", "i6")},
    {"user": "u3", "filters": (Filter("price", most=20.0),)},
    {"history": (("i1", "shop"), ("i2", "video"))},
    {"user": "u4", "context": {"hour": 3.5, "device": "phone"}},
)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_what_the_shards_find_is_what_the_whole_finds(services: tuple[Service, list[Service]], k: int) -> None:
    whole, shards = services
    bases = set()
    for domain in whole.domains:
        for asked in REQUESTS:
            expected = whole.recommend(RecommendRequest(domain, k=k, **asked))
            deep = RecommendRequest(domain, k=max(k, CANDIDATES), **asked)
            merged = merge([shard.recommend(deep) for shard in shards], k, CANDIDATES)
            assert [item.item for item in merged.items] == [item.item for item in expected.items]
            for one, other in zip(merged.items, expected.items, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-5)
                assert one.retrieval_rank == other.retrieval_rank
                assert replace(one, score=0.0, retrieval_score=None) == replace(other, score=0.0, retrieval_score=None)
            assert merged.num_matching == expected.num_matching
            assert (merged.basis, merged.ordered_by) == (expected.basis, expected.ordered_by)
            bases.add((merged.basis, merged.ordered_by))
    assert {basis for basis, _ in bases} == {"user_history", "given_history", "popular"}
    assert {order for _, order in bases} >= {"popularity", "retrieval_score"}


def test_shards_divide_the_corpus_and_nothing_else(services: tuple[Service, list[Service]], places: list[Path]) -> None:
    whole, shards = services
    for domain in range(len(whole.domains)):
        rows = [set(shard.retriever.corpora[domain].item_row.tolist()) for shard in shards]
        assert set.union(*rows) == set(whole.retriever.corpora[domain].item_row.tolist())
        assert sum(map(len, rows)) == len(whole.retriever.corpora[domain].item_row)
        for number, own in enumerate(rows):
            assert {row % NUM_SHARDS for row in own} == {number}
    assert [shard.manifest.retrieval.shard for shard in shards] == [Shard(place=n, count=3) for n in range(NUM_SHARDS)]
    assert '"shard"' not in (places[0] / "manifest.json").read_text()  # bundles of before are still as they were


def test_answers_over_http_are_merged(places: list[Path], services: tuple[Service, list[Service]]) -> None:
    body = {"domain": "shop", "user": "u3", "k": CANDIDATES}
    with ExitStack() as stack:
        clients = [stack.enter_context(TestClient(new_app(ServeSettings(place)))) for place in places[1:]]
        answers = [client.post("/v1/recommend", json=body).content for client in clients]
        assert clients[1].get("/v1/domains").json()["shard"] == {"place": 1, "count": 3}
        refused = clients[0].post("/v1/recommend", json={"domain": "shp"}).content
    merged = merge([read_answer(answer) for answer in answers], 5, CANDIDATES)
    expected = services[0].recommend(RecommendRequest("shop", user="u3", k=5))
    assert [item.item for item in merged.items] == [item.item for item in expected.items]
    assert merged.request is None
    assert merged.bundle.split() == [read_answer(answer).bundle for answer in answers]
    with pytest.raises(InputError, match="not an answer of /v1/recommend"):
        read_answer(refused)


def test_answers_of_different_requests_are_not_merged(services: tuple[Service, list[Service]]) -> None:
    first, second, _ = services[1]
    answer = first.recommend(RecommendRequest("shop", user="u3"))
    with pytest.raises(InputError, match="domain is 'shop' of one and 'video' of another"):
        merge([answer, second.recommend(RecommendRequest("video", user="u3"))], 5)
    with pytest.raises(InputError, match="basis is 'user_history' of one and 'popular' of another"):
        merge([answer, second.recommend(RecommendRequest("shop"))], 5)
    with pytest.raises(InputError, match="none given"):
        merge([], 5)


def test_the_verb_makes_a_shard(tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    isthmus.train(tiny_dataset.path, tmp_path / "run", overrides=["training.epochs=1", "retrieval.embedding_dim=4"])
    words = ["bundle", str(tmp_path / "bundle"), "--retrieval", str(tmp_path / "run"), "--drift-rows", "0", "--no-onnx"]
    assert main([*words, "--shard", "1/2"]) == 0
    assert open_service(tmp_path / "bundle").manifest.retrieval.shard == Shard(place=1, count=2)
    assert main([*words, "--shard", "2/2"]) == 2
    assert "shard: 2/2 is none; of n there are 0/n to (n - 1)/n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--shard", "half"])
    assert "'half' is not I/N, such as 0/4" in capsys.readouterr().err


def test_a_shard_that_is_none_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    for shard in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(InputError, match=r"is none; of n there are 0/n"):
            isthmus.bundle(tmp_path / "run", tmp_path / "bundle", shard=shard)
    with pytest.raises(InputError, match=r"domain '\w+' has no item in 0 of 1000; make fewer shards"):
        new_bundle(tmp_path / "bundle", tiny_dataset, shard=Shard(place=0, count=1000))
