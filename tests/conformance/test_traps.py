"""Traps that multi-domain libraries fell into, through the whole way: log, dataset, training, recommendations.

`docs/conformance.md` numbers them and names the tests of the parts beside these.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests.tiny import Positive, tiny_dataset, tiny_schema
from torch import Tensor

from isthmus.api import Run, train
from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.data.audit import audit
from isthmus.data.dataset import SPLITS, Dataset
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate
from isthmus.errors import InputError
from isthmus.evaluation.reference_rows import ReferenceScorer, popularity_by_domain
from isthmus.evaluation.retrieval import RetrievalResult, TwoTowerScorer, evaluate_retrieval
from isthmus.evaluation.summary import SavedResult, summarise
from isthmus.metrics import auc_by_group, domain_means, macro_mean, traffic_weighted_mean
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.settings import RunSettings
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.runs import new_model
from isthmus.training.self_training import SelfTrainingSettings

DIMS = (6,)
BACKBONES: dict[str, AnyBackboneSettings] = {
    "dnn": DNNSettings(hidden_dims=DIMS),
    "independent": IndependentSettings(hidden_dims=DIMS),
    "shared_bottom": SharedBottomSettings(hidden_dims=DIMS),
    "cross_stitch": CrossStitchSettings(hidden_dims=DIMS),
    "mmoe": MMoESettings(hidden_dims=DIMS, num_experts=2),
    "ple": PLESettings(hidden_dims=DIMS),
    "star": StarSettings(hidden_dims=DIMS),
    "adi": ADISettings(hidden_dims=DIMS, norm="domain"),
}
ADI = TwoTowerSettings(
    embedding_dim=4, backbone=BACKBONES["adi"], connection="literal", adaptation="se", domain_indicator=True
)
"""All parts of the paper at once: domain batch normalisation, SE, the networks alone, the domain as a field."""

NAMES = {"apart": ("shop", "video", "news"), "alike": ("us", "us_app", "u")}


def settings(model: TwoTowerSettings = ADI, **training: object) -> RunSettings:
    content = {"seed": 0, "epochs": 2, "batch_size": 256, **training}
    return RunSettings(retrieval=model, training=TrainingSettings.model_validate(content))


def ignore(_: str) -> None:
    pass


def rewrite(log: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = yaml.safe_load(log.read_text())
    change(content)
    log.write_text(yaml.safe_dump(content, sort_keys=False))
    return log


def named_log(folder: Path, names: tuple[str, ...]) -> Path:
    """One simulated log whatever the domains are called, with sellers by item and domain, and one shared corpus."""
    log = simulate(folder, num_users=120, num_items=50, seed=1, domains=names)
    rows = [(f"i{item}", number) for item in range(50) for number in range(2)]
    offers = {
        "item_id": [item for item, _ in rows],
        "domain": [names[number] for _, number in rows],
        "seller": [f"seller {number} {item}" for item, number in rows],
    }
    pq.write_table(pa.table(offers), folder / "offers.parquet")
    seller = {"name": "seller", "side": "item", "kind": "categorical", "source": "offers", "domains": list(names[:2])}

    def change(content: dict[str, Any]) -> None:
        content["tables"]["offers"] = {"files": ["offers.parquet"], "item": "item_id", "domain": "domain"}
        content["fields"].append(seller)
        content["domains"][names[1]] = {"corpus": [names[1], names[2]]}

    return rewrite(log, change)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run a naming, of the same log."""
    made = {}
    for kind, names in NAMES.items():
        folder = tmp_path_factory.mktemp(kind)
        dataset = prepare(named_log(folder / "log", names), folder / "dataset")
        with_labels = settings(self_training=SelfTrainingSettings(share=0.3))
        made[kind] = train(dataset.path, folder / "run", with_labels, say=ignore)
    return made


# T3: an unknown domain


@pytest.mark.parametrize("name", ["radio", "Shop", "shop ", "shop_", "", "0", "error"])
def test_no_verb_answers_for_an_undeclared_domain(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["apart"]
    with pytest.raises(InputError, match=f"unknown domain {name!r}"):
        run.recommend(name, user="u1")
    with pytest.raises(InputError, match=f"unknown domain {name!r}"):
        run.recommend_all(tmp_path / "all.parquet", domain=name)
    assert list(tmp_path.iterdir()) == []
    folder = Path(shutil.copytree(run.dataset.path.parent / "log", tmp_path / "log"))
    events = pq.read_table(folder / "events.parquet")
    row = {"user_id": ["u1"], "item_id": ["i1"], "domain": [name], "time": [1_700_000_000]}
    pq.write_table(pa.concat_tables([events, pa.table(row)]), folder / "events.parquet")
    with pytest.raises(InputError, match="domain"):
        prepare(folder / "log.yaml", tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


# T5: the same answers in a fresh process


def test_a_run_of_the_whole_model_says_the_same_in_a_fresh_process(runs: dict[str, Run]) -> None:
    run = runs["alike"]
    code = f"""
import json, pathlib, isthmus
run = isthmus.open_run(pathlib.Path({str(run.path)!r}))
metrics = {{name: column.tolist() for name, column in run.evaluate().metrics.items()}}
print(json.dumps([metrics, run.recommend("us_app", user="u3", k=5).to_dict()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    metrics = {name: column.tolist() for name, column in run.evaluate().metrics.items()}
    answer = run.recommend("us_app", user="u3", k=5).to_dict()
    assert json.loads(done.stdout) == json.loads(json.dumps([metrics, answer]))


# T6: two models, no shared storage


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_two_models_of_one_dataset_share_no_storage_whatever_the_backbone(kind: str, tiny_dataset: Dataset) -> None:
    assert len(BACKBONES) == 8
    model = ADI.model_copy(update={"backbone": BACKBONES[kind]})
    first, second = (new_model(tiny_dataset, model, settings().training) for _ in range(2))
    places = [{tensor.untyped_storage().data_ptr() for tensor in m.state_dict().values()} for m in (first, second)]
    assert not places[0] & places[1]
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


# T10: the order in which domains are declared


def test_declaring_domains_in_another_order_renumbers_and_changes_nothing_else(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    one = runs["apart"].dataset
    log = Path(shutil.copytree(one.path.parent / "log", tmp_path / "log")) / "log.yaml"
    rewrite(log, lambda content: content.update(domains=dict(reversed(content["domains"].items()))))
    other = prepare(log, tmp_path / "dataset")
    assert other.schema.domain_names == one.schema.domain_names[::-1]
    new_number = {number: 2 - number for number in range(3)}
    for split in SPLITS:
        rows = [
            sorted(zip(*(column.tolist() for column in (e.user_row, e.item_row, e.domain, e.time)), strict=True))
            for e in (one.events[split], other.events[split])
            if e.time is not None
        ]
        renumbered = sorted((user, item, new_number[domain], time) for user, item, domain, time in rows[0])
        assert rows[1] == renumbered
    assert np.array_equal(other.item_count, np.asarray(one.item_count)[::-1])
    scored = []
    for dataset in (one, other):
        result = evaluate_retrieval(
            ReferenceScorer(popularity_by_domain(dataset), dataset, "test"), dataset, "test", corpus_ks=(3,)
        )
        means = domain_means(result.metrics["corpus_ndcg@3"], result.domain, 3)
        scored.append(dict(zip(dataset.schema.domain_names, means.tolist(), strict=True)))
    for number, name in enumerate(NAMES["apart"]):
        assert other.corpus(new_number[number]).tolist() == one.corpus(number).tolist()
        assert scored[1][name] == scored[0][name] > 0


# T11: domains whose names begin alike


def test_what_domains_are_called_changes_neither_dataset_nor_training(runs: dict[str, Run]) -> None:
    apart, alike = runs["apart"], runs["alike"]
    seller = [run.dataset.features["seller"] for run in (apart, alike)]
    assert np.array_equal(np.asarray(seller[0]), np.asarray(seller[1]))
    assert apart.dataset.corpus(1).tolist() == alike.dataset.corpus(1).tolist()
    assert np.array_equal(apart.dataset.item_count, alike.dataset.item_count)
    weights = apart.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in alike.model.state_dict().items())
    assert all(finding.ok for finding in audit(alike.dataset.path))


def test_nothing_of_a_domain_reaches_one_whose_name_begins_alike(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["alike"]
    names = run.dataset.schema.domain_names
    assert names == NAMES["alike"]
    raw = pq.read_table(run.dataset.path.parent / "log" / "events.parquet").to_pylist()
    taken = {name: {row["item_id"] for row in raw if row["domain"] == name} for name in names}
    corpus = {"us": taken["us"], "us_app": taken["us_app"] | taken["u"], "u": taken["u"]}
    run.recommend_all(tmp_path / "all.parquet", k=50)
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    for name in names:
        shown = {row["item"] for row in rows if row["domain"] == name}
        assert shown
        assert shown <= corpus[name]
        answer = run.recommend(name, user="u3", k=50)
        assert answer.domain == name
        assert {item.item for item in answer.items} <= corpus[name]
    assert not corpus["us"] <= corpus["us_app"]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(set(line["loss"]) == set(names) for line in lines)
    assert {pair for line in lines for pair in line["pseudo_labels"]} >= {"us->us_app", "us_app->us", "u->us_app"}
    summary = summarise(run.saved(run.evaluate(), "test"), num_resamples=10, with_slices=False)
    held_out = np.bincount(np.asarray(run.dataset.events["test"].domain), minlength=3).tolist()
    assert [(group.name, group.num_rows) for group in summary.slices[0].groups[:3]] == [
        *zip(names, held_out, strict=True)
    ]


# T14: what a mean over domains and a short list count


def test_a_domain_of_one_class_has_no_auc_and_stays_out_of_the_mean() -> None:
    # a: 2 over 1, of one pair: 1. b: clicks alone. c: 1 and 3 against 2: half.
    score = torch.tensor([2.0, 1.0, 5.0, 6.0, 1.0, 3.0, 2.0])
    label = torch.tensor([True, False, True, True, True, True, False])
    value = auc_by_group(score, label, torch.tensor([0, 0, 1, 1, 2, 2, 2]), 3)
    assert isnan(value[1].item())
    with pytest.warns(UserWarning, match="no value: b [(]auc[)]$"):
        assert macro_mean(value, ["a", "b", "c"], metric="auc").item() == 0.75
    with pytest.warns(UserWarning, match="no value: b [(]auc[)]$"):
        weighted = traffic_weighted_mean(value, torch.tensor([2.0, 2.0, 3.0]), ["a", "b", "c"], metric="auc")
    assert weighted.item() == pytest.approx((2 * 1 + 3 * 0.5) / 5)


def test_a_domain_without_held_out_rows_is_shown_and_stays_out_of_the_mean() -> None:
    result = RetrievalResult(
        domain=torch.tensor([0, 2]),
        user_row=torch.tensor([1, 2]),
        item_row=torch.tensor([1, 2]),
        known=torch.tensor([1, 1]),
        item_count=torch.tensor([1, 1]),
        metrics={"recall@10": torch.tensor([1.0, 0.0], dtype=torch.float64)},
    )
    summary = summarise(SavedResult(result, ("a", "b", "c"), "test"), num_resamples=10, with_slices=False)
    groups = {group.name: group for group in summary.slices[0].groups}
    assert groups["b"].num_rows == 0
    assert groups["b"].metrics == {}
    assert groups["macro"].metrics["recall@10"].estimate == 0.5  # a third of 1 if b counted as 0


@pytest.mark.parametrize(("score", "expected"), [([3.0, 2.0, 1.0], 1.0), ([1.0, 1.0, 1.0], 1.0), ([nan] * 3, None)])
def test_a_list_shorter_than_k_is_judged_as_it_is(score: list[float], expected: float | None) -> None:
    # Items 1 to 3; the lists are 2 3, and 3 with an item of no corpus: k = 10 holds all of both.
    held_out: list[Positive] = [(1, 3, 0, 1), (2, 9, 0, 1)]
    train_rows: list[Positive] = [(3, item, 0, 0) for item in (1, 2, 3)]
    lists = {1: [2, 3], 2: [3, 9]}
    dataset = tiny_dataset(
        train_rows,
        held_out,
        num_users=4,
        num_items=10,
        schema=tiny_schema(domains=("a",), clock=False),
        candidates=lambda positive: lists[positive[0]],
    )

    def scorer(domain: int, rows: np.ndarray) -> Tensor:
        return torch.tensor([score] * len(rows))

    if expected is None:
        with pytest.raises(ValueError, match="NaN"):
            evaluate_retrieval(scorer, dataset, "valid", ks=(10,))
        return
    result = evaluate_retrieval(scorer, dataset, "valid", ks=(1, 10))
    assert result.metrics["recall@1"].tolist() == [0.0, 0.0]  # of equal scores the lower item comes first
    assert result.metrics["recall@10"].tolist() == [
        expected,
        0.0,
    ]  # what no corpus has is no hit, however short the list
    assert result.metrics["corpus_recall@10"].tolist() == [expected, 0.0]


# T15: what is served is the exact offline ranking


@pytest.mark.parametrize("kind", list(NAMES))
def test_a_trained_adi_serves_its_exact_offline_ranking(kind: str, runs: dict[str, Run]) -> None:
    run = Run.open(runs[kind].path)
    dataset = run.dataset
    events, history = dataset.events["test"], dataset.history
    scorer = TwoTowerScorer(run.model, run.settings.retrieval, dataset, "test")
    users, items = ["", *dataset.vocabulary("user")], ["", *dataset.vocabulary("item")]
    compared = [0, 0, 0]
    for row in range(0, events.num_rows, 5):
        user, domain = int(events.user_row[row]), int(events.domain[row])
        span = slice(int(history.offsets[user]), int(history.offsets[user + 1]))
        if user == 0 or span.start == span.stop:
            continue
        known = [int(i) for i, d in zip(history.item_row[span], history.domain[span], strict=True) if d == domain]
        corpus = dataset.corpus(domain)
        score = scorer(domain, np.array([row]))[0].masked_fill(torch.from_numpy(np.isin(corpus, known)), -torch.inf)
        best = score.argsort(descending=True, stable=True)[:10]
        answer = run.recommend(dataset.schema.domain_names[domain], user=users[user], k=10)
        assert [item.item for item in answer.items] == [items[corpus[place]] for place in best.tolist()]
        assert [item.score for item in answer.items] == pytest.approx(score[best].tolist(), abs=1e-5)
        compared[domain] += 1
    assert min(compared) > 2, compared


# T17: the best epoch is what is kept and tested


@pytest.mark.parametrize("patience", [1, 30])
def test_what_is_evaluated_later_is_the_best_epoch(patience: int, tiny_dataset: Dataset, tmp_path: Path) -> None:
    # A large rate on a small log soon overfits, so that the best epoch is not the last.
    restless = settings(epochs=15, patience=patience, learning_rate=0.3, network_learning_rate=0.1)
    train(tiny_dataset.path, tmp_path / "run", restless, say=ignore)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line["valid"]["ndcg@10"] for line in lines]
    best = values.index(max(values))
    assert best < len(lines) - 1
    assert (len(lines) < 15) == (patience == 1)
    result = Run.open(tmp_path / "run").evaluate("valid")
    for name, expected in lines[best]["valid"].items():
        means = domain_means(result.metrics[name], result.domain, 3)
        assert macro_mean(means, tiny_dataset.schema.domain_names, metric=name).item() == pytest.approx(
            expected, abs=1e-12
        )
    assert values[best] != pytest.approx(values[-1], abs=1e-6)
