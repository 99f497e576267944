"""A request's features are those of a scored file: context, row fields, statistics, and histories of every scope."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.serving.bundles import CDANET, PERSONAL, click_model, new_bundle, rich_log

from isthmus.data.dataset import Dataset, Lists
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.serving.drift import DriftMonitor, bins_of
from isthmus.serving.drift_reference import measured
from isthmus.serving.requests import RecommendRequest, ScoreRequest
from isthmus.serving.score import score_file
from isthmus.serving.service import Service, open_service

LATER = 2_000_000_000
CONTEXT: dict[str, Any] = {"device": "phone", "tags": ["b", "new", "a"], "hour": 7.5, "slot": "top"}
CLOCKS = ("with a clock", "without a clock")


@pytest.fixture(scope="module", params=CLOCKS)
def rich(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Service]:
    """The dataset, and a bundle of retrieval and ranking on it whose ranker takes retrieval's score as `found`."""
    folder = tmp_path_factory.mktemp("rich")
    dataset = prepare(rich_log(folder, has_clock=request.param == "with a clock"), folder / "dataset")
    new_bundle(folder / "bundle", dataset, dataset, score_field="found", kept_shares=shares(dataset))
    return dataset, open_service(folder / "bundle")


def shares(dataset: Dataset) -> tuple[float, ...]:
    """As if training had kept all negatives of the first domain, half of the second's, a third of the third's."""
    return tuple(1 / (number + 1) for number in range(dataset.num_domains))


def scored(dataset: Dataset, rows: dict[str, list[Any]], folder: Path) -> list[float]:
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    file, out = folder / "rows.parquet", folder / "out.parquet"
    score_file(click_model(dataset), dataset, CDANET.fields, file, out, kept_shares=shares(dataset))
    probabilities: list[float] = pq.read_table(folder / "out.parquet")["probability"].to_pylist()
    return probabilities


def test_a_served_probability_is_that_of_a_scored_file(rich: tuple[Dataset, Service], tmp_path: Path) -> None:
    dataset, service = rich
    num_compared = 0
    for domain in dataset.schema.domain_names:
        for user in ("u1", "u5", "u9", "nobody"):
            answer = service.recommend(RecommendRequest(domain, user=user, k=12, context=CONTEXT))
            if answer.basis == "popular":
                continue
            count = len(answer.items)
            rows: dict[str, list[Any]] = {
                "user_id": [user] * count,
                "item_id": [item.item for item in answer.items],
                "domain": [domain] * count,
                "time": [LATER] * count,
                "device": ["phone"] * count,
                "tags": ["b|new|a"] * count,
                "hour": [7.5] * count,
                "slot": ["top"] * count,
                "found": [item.retrieval_score for item in answer.items],
            }
            expected = scored(dataset, rows, tmp_path)
            assert [item.score for item in answer.items] == pytest.approx(expected, rel=1e-5)
            assert expected == sorted(expected, reverse=True)
            assert len({round(value, 6) for value in expected}) > count // 2
            num_compared += 1
    assert num_compared > 4


def test_context_changes_the_scores_and_may_be_left_out(rich: tuple[Dataset, Service]) -> None:
    _, service = rich
    assert service.context_names == ["device", "hour", "slot", "tags"]  # `found` is computed, not asked for
    probabilities = {
        name: service.score(ScoreRequest("shop", ("i1", "i2"), user="u1", context=context))[0].probability
        for name, context in (("none", {}), *((name, {name: CONTEXT[name]}) for name in CONTEXT))
    }
    assert len({round(value, 7) for value in probabilities.values()}) == 5
    unseen = service.score(ScoreRequest("shop", ("i1", "i2"), user="u1", context={"device": "fridge", "tags": []}))
    assert unseen[0].probability == pytest.approx(probabilities["none"])


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"hour": "7"}, "context.hour: '7' is not a number"),
        ({"device": ["phone"]}, r"context.device: \['phone'\] is not a text"),
        ({"device": 1.5}, "context.device: 1.5 is not a text"),
        ({"tags": "a"}, "context.tags: 'a' is not a list"),
        ({"found": 1.0}, "context.found: unknown context field"),
    ],
)
def test_a_context_value_of_another_kind_is_named(
    rich: tuple[Dataset, Service], context: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rich[1].recommend(RecommendRequest("shop", user="u1", context=context))


def test_an_item_outside_the_corpus_is_scored_without_a_retrieval_score(rich: tuple[Dataset, Service]) -> None:
    dataset, service = rich
    texts = dataset.vocabulary("item")
    outside = next(t for n, t in enumerate(texts, start=1) if n not in dataset.corpus(2).tolist())
    (one,) = service.score(ScoreRequest("news", (outside,), user="u1"))
    assert 0 < one.probability < 1
    assert one.is_known


def test_a_training_rows_context_is_read_as_that_row(rich: tuple[Dataset, Service]) -> None:
    dataset, service = rich
    assert service.ranker is not None
    assert dataset.impressions is not None
    view, rows, num_compared = service.ranker.view, dataset.impressions["train"], 0
    for row in range(0, rows.num_rows, 7):
        again = view.context(view.context_of(rows, row)).context
        for name in view.context_fields:
            column, found = rows.context[name], again[name]
            if isinstance(column, Lists):
                assert isinstance(found, Lists)
                listed = column.values[int(column.offsets[row]) : int(column.offsets[row + 1])].tolist()
                assert found.values.tolist() == listed
            else:
                assert isinstance(found, np.ndarray)
                assert found[0] == pytest.approx(float(column[row]), abs=1e-5)
            num_compared += 1
    assert num_compared > 50


def test_a_context_that_changes_in_one_domain_is_drift_there(rich: tuple[Dataset, Service]) -> None:
    dataset, service = rich
    reference = measured(service, dataset, dataset, num_rows=60, seed=0)
    assert service.drift is None
    shop = reference["shop"]
    assert {"context.device", "context.hour", "context.slot", "context.tags", "history", "probability"} <= set(shop)
    assert set(shop["context.device"].values or ()) == {"phone", "desk"}
    told: dict[tuple[str, str], float] = {}
    service.drift = DriftMonitor(reference, lambda *one: told.update({one[:2]: one[2]}), least=60, every=60)
    for number in range(60):
        for domain in ("shop", "video"):
            device = ("phone", "desk")[number % 2] if domain == "video" else "watch"
            service.recommend(RecommendRequest(domain, user=f"u{number}", context={**CONTEXT, "device": device}))
    service.drift = None
    assert told["shop", "context.device"] > 1
    assert told["video", "context.device"] < 0.2
    assert told["video", "context.hour"] > 1  # always 7.5


MISTAKEN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"hour": "abc"}, "context.hour: 'abc' is not a number"),
    ({"hour": ["a"]}, r"context.hour: \['a'\] is not a number"),
    ({"hour": True}, "context.hour: True is not a number"),
    ({"hour": 10**400}, "context.hour: no number that the model can read; give a finite one"),
    ({"hour": 1e308}, "context.hour: no number that the model can read"),
    ({"hour": -1e40}, "context.hour: no number that the model can read"),
    ({"hour": float("nan")}, "context.hour: no number that the model can read"),
    ({"device": 3.5}, "context.device: 3.5 is not a text"),
    ({"slot": ["top"]}, r"context.slot: \['top'\] is not a text"),
    ({"tags": 3}, "context.tags: 3 is not a list"),
    ({"hours": 3}, "context.hours: unknown context field; did you mean 'hour'"),
)


@pytest.mark.parametrize(("context", "message"), MISTAKEN)
def test_a_context_is_checked_alike_whoever_asks(
    rich: tuple[Dataset, Service], context: dict[str, Any], message: str
) -> None:
    asked: tuple[dict[str, Any], ...] = ({"user": "u1"}, {"user": "nobody"}, {"history": (("i1", "shop"),)}, {})
    for user in asked:
        with pytest.raises(InputError, match=message):
            rich[1].recommend(RecommendRequest("shop", context=context, **user))
        with pytest.raises(InputError, match=message):
            rich[1].score(ScoreRequest("shop", ("i1",), context=context, **user))


def test_what_only_one_model_reads_is_checked_too(tmp_path: Path) -> None:
    dataset = prepare(rich_log(tmp_path), tmp_path / "dataset")
    without = tuple(field.name for field in dataset.schema.fields if field.name not in ("hour", "device", "slot"))
    settings = PERSONAL.model_copy(update={"fields": without})
    new_bundle(tmp_path / "bundle", dataset, dataset, settings=settings, drift_rows=20)
    service = open_service(tmp_path / "bundle", on_drift=lambda *_: None)
    assert "hour" not in service.view.context_fields
    for user in ("u1", "nobody"):
        with pytest.raises(InputError, match="'abc' is not a number"):
            service.recommend(RecommendRequest("shop", user=user, context={"hour": "abc"}))
        assert service.recommend(RecommendRequest("shop", user=user, context=CONTEXT)).items


def test_a_score_that_is_no_number_is_never_answered(
    rich: tuple[Dataset, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service = rich
    for name in ("encoder", "scorer"):
        of = service.retriever if name == "encoder" else service.ranker
        plain = getattr(of, name)
        with monkeypatch.context() as patch:
            patch.setattr(of, name, lambda *given, plain=plain: plain(*given) * torch.inf)
            for context in ({"hour": 9.5}, {}):
                refusal = pytest.raises(InputError, match=r"context\.hour: so far from the numbers of training")
                with refusal if context else pytest.raises(ArithmeticError):
                    service.recommend(RecommendRequest("shop", user="u1", context=context))
                with refusal if context else pytest.raises(ArithmeticError):
                    service.score(ScoreRequest("shop", ("i1",), user="u1", context=context))


def test_a_text_where_training_had_no_value_is_no_drift_and_no_error() -> None:
    assert bins_of([None, None]).place("phone") == bins_of([None]).place(3.0) == 0
