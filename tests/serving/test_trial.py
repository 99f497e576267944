"""Experiments in serving, and the logs of what was shown and what came of it."""

import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle
from tests.serving.clients import client

from isthmus.abtest.assignment import Experiment, Variant, assign
from isthmus.abtest.logs import FEEDBACK, read_impressions
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.serving.row_log import RowLog
from isthmus.serving.trial import Trial

USERS = [f"u{number}" for number in range(12)]


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "bundle"
    new_bundle(folder, tiny_dataset, labelled)
    return folder


@pytest.fixture(scope="module")
def unranked(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "unranked"
    new_bundle(folder, tiny_dataset)
    return folder


def ask(opened: TestClient, user: str) -> dict[str, Any]:
    answer = opened.post("/v1/recommend", json={"domain": "shop", "user": user, "k": 3})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["request"] == answer.headers["x-request-id"]
    return found


def test_each_user_gets_the_variant_that_the_hash_says(bundle: Path, unranked: Path) -> None:
    variants = (
        Variant(name="as is", share=0.4),
        Variant(name="no ranker", share=0.3, ranked=False),
        Variant(name="other bundle", share=0.3, bundle=unranked),
    )
    experiment = Experiment(name="trial", variants=variants)
    seen = set()
    with client(bundle, experiment=experiment) as opened, client(bundle) as plain:
        for user in USERS:
            answer, beside = ask(opened, user), ask(plain, user)
            assert answer["variant"] == assign(experiment, user).name
            assert (answer["experiment"], beside["variant"]) == ("trial", None)
            seen.add(answer["variant"])
            if answer["variant"] == "as is":
                assert answer["items"] == beside["items"]
            else:
                assert answer["ordered_by"] != "click_probability"
                assert (answer["bundle"] == beside["bundle"]) == (answer["variant"] == "no ranker")
    assert seen == {"as is", "no ranker", "other bundle"}


def test_what_is_shown_and_what_came_of_it_can_be_read_together(bundle: Path, tmp_path: Path) -> None:
    experiment = Experiment(name="trial", variants=(Variant(name="all", share=1.0),))
    with client(bundle, experiment=experiment, log_folder=tmp_path) as opened:
        first, second = ask(opened, "u1"), ask(opened, "nobody")
        batch = opened.post("/v1/recommend/batch", json={"requests": [{"domain": "video", "user": "u2", "k": 2}] * 2})
        clicked = {"request": first["request"], "item": first["items"][1]["item"]}
        posted = [clicked | {"kind": kind} for kind in ("click", "click", "order")]
        posted.append({"request": second["request"], "item": "never shown", "kind": "click"})
        assert opened.post("/v1/feedback", json={"feedback": posted}).json() == {"taken": 4}
        wrong = opened.post("/v1/feedback", json={"feedback": [clicked | {"kind": "liked"}]})
        assert wrong.status_code == 422
    rows = read_impressions(tmp_path).to_pylist()
    assert len(rows) == 3 + 3 + 4
    assert len({row["request"] for row in rows}) == 4  # the two of a batch are told apart
    assert {row["request"] for row in rows} >= {one["request"] for one in batch.json()["answers"]}
    ours = [row for row in rows if row["request"] == first["request"]]
    assert [row["item"] for row in ours] == [item["item"] for item in first["items"]]
    assert [(row["position"], row["click"], row["order"]) for row in ours] == [
        (1, False, False),
        (2, True, True),
        (3, False, False),
    ]
    assert {(row["user"], row["experiment"], row["variant"], row["bundle"]) for row in ours} == {
        ("u1", "trial", "all", first["bundle"])
    }
    assert [row["price"] for row in ours] == [item["attributes"]["price"] for item in first["items"]]
    assert [row["score"] for row in ours] == pytest.approx([item["score"] for item in first["items"]])
    assert not any(row["click"] for row in rows if row["request"] != first["request"])


def test_what_the_framework_answers_is_logged_as_shown_too(bundle: Path, tmp_path: Path) -> None:
    """Beside it passes what comes whole and as plain JSON; a kind of JSON goes its way."""
    with client(bundle, log_folder=tmp_path) as opened:
        body, kind = b'{"domain": "video", "user": "u2", "k": 2}', {"content-type": "application/vnd.api+json"}
        answer = opened.post("/v1/recommend", content=body, headers=kind).json()
    rows = read_impressions(tmp_path).to_pylist()
    assert [row["item"] for row in rows] == [item["item"] for item in answer["items"]]
    assert {row["request"] for row in rows} == {answer["request"]}


def test_without_a_folder_feedback_is_refused_and_without_files_there_is_nothing_to_read(
    bundle: Path, tmp_path: Path
) -> None:
    with client(bundle) as opened:
        body = {"feedback": [{"request": "r", "item": "i1", "kind": "click"}]}
        answer = opened.post("/v1/feedback", json=body)
        assert answer.status_code == 400
        assert "--log-folder" in answer.json()["error"]["message"]
    with pytest.raises(InputError, match="no impressions"):
        read_impressions(tmp_path)
    (tmp_path / "impressions-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_impressions(tmp_path)


def test_rows_that_cannot_be_written_wait_and_the_oldest_go_first(tmp_path: Path) -> None:
    lost: list[int] = []
    folder = tmp_path / "logs"
    log = RowLog(folder, "feedback", FEEDBACK, on_lost=lost.append, most_held=3)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    log.add([{"item": f"i{number}"} for number in range(2)])
    log.flush()  # warns, and keeps them
    log.add([{"item": f"i{number}"} for number in range(2, 5)])
    assert lost == [2]
    folder.unlink()
    log.flush()
    log.flush()
    (file,) = folder.iterdir()
    assert pq.read_table(file)["item"].to_pylist() == ["i2", "i3", "i4"]


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch"])
def test_what_was_given_up_was_shown_to_nobody(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    release, ended, plain = threading.Event(), threading.Event(), Trial.answer

    def slow(self: Trial, *given: Any) -> Any:
        release.wait(10)
        found = plain(self, *given)
        ended.set()
        return found

    monkeypatch.setattr(Trial, "answer", slow)
    asked = {"domain": "shop", "user": "u1", "k": 3}
    with client(bundle, log_folder=tmp_path, timeout_s=0.2) as opened:
        body = {"requests": [asked]} if path.endswith("batch") else asked
        assert opened.post(path, json=body).json()["error"]["code"] == "timed_out"
        release.set()
        assert ended.wait(10)
        shown = ask(opened, "u2")
        text = opened.get("/metrics").text
    assert {row["request"] for row in read_impressions(tmp_path).to_pylist()} == {shown["request"]}
    counted = [line for line in text.splitlines() if line.startswith("isthmus_recommendations_total{")]
    assert sum(float(line.split()[-1]) for line in counted) == 1


def test_many_rows_are_written_before_their_time_and_a_full_disk_is_not_tried_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    log = RowLog(folder, "feedback", FEEDBACK, most_held=8)
    log.add([{"item": "i0"}])
    log.flush_if_many()
    assert list(folder.iterdir()) == []
    log.add([{"item": "i1"}])  # a quarter of what may wait
    log.flush_if_many()
    assert [pq.read_table(file)["item"].to_pylist() for file in folder.iterdir()] == [["i0", "i1"]]
    shutil.rmtree(folder)
    folder.write_text("in the way")
    log.add([{"item": "i2"}] * 2)
    for _ in range(5):
        log.flush_if_many()
    assert len(caplog.records) == 1
    log.add([{"item": "i3"}] * 2)
    log.flush_if_many()
    assert len(caplog.records) == 2


def test_the_service_writes_many_rows_before_their_time(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.serving.app.LOG_EVERY_S", 3600.0)
    monkeypatch.setattr("isthmus.serving.feedback.RowLog", partial(RowLog, most_held=100))
    clicks = [{"request": "r", "item": f"i{number}", "kind": "click"} for number in range(60)]
    with client(bundle, log_folder=tmp_path) as opened:
        for _ in range(3):
            assert opened.post("/v1/feedback", json={"feedback": clicks}).json() == {"taken": 60}
            threading.Event().wait(1.0)
        assert len(list(tmp_path.glob("feedback-*.parquet"))) == 3
        assert 'rows_lost_total{kind="feedback"}' not in opened.get("/metrics").text
