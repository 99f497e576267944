"""Recommendations: the offline ranking is what is served, and every answer says what it rests on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from isthmus.data.dataset import Dataset
from isthmus.data.features import HistoryReader
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.evaluation.retrieval import TwoTowerScorer, evaluate_retrieval
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.serving.index_settings import AnyIndexSettings, ExactIndexSettings, HNSWIndexSettings, IVFIndexSettings
from isthmus.serving.recommend import Recommendations, Recommender
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import new_model

POPULAR = "popular items of the domain"
TRAINING = TrainingSettings(seed=0, epochs=1)
# A wide start, so that an untrained model tells users apart as a trained one does.
PERSONAL = TwoTowerSettings(embedding_dim=8, initial_std=1.0)


def recommender(
    dataset: Dataset, settings: TwoTowerSettings = PERSONAL, index: AnyIndexSettings | None = None
) -> Recommender:
    return Recommender(new_model(dataset, settings, TRAINING), settings, dataset, index or ExactIndexSettings())


@pytest.fixture(scope="module")
def own_dataset(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The simulated log again, but a history is of the own domain alone; news stands in for unknown domains."""
    content = yaml.safe_load(tiny_log.read_text())
    for field in content["fields"]:
        if field["kind"] == "history":
            field["scope"] = "own"
    content["unknown_domain"] = "news"
    content["events"]["files"] = [str(tiny_log.parent / name) for name in content["events"]["files"]]
    content["tables"]["items"]["files"] = [str(tiny_log.parent / "items.parquet")]
    folder = tmp_path_factory.mktemp("own")
    (folder / "log.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return prepare(folder / "log.yaml", folder / "dataset")


def known_items(dataset: Dataset, user_row: int, domain: int) -> list[int]:
    """What a user took in a domain, by training and validation."""
    return [
        int(events.item_row[i])
        for events in (dataset.events["train"], dataset.events["valid"])
        for i in range(events.num_rows)
        if events.user_row[i] == user_row and events.domain[i] == domain
    ]


def names(answer: Recommendations) -> list[str]:
    return [item.item for item in answer.items]


def user_of(dataset: Dataset, *, inside: Sequence[int], outside: Sequence[int] = ()) -> tuple[str, int]:
    """The first user with known positives in some domains and none in others: id and row."""
    texts = dataset.vocabulary("user")
    for row in range(1, dataset.num_users):
        if all(known_items(dataset, row, d) for d in inside) and not any(known_items(dataset, row, d) for d in outside):
            return texts[row - 1], row
    raise AssertionError("no such user")


def test_what_is_served_is_the_offline_exact_ranking(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset)
    events = tiny_dataset.events["test"]
    scorer = TwoTowerScorer(served.model, PERSONAL, tiny_dataset, "test")
    texts = ["", *tiny_dataset.vocabulary("item")]
    users = ["", *tiny_dataset.vocabulary("user")]
    num_compared = 0
    for row in range(0, events.num_rows, 7):
        domain, user_row = int(events.domain[row]), int(events.user_row[row])
        if user_row == 0:
            continue
        score = scorer(domain, np.array([row]))[0].clone()
        corpus = tiny_dataset.corpus(domain)
        known = known_items(tiny_dataset, user_row, domain)
        score[torch.from_numpy(np.isin(corpus, known))] = -torch.inf
        best = score.argsort(descending=True, stable=True)[:10]
        answer = served.recommend(tiny_dataset.schema.domain_names[domain], user=users[user_row], k=10)
        assert names(answer) == [texts[corpus[place]] for place in best.tolist()]
        assert [item.score for item in answer.items] == pytest.approx(score[best].tolist(), abs=1e-5)
        num_compared += 1
    assert num_compared > 20


def test_corpus_recall_is_the_share_of_positives_that_are_served(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset)
    scorer = TwoTowerScorer(served.model, PERSONAL, tiny_dataset, "test")
    result = evaluate_retrieval(scorer, tiny_dataset, "test")
    events, texts, users = tiny_dataset.events["test"], tiny_dataset.vocabulary("item"), tiny_dataset.vocabulary("user")
    hits = []
    for row in range(events.num_rows):
        domain = tiny_dataset.schema.domain_names[int(events.domain[row])]
        answer = served.recommend(domain, user=users[int(events.user_row[row]) - 1], k=10)
        hits.append(float(texts[int(events.item_row[row]) - 1] in names(answer)))
    assert result.metrics["corpus_recall@10"].tolist() == hits
    assert 0 < sum(hits) < len(hits)


INDEXES = (
    ExactIndexSettings(),
    IVFIndexSettings(num_lists=4, num_probes=4),
    IVFIndexSettings(num_lists=1000),  # more lists than items: searched exactly
    HNSWIndexSettings(),
)


@pytest.mark.parametrize("index", INDEXES)
def test_each_index_serves_the_same_and_fills_k_without_what_was_taken(
    tiny_dataset: Dataset, index: AnyIndexSettings
) -> None:
    user, row = user_of(tiny_dataset, inside=[0])
    texts = ["", *tiny_dataset.vocabulary("item")]
    taken = {texts[item] for item in known_items(tiny_dataset, row, 0)}
    corpus_size = len(tiny_dataset.corpus(0))
    answer = recommender(tiny_dataset, index=index).recommend("shop", user=user, k=10)
    assert names(answer) == names(recommender(tiny_dataset).recommend("shop", user=user, k=10))
    assert len(answer.items) == 10
    assert not taken & set(names(answer))
    everything = recommender(tiny_dataset, index=index).recommend("shop", user=user, k=1000)
    assert len(everything.items) == corpus_size - len(taken)
    assert not taken & set(names(everything))


def test_scores_fall_and_titles_are_given(tiny_dataset: Dataset) -> None:
    user, _ = user_of(tiny_dataset, inside=[0])
    answer = recommender(tiny_dataset).recommend("shop", user=user, k=5)
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    assert all(item.title is not None and item.title.startswith(f"Item {item.item[1:]} ") for item in answer.items)
    assert answer.basis == "user history"
    assert answer.domain == "shop"


def test_an_unknown_user_or_none_gets_the_popular_items_and_is_told(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset)
    train = tiny_dataset.events["train"]
    in_shop = train.item_row[train.domain[:] == 0]
    texts = ["", *tiny_dataset.vocabulary("item")]
    counts = {item: int((in_shop == item).sum()) for item in set(in_shop.tolist())}
    expected = sorted(counts, key=lambda item: (-counts[item], item))[:4]
    for answer in (
        served.recommend("shop", user="nobody", k=4),
        served.recommend("shop", k=4),
        served.recommend("shop", history=[], k=4),
    ):
        assert answer.basis == POPULAR
        assert names(answer) == [texts[item] for item in expected]
        assert answer.items[0].score == pytest.approx(counts[expected[0]] / len(in_shop))


def test_a_user_of_another_domain_is_known_only_where_histories_cross(
    tiny_dataset: Dataset, own_dataset: Dataset
) -> None:
    user, _ = user_of(tiny_dataset, inside=[0], outside=[1])
    assert recommender(tiny_dataset).recommend("video", user=user).basis == "user history"
    assert recommender(own_dataset).recommend("video", user=user).basis == POPULAR
    assert recommender(own_dataset).recommend("shop", user=user).basis == "user history"


def test_a_given_history_serves_as_that_of_a_user_with_these_items(tiny_dataset: Dataset) -> None:
    settings = TwoTowerSettings(embedding_dim=8, initial_std=1.0, fields=("history", "item_id"))
    served = recommender(tiny_dataset, settings)
    user, row = user_of(tiny_dataset, inside=[0], outside=[1, 2])
    history = HistoryReader(tiny_dataset)
    texts = ["", *tiny_dataset.vocabulary("item")]
    items = [texts[int(item)] for item in history.lists(history.span(np.array([row]), "test"), None)[0]]
    by_user, by_items = served.recommend("shop", user=user, k=8), served.recommend("shop", history=items, k=8)
    assert names(by_items) == names(by_user)
    assert by_items.basis == "given history"
    assert not set(items) & set(names(by_items))


def test_unknown_items_of_a_given_history_are_named_and_left_out(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset)
    first, second = tiny_dataset.vocabulary("item")[:2]
    answer = served.recommend("shop", history=[first, "zzz", second, "yyy"], k=5)
    assert answer.unknown_items == ("zzz", "yyy")
    assert answer.items == served.recommend("shop", history=[first, second], k=5).items
    with pytest.raises(InputError, match="no item of it is known to the model"):
        served.recommend("shop", history=["zzz", "yyy"])


def test_wrong_requests_are_refused(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset)
    with pytest.raises(InputError, match=r"unknown domain 'shp'.*did you mean 'shop'\?"):
        served.recommend("shp", user="u1")
    with pytest.raises(InputError, match="not both"):
        served.recommend("shop", user="u1", history=["i1"])
    with pytest.raises(InputError, match="k: 0 is not a number of items"):
        served.recommend("shop", user="u1", k=0)
    no_history = TwoTowerSettings(embedding_dim=4, fields=("user_id", "item_id"))
    with pytest.raises(InputError, match="the model reads no history"):
        recommender(tiny_dataset, no_history).recommend("shop", history=["i1"])


def test_a_model_without_histories_knows_the_users_of_training(tiny_dataset: Dataset) -> None:
    served = recommender(tiny_dataset, TwoTowerSettings(embedding_dim=4, fields=("user_id", "item_id")))
    user, _ = user_of(tiny_dataset, inside=[0])
    assert served.recommend("shop", user=user).basis == "user history"
    assert served.recommend("shop", user="nobody").basis == POPULAR


def test_an_unknown_domain_falls_back_where_the_schema_says_so(own_dataset: Dataset) -> None:
    answer = recommender(own_dataset).recommend("radio", k=3)
    assert answer.domain == "news"
    assert names(answer) == names(recommender(own_dataset).recommend("news", k=3))


def test_all_users_get_in_one_file_what_each_would_get(tiny_dataset: Dataset, tmp_path: Path) -> None:
    served = recommender(tiny_dataset)
    out = tmp_path / "new" / "all.parquet"
    num_rows = served.recommend_all(out, k=3, block=16)
    table = pq.read_table(out)
    assert table.column_names == ["user", "domain", "rank", "item", "score"]
    assert table.num_rows == num_rows == 3 * 3 * (tiny_dataset.num_users - 1)  # histories cross: all users everywhere
    lines = table.to_pylist()
    for start in range(0, num_rows, 3 * 11):
        own = lines[start : start + 3]
        answer = served.recommend(own[0]["domain"], user=own[0]["user"], k=3)
        assert [(line["rank"], line["item"]) for line in own] == list(enumerate(names(answer), start=1))
        assert [line["score"] for line in own] == pytest.approx([item.score for item in answer.items], abs=1e-5)
    assert [entry.name for entry in out.parent.iterdir()] == ["all.parquet"]


def test_one_domain_for_all_of_its_own_users(own_dataset: Dataset, tmp_path: Path) -> None:
    recommender(own_dataset).recommend_all(tmp_path / "news.parquet", k=2, domain="news")
    table = pq.read_table(tmp_path / "news.parquet")
    events = [own_dataset.events["train"], own_dataset.events["valid"]]
    rows = {int(user) for e in events for user in e.user_row[e.domain[:] == 2]} - {0}
    assert set(table["domain"].to_pylist()) == {"news"}
    texts = ["", *own_dataset.vocabulary("user")]
    assert set(table["user"].to_pylist()) == {texts[row] for row in rows}


def test_a_failed_batch_leaves_the_old_file(tiny_dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    out.write_text("old")
    served = recommender(tiny_dataset)
    with torch.no_grad():
        next(served.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="finite"):
        served.recommend_all(out)
    assert out.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["all.parquet"]


def test_context_fields_stand_at_their_unseen_value(tiny_log: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_log.parent / "events.parquet")
    number = np.arange(events.num_rows)
    events = events.append_column("device", pa.array(np.array(["phone", "desk"])[number % 2]))
    events = events.append_column("tags", pa.array(np.array(["a|b", "c"])[number % 2]))
    events = events.append_column("hour", pa.array(number % 24 + 0.5))
    pq.write_table(events, tmp_path / "events.parquet")
    content = yaml.safe_load(tiny_log.read_text())
    content["tables"]["items"]["files"] = [str(tiny_log.parent / "items.parquet")]
    for name, kind in (("device", "categorical"), ("tags", "multi_valued"), ("hour", "number")):
        content["fields"].append({"name": name, "side": "context", "kind": kind})
    (tmp_path / "log.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    dataset = prepare(tmp_path / "log.yaml", tmp_path / "dataset")

    served = recommender(dataset)
    features = served._features(np.array([1, 2]), 0)
    assert features.categorical.tolist() == [[1, 0], [2, 0]]  # the user, and no device
    assert features.bags[1].offsets.tolist() == [0, 0, 0]  # no tags
    assert features.number.tolist() == [[0.0], [0.0]]  # the mean hour
    user, _ = user_of(dataset, inside=[0])
    alone = served.recommend("shop", user=user, k=3)
    served.recommend_all(tmp_path / "all.parquet", k=3, domain="shop")
    lines = [line for line in pq.read_table(tmp_path / "all.parquet").to_pylist() if line["user"] == user]
    assert [line["item"] for line in lines] == names(alone)
