"""Drift: the index by hand, its bins and window, and a served bundle that notices another population in one domain."""

from math import isnan, log, nan
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.serving.bundles import new_bundle

from isthmus.abtest.assignment import Experiment, Variant, assign
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.serving.app import new_app
from isthmus.serving.drift import (
    EVERY,
    FILE,
    HALF_WINDOW,
    LEAST,
    Bins,
    DriftMonitor,
    bins_of,
    read_reference,
    stability_index,
)
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.serve_settings import ServeSettings
from isthmus.serving.service import open_service


class Told:
    """The last index of each domain and signal."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], float] = {}
        self.times = 0

    def __call__(self, domain: str, signal: str, index: float) -> None:
        self.last[domain, signal] = index
        self.times += 1


def test_the_index_by_hand() -> None:
    # with half a row more in each bin: 9.5 and 9.5 of 19, 4.5 and 14.5 of 19
    found, less, more = stability_index(np.array([9, 9]), np.array([4, 14])), 4.5 / 19, 14.5 / 19
    assert found == pytest.approx((less - 0.5) * log(less / 0.5) + (more - 0.5) * log(more / 0.5))
    assert stability_index(np.array([40, 60]), np.array([40, 60])) == 0
    assert stability_index(np.array([100, 0]), np.array([0, 100])) > 5  # and finite, though bins are empty


def test_numbers_are_divided_at_their_tenths_and_equal_ones_stay_together() -> None:
    bins = bins_of([float(n) for n in range(100)])
    assert len(bins.edges) == 9
    assert bins.counts == (10,) * 10 + (0,)
    tied = bins_of([0.0] * 80 + [5.0] * 10 + [7.0] * 10 + [None])
    assert tied.counts[-1] == 1
    assert tied.place(0.0) != tied.place(5.0) != tied.place(None)
    assert tied.place(-3.0) <= tied.place(0.0)
    assert sum(tied.counts) == 101


def test_texts_have_a_bin_each_and_the_rare_ones_share_one() -> None:
    values = [f"v{n}" for n in range(30) for _ in range(30 - n)]
    bins = bins_of([*values, None])
    assert bins.values is not None
    assert bins.values == tuple(f"v{n}" for n in range(20))
    assert bins.place("v29") == bins.place("never seen") == 20
    assert bins.place(None) == 21
    assert bins.counts[0] == 30
    assert bins.counts[20] == sum(range(1, 11))
    assert bins_of([None, None]).counts == (0, 2)


def test_a_window_forgets_and_few_rows_say_nothing() -> None:
    told = Told()
    bins = Bins(values=("a", "b"), counts=(500, 500, 0, 0))
    monitor = DriftMonitor({"shop": {"context.x": bins, "probability": bins_of([0.1, 0.9])}}, told)
    assert told.last == pytest.approx({("shop", "context.x"): nan, ("shop", "probability"): nan}, nan_ok=True)
    for number in range(LEAST):
        monitor.observe("shop", {"context.x": "a" if number % 2 else "b", "probability": None})
        monitor.observe("elsewhere", {"context.x": "a"})
        assert isnan(told.last["shop", "context.x"]) == (number < LEAST - 1)
    assert told.last["shop", "context.x"] < 0.01
    assert isnan(told.last["shop", "probability"])  # no request had one
    for _ in range(2 * HALF_WINDOW - LEAST):
        monitor.observe("shop", {"context.x": "a"})
    shifted = told.last["shop", "context.x"]
    assert shifted > 0.25
    for number in range(2 * HALF_WINDOW):
        monitor.observe("shop", {"context.x": "a" if number % 2 else "b"})
    assert told.last["shop", "context.x"] < 0.01 < shifted
    assert told.times == 2 + (4 * HALF_WINDOW - LEAST) // EVERY + 1


@pytest.fixture(scope="module")
def bundle(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift") / "bundle"
    new_bundle(folder, tiny_dataset, labelled, domains=("shop", "video"), drift_rows=150)
    return folder


def train_users(dataset: Dataset, domain: str, number: int) -> list[str]:
    """Users of training rows of a domain, as often as they have rows."""
    names = ["", *dataset.vocabulary("user")]
    rows = dataset.events["train"] if dataset.impressions is None else dataset.impressions["train"]
    of_domain = np.flatnonzero(np.asarray(rows.domain) == dataset.schema.domain_names.index(domain))
    chosen = np.random.default_rng(5).choice(of_domain, number)
    return [names[int(rows.user_row[row])] for row in chosen]


def test_the_trained_population_has_not_drifted_and_another_one_has_in_its_domain_alone(
    bundle: Path, tiny_dataset: Dataset, labelled: Dataset
) -> None:
    told, service, reference = Told(), open_service(bundle), read_reference(bundle)
    assert service.drift is None  # nobody would hear
    assert reference is not None
    service.drift = DriftMonitor(reference, told, half_window=100, least=100, every=10)
    assert set(reference) == {"shop", "video", "news"}
    assert {"history", "retrieval_score", "probability"} <= set(reference["shop"])
    assert "probability" not in reference["news"]  # which no click model ranks
    context = dict.fromkeys(service.context_names)
    assert {f"context.{name}" for name in context} <= set(reference["shop"])
    of_user = [field.name for field in labelled.schema.fields if field.kind == "statistic" and field.of == "user"]
    assert of_user
    assert {f"user.{name}" for name in of_user} <= set(reference["shop"])
    assert not {f"user.{name}" for name in of_user} & set(reference["news"])
    for domain, dataset in (("shop", labelled), ("news", tiny_dataset)):
        for user in train_users(dataset, domain, 150):
            service.recommend(RecommendRequest(domain, user=user))
    for domain in ("shop", "news"):
        # by chance alone 2 (11 - 1) / 150 = .13 in the mean
        assert told.last[domain, "history"] < 0.25
        assert told.last[domain, "retrieval_score"] < 0.3
    assert told.last["shop", "probability"] < 0.3
    assert max(told.last["shop", f"user.{name}"] for name in of_user) < 0.3
    for _ in range(150):
        service.recommend(RecommendRequest("shop", history=(("i1", "shop"),)))
    assert told.last["shop", "history"] > 1
    assert told.last["shop", "probability"] > 1
    assert min(told.last["shop", f"user.{name}"] for name in of_user) > 0.25  # all alike now, those of nobody
    assert told.last["news", "history"] < 0.25


def test_the_metrics_have_the_index(bundle: Path) -> None:
    with TestClient(new_app(ServeSettings(bundle))) as client:
        for _ in range(LEAST):
            assert client.post("/v1/recommend", json={"domain": "news", "user": "nobody", "k": 1}).status_code == 200
        lines = client.get("/metrics").text.splitlines()
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "drift_psi{" in line}
    assert found['isthmus_drift_psi{domain="news",signal="history",variant=""}'] > 0.25
    assert isnan(found['isthmus_drift_psi{domain="shop",signal="history",variant=""}'])


def test_a_variant_with_a_bundle_of_its_own_has_an_index_of_its_own(bundle: Path) -> None:
    variants = (Variant(name="other", share=0.999, bundle=bundle), Variant(name="as is", share=0.001))
    settings = ServeSettings(bundle, experiment=Experiment(name="trial", variants=variants))
    asked = [f"nobody {number}" for number in range(LEAST + 50)]
    assert sum(assign(settings.experiment, user).name == "other" for user in asked) >= LEAST  # type: ignore[arg-type]
    with TestClient(new_app(settings)) as client:
        for user in asked:
            client.post("/v1/recommend", json={"domain": "news", "user": user, "k": 1})
        lines = client.get("/metrics").text.splitlines()
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "drift_psi{" in line}
    assert found['isthmus_drift_psi{domain="news",signal="history",variant="other"}'] > 0.25
    assert isnan(found['isthmus_drift_psi{domain="news",signal="history",variant=""}'])


def test_a_bundle_without_a_reference_serves_and_a_damaged_one_does_not(
    tiny_dataset: Dataset, tmp_path: Path, bundle: Path
) -> None:
    new_bundle(tmp_path / "plain", tiny_dataset)
    told = Told()
    service = open_service(tmp_path / "plain", on_drift=told)
    assert service.drift is None
    assert service.recommend(RecommendRequest("shop", user="u3")).items
    assert not told.last
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match=r"drift\.json: damaged"):
        read_reference(tmp_path)
