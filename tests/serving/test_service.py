"""The service: what is served is what was judged, filters hold inside the search, and every answer says its basis."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests.serving.bundles import CDANET, PERSONAL, click_model, new_bundle, two_tower

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.evaluation.retrieval import TwoTowerScorer
from isthmus.serving.attributes import Filter
from isthmus.serving.requests import Recommendation, RecommendRequest, ScoreRequest, UnknownItemError
from isthmus.serving.score import score_file
from isthmus.serving.service import Service, open_service

LATER = 2_000_000_000  # a time after the whole log


@pytest.fixture(scope="module")
def retrieval_only(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("retrieval") / "bundle"
    new_bundle(folder, tiny_dataset)
    return open_service(folder)


@pytest.fixture(scope="module")
def ranked(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Retrieval and ranking of two datasets, whose rows are numbered differently; `news` is not ranked."""
    folder = tmp_path_factory.mktemp("ranked") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, domains=("shop", "video"))
    return open_service(folder)


def names(answer: Recommendation) -> list[str]:
    return [item.item for item in answer.items]


def known_pairs(dataset: Dataset, user_row: int) -> set[tuple[int, int]]:
    """Item and domain of what a user took in training and validation."""
    return {
        (int(events.item_row[i]), int(events.domain[i]))
        for events in (dataset.events["train"], dataset.events["valid"])
        for i in range(events.num_rows)
        if events.user_row[i] == user_row
    }


def offline(dataset: Dataset, domain: int, user_row: int, k: int) -> list[str]:
    """The user's exact ranking of the corpus, what was taken in the domain left out, by the evaluation's own scorer."""
    scorer = TwoTowerScorer(two_tower(dataset), PERSONAL, dataset, "test")
    events = dataset.events["test"]
    row = next(i for i in range(events.num_rows) if events.user_row[i] == user_row and events.domain[i] == domain)
    score = scorer(domain, np.array([row]))[0].clone()
    corpus = dataset.corpus(domain)
    taken = [item for item, where in known_pairs(dataset, user_row) if where == domain]
    score[torch.from_numpy(np.isin(corpus, taken))] = -torch.inf
    texts = dataset.vocabulary("item")
    return [texts[corpus[p] - 1] for p in score.argsort(descending=True, stable=True)[:k].tolist()]


def some_test_rows(dataset: Dataset, every: int) -> list[tuple[int, int]]:
    """Domain and user row of some test positives of known users."""
    events = dataset.events["test"]
    rows = range(0, events.num_rows, every)
    return [(int(events.domain[i]), int(events.user_row[i])) for i in rows if events.user_row[i] > 0]


def test_the_served_list_is_the_exact_offline_ranking(retrieval_only: Service, tiny_dataset: Dataset) -> None:
    users = tiny_dataset.vocabulary("user")
    num_compared = 0
    for domain, user_row in some_test_rows(tiny_dataset, 17):
        answer = retrieval_only.recommend(
            RecommendRequest(tiny_dataset.schema.domain_names[domain], user=users[user_row - 1])
        )
        assert answer.basis == "user_history"
        assert answer.ordered_by == "retrieval_score"
        assert names(answer) == offline(tiny_dataset, domain, user_row, 10)
        num_compared += 1
    assert num_compared > 5


def test_an_inverted_file_serves_all_that_the_filters_leave(
    tiny_dataset: Dataset, retrieval_only: Service, tmp_path: Path
) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset, exact_below=5)
    served = open_service(tmp_path / "bundle")
    assert {record.kind for record in served.manifest.retrieval.corpora} == {"ivf"}
    asked = RecommendRequest("shop", user="u3", k=1000, filters=(Filter("price", least=10.0, most=60.0),))
    exact, found = retrieval_only.recommend(asked), served.recommend(asked)
    assert len(found.items) == exact.num_matching > 10
    assert set(names(found)) == set(names(exact))


def test_a_ranked_list_is_the_offline_order_of_retrievals_best(
    ranked: Service, tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path
) -> None:
    users = tiny_dataset.vocabulary("user")
    num_compared = 0
    for domain, user_row in some_test_rows(tiny_dataset, 37):
        name, user = tiny_dataset.schema.domain_names[domain], users[user_row - 1]
        if name == "news":
            continue
        retrieved = offline(tiny_dataset, domain, user_row, 15)
        rows = pa.table({"user_id": [user] * 15, "item_id": retrieved, "domain": [name] * 15, "time": [LATER] * 15})
        pq.write_table(rows, tmp_path / "rows.parquet")
        file, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
        score_file(click_model(labelled), labelled, CDANET.fields, file, out, kept_shares=(1.0, 1.0, 1.0))
        probability = np.array(pq.read_table(tmp_path / "out.parquet")["probability"])
        best = np.argsort(-probability, kind="stable")[:10]
        answer = ranked.recommend(RecommendRequest(name, user=user))
        assert answer.ordered_by == "click_probability"
        assert [item.score for item in answer.items] == pytest.approx(probability[best], rel=1e-5)
        assert names(answer) == [retrieved[place] for place in best.tolist()]
        assert [item.retrieval_rank for item in answer.items] == (best + 1).tolist()
        num_compared += 1
    assert num_compared > 3


def test_a_score_ignores_the_items_and_requests_beside_it(ranked: Service) -> None:
    items = tuple(f"i{number}" for number in range(0, 60, 3))
    together = ranked.score(ScoreRequest("shop", items, user="u3"))
    assert [one.item for one in together] == list(items)
    assert len({round(one.probability, 6) for one in together}) > 5
    for place in (0, 7, 19):
        alone = ranked.score(ScoreRequest("shop", items[place : place + 1], user="u3"))
        assert alone[0].probability == pytest.approx(together[place].probability, rel=1e-5)
    listed = ranked.recommend(RecommendRequest("shop", user="u3", k=5))
    again = ranked.score(ScoreRequest("shop", tuple(names(listed)), user="u3"))
    assert [one.probability for one in again] == pytest.approx([one.score for one in listed.items], rel=1e-5)


def test_a_domain_that_the_ranker_is_not_for_is_in_retrievals_order(ranked: Service, retrieval_only: Service) -> None:
    answer = ranked.recommend(RecommendRequest("news", user="u3"))
    assert answer.ordered_by != "click_probability"
    assert names(answer) == names(retrieval_only.recommend(RecommendRequest("news", user="u3")))
    with pytest.raises(InputError, match="'news': the bundle has no ranker for it; it ranks shop, video"):
        ranked.score(ScoreRequest("news", ("i1",), user="u3"))


def test_an_unknown_user_gets_the_domains_popular_items(ranked: Service, tiny_dataset: Dataset) -> None:
    corpus, count = tiny_dataset.corpus(1), np.asarray(tiny_dataset.item_count[1])
    best = corpus[np.argsort(-count[corpus], kind="stable")[:4]]
    texts = tiny_dataset.vocabulary("item")
    for asked in (RecommendRequest("video", user="nobody", k=4), RecommendRequest("video", k=4)):
        answer = ranked.recommend(asked)
        assert (answer.basis, answer.ordered_by) == ("popular", "popularity")
        assert names(answer) == [texts[row - 1] for row in best.tolist()]
        assert [item.score for item in answer.items] == pytest.approx(count[best] / count.sum())
        assert answer.items[0].retrieval_score is None


def test_filters_and_exclusions_hold_and_k_is_filled(retrieval_only: Service, tiny_dataset: Dataset) -> None:
    everything = retrieval_only.recommend(RecommendRequest("shop", user="u3", k=1000))
    assert len(everything.items) == everything.num_matching
    by_category = {item.item: item.attributes["category"] for item in everything.items}
    wanted = [str(by_category[item]) for item in names(everything)[-2:]]
    expected = [item for item in names(everything) if by_category[item] in wanted]
    filters = (Filter("category", any_of=(*wanted, "no such category")),)
    answer = retrieval_only.recommend(RecommendRequest("shop", user="u3", k=len(expected), filters=filters))
    assert names(answer) == expected
    left_out = (expected[0], "no such item")
    answer = retrieval_only.recommend(
        RecommendRequest("shop", user="u3", k=len(expected) - 1, filters=filters, exclude=left_out)
    )
    assert names(answer) == expected[1:]
    popular = retrieval_only.recommend(RecommendRequest("shop", k=3, filters=filters, exclude=left_out))
    assert {item.attributes["category"] for item in popular.items} <= set(wanted)
    assert expected[0] not in names(popular)
    none = retrieval_only.recommend(RecommendRequest("shop", user="u3", filters=(Filter("category", any_of=("x",)),)))
    assert (none.items, none.num_matching) == ((), 0)


def test_a_price_is_the_logs_own_and_a_range_has_its_ends(retrieval_only: Service, tiny_log: Path) -> None:
    table = pq.read_table(tiny_log.parent / "items.parquet").to_pydict()
    price = dict(zip(table["item_id"], table["price"], strict=True))
    answer = retrieval_only.recommend(RecommendRequest("shop", k=1000))
    assert {item.item: item.attributes["price"] for item in answer.items} == {i: price[i] for i in names(answer)}
    exact = answer.items[2]
    value = float(str(exact.attributes["price"]))
    only = retrieval_only.recommend(
        RecommendRequest("shop", k=1000, filters=(Filter("price", least=value, most=value),))
    )
    assert exact.item in names(only)
    assert {item.attributes["price"] for item in only.items} == {value}


def test_a_given_history_stands_in_for_a_user(retrieval_only: Service, tiny_dataset: Dataset) -> None:
    history = (("i1", "shop"), ("zzz", "shop"), ("i2", "shop"))
    answer = retrieval_only.recommend(RecommendRequest("shop", history=history, k=1000))
    assert answer.basis == "given_history"
    assert answer.unknown_items == ("zzz",)
    assert not {"i1", "i2"} & set(names(answer))
    unknown = retrieval_only.recommend(RecommendRequest("shop", history=(("zzz", "shop"),), k=3))
    assert (unknown.basis, unknown.unknown_items) == ("popular", ("zzz",))


def test_an_explanation_weighs_fields_other_domains_and_experts(ranked: Service) -> None:
    answer = ranked.recommend(RecommendRequest("shop", user="u3", k=3, explain=True))
    assert answer.field_weights is not None
    assert set(answer.field_weights) == {"user_id", "history"}
    assert all(0 < weight < 1 for weight in answer.field_weights.values())
    gates = [item.other_domains for item in answer.items]
    assert all(gate is not None and set(gate) == {"video", "news"} for gate in gates)
    for item in answer.items:
        assert item.part_weights is not None
        assert set(item.part_weights) == {"expert 1", "expert 2"}
        assert sum(item.part_weights.values()) == pytest.approx(1)
    assert answer.part_weights is None  # retrieval's tower has no network
    popular = ranked.recommend(RecommendRequest("shop", k=3, explain=True))
    assert (popular.field_weights, popular.part_weights, popular.items[0].part_weights) == (None, None, None)
    plain = ranked.recommend(RecommendRequest("shop", user="u3", k=3))
    assert plain.items[0].other_domains is None
    assert plain.items[0].part_weights is None


def test_an_answer_says_its_bundle_and_its_stages(ranked: Service) -> None:
    ticks = iter([0.0, 0.001, 0.003, 0.006, 0.01])
    answer = ranked.recommend(RecommendRequest("shop", user="u3"), clock=lambda: next(ticks))
    assert answer.bundle == ranked.manifest.version
    assert answer.timings_ms == {"read": 1.0, "retrieve": 2.0, "rank": 3.0, "show": 4.0, "total": 10.0}


def test_similar_items_are_nearest_in_direction(retrieval_only: Service) -> None:
    corpus = retrieval_only.retriever.corpora[0]
    vectors = corpus.vectors[:, :-1].double().numpy()  # without the bias
    texts = [retrieval_only.view.items.text(row) for row in corpus.item_row.tolist()]
    cosine = vectors @ vectors[4] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[4])
    expected = [place for place in np.argsort(-cosine).tolist() if place != 4][:5]
    found = retrieval_only.similar(texts[4], "shop", 5)
    assert [one.item for one in found] == [texts[place] for place in expected]
    assert [one.similarity for one in found] == pytest.approx(cosine[expected], abs=1e-5)
    assert len(retrieval_only.similar(texts[4], "shop", 1000)) == len(texts) - 1
    with pytest.raises(UnknownItemError, match="'zzz': domain 'shop' does not show it"):
        retrieval_only.similar("zzz", "shop")


MISTAKES: Sequence[tuple[RecommendRequest, str]] = (
    (RecommendRequest("shp"), "unknown domain 'shp'.*did you mean 'shop'"),
    (RecommendRequest("shop", k=0), "k: 0 is not in 1..1000"),
    (RecommendRequest("shop", k=1001), "k: 1001"),
    (RecommendRequest("shop", user="u1", history=()), "a user or a history, not both"),
    (RecommendRequest("shop", context={"hour": "9"}), "context.hour: unknown context field; known are none"),
    (RecommendRequest("shop", filters=(Filter("prise", least=1.0),)), "filters.prise.*did you mean 'price'"),
    (RecommendRequest("shop", filters=(Filter("price", any_of=("1",)),)), "filters.price: is a number"),
    (RecommendRequest("shop", filters=(Filter("category", least=1.0),)), "filters.category: is no number"),
)


@pytest.mark.parametrize(("request_", "message"), MISTAKES)
def test_a_mistake_is_named(retrieval_only: Service, request_: RecommendRequest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        retrieval_only.recommend(request_)


def test_recent_events_are_the_latest_of_a_users_history(
    tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path
) -> None:
    class Store:
        def recent(self, user: str) -> Sequence[tuple[str, str]]:
            return {"u3": [("i1", "shop")], "new": [("i1", "shop"), ("i2", "video")]}.get(user, [])

        def is_forgotten(self, user: str) -> bool:
            return user == "u5"

    new_bundle(tmp_path / "bundle", tiny_dataset, labelled)
    without, served = open_service(tmp_path / "bundle"), open_service(tmp_path / "bundle", events=Store())
    new = served.recommend(RecommendRequest("shop", user="new", k=1000))
    assert new.basis == "recent_events"
    assert "i1" not in names(new)
    as_history = without.recommend(RecommendRequest("shop", history=(("i1", "shop"), ("i2", "video")), k=1000))
    assert names(new) == names(as_history)
    assert served.recommend(RecommendRequest("shop", user="u3")).basis == "recent_events"
    assert without.recommend(RecommendRequest("shop", user="u5")).basis == "user_history"
    assert served.recommend(RecommendRequest("shop", user="u5")).basis == "popular"


def test_what_is_left_out_twice_counts_once(retrieval_only: Service) -> None:
    whole = retrieval_only.recommend(RecommendRequest("shop", user="u3", k=1000))
    first = whole.items[0].item
    less = retrieval_only.recommend(RecommendRequest("shop", user="u3", k=1000, exclude=(first, first)))
    assert less.num_matching == whole.num_matching - 1 == len(less.items)
    assert [item.item for item in less.items] == [item.item for item in whole.items[1:]]


def test_a_history_in_the_fallbacks_name_is_one_of_the_fallback(tiny_log: Path, tmp_path: Path) -> None:
    log = Path(shutil.copytree(tiny_log.parent, tmp_path / "log")) / "log.yaml"
    declared = yaml.safe_load(log.read_text())
    declared["unknown_domain"] = "shop"
    next(field for field in declared["fields"] if field["kind"] == "history")["scope"] = "own"
    log.write_text(yaml.safe_dump(declared))
    dataset = prepare(log, tmp_path / "dataset")
    new_bundle(tmp_path / "bundle", dataset)
    service = open_service(tmp_path / "bundle")
    shown = [dataset.vocabulary("item")[row - 1] for row in dataset.corpus(0).tolist()][:3]
    expected = service.recommend(RecommendRequest("shop", history=tuple((item, "shop") for item in shown), k=1000))
    assert expected.basis == "given_history"
    for asked, of_items in (("nowhere", "nowhere"), ("shop", "elsewhere"), ("nowhere", "shop")):
        history = tuple((item, of_items) for item in shown)
        answer = service.recommend(RecommendRequest(asked, history=history, k=1000))
        assert (answer.basis, names(answer)) == (expected.basis, names(expected))
        assert not {*names(answer)} & {*shown}
