from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.tiny import Positive, rich_dataset, sizes_of, tiny_dataset, tiny_schema
from torch import Tensor

from isthmus.backbones.settings import ADISettings
from isthmus.batch import Bag
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training import retrieval
from isthmus.training.checkpoint import BEST, LAST
from isthmus.training.epochs import EpochReport, is_finished, set_rates
from isthmus.training.retrieval import (
    TrainingSettings,
    known_mask,
    retrieval_loss,
    selection_value,
    train_retrieval,
)
from isthmus.training.self_training import SelfTrainingSettings

CPU = torch.device("cpu")
PLAIN = TwoTowerSettings(embedding_dim=4)
ADI = TwoTowerSettings(
    embedding_dim=4,
    backbone=ADISettings(hidden_dims=(6,), num_shared=2),
    adaptation="se",
    connection="literal",
    domain_indicator=True,
    dropout=0.3,
)


def new_model(dataset: Dataset, settings: TwoTowerSettings, *, seed: int = 0) -> TwoTower:
    user, item, tables = sizes_of(dataset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TwoTower(
            settings,
            num_domains=dataset.num_domains,
            user_sizes=user,
            item_sizes=item,
            table_rows=tables,
            initial_bias=torch.zeros(dataset.num_domains, dataset.num_items),
        )


def test_known_items_are_masked_where_the_block_has_them() -> None:
    known = Bag(torch.tensor([4, 9, 2, 7, 3]), torch.tensor([0, 2, 2, 5]))
    mask = known_mask(known, torch.tensor([2, 3, 4, 8]))
    assert mask.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_the_loss_worked_by_hand() -> None:
    # User 1 took 1 and 2 in a, and 5 in b; b's own item 5 is all of b's corpus. Item r's bias is r / 10.
    train: list[Positive] = [(1, 1, 0, 1), (1, 2, 0, 2), (2, 3, 0, 3), (2, 4, 0, 4), (1, 5, 1, 5)]
    dataset = tiny_dataset(train, num_users=3, num_items=6, schema=tiny_schema(domains=("a", "b")))
    model = new_model(dataset, PLAIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.item_bias is not None
        model.item_bias.weight.copy_(torch.arange(12)[:, None] % 6 / 10)
    batch = next(RetrievalLoader(dataset, batch_size=5, seed=0).epoch(0))
    settings = TrainingSettings(seed=0, epochs=1, negatives="full", temperature=0.5)
    sampler = CandidateSampler(dataset, "full", 1, None)
    loss = retrieval_loss(model, batch, sampler, torch.Generator(), settings)
    # Scores are the biases. At temperature 1/2 item r weighs exp(r / 5); a user's other known items are no negatives.
    w = {r: exp(r / 5) for r in range(1, 6)}
    by_item = {
        1: log((w[1] + w[3] + w[4]) / w[1]),
        2: log((w[2] + w[3] + w[4]) / w[2]),
        3: log((w[3] + w[1] + w[2]) / w[3]),
        4: log((w[4] + w[1] + w[2]) / w[4]),
        5: 0.0,  # no negative is left
    }
    assert loss.tolist() == pytest.approx([by_item[item] for item in batch.item_row.tolist()], abs=1e-6)


@pytest.mark.parametrize("settings", [PLAIN, ADI])
def test_with_all_items_it_is_cross_entropy_over_the_corpus_without_known_ones(settings: TwoTowerSettings) -> None:
    dataset = rich_dataset(corpora={"c": ("a", "c")})
    model = new_model(dataset, settings).eval()
    batch = next(RetrievalLoader(dataset, batch_size=40, seed=0).epoch(0))
    sampler = CandidateSampler(dataset, "full", 1, None)
    training = TrainingSettings(seed=0, epochs=1, negatives="full", temperature=0.7)
    loss = retrieval_loss(model, batch, sampler, torch.Generator(), training)
    expected: list[Tensor] = []
    history = dataset.history
    user_row = batch.user.categorical[:, 0].tolist()
    user = model.encode_user(batch.user, batch.domain_slices)
    block, _ = sampler.block(batch, torch.Generator())
    item = model.encode_item(block.item, block.item_row, block.domain_slices)
    for row, domain in enumerate(batch.domain_slices.row_domain().tolist()):
        corpus = dataset.corpus(domain).tolist()
        columns = block.domain_slices[domain]
        assert block.item_row[columns].tolist() == corpus
        logit = (item[columns] @ user[row]) / 0.7
        start, end = int(history.offsets[user_row[row]]), int(history.train_end[user_row[row]])
        taken = {
            int(i) for i, d in zip(history.item_row[start:end], history.domain[start:end], strict=True) if d == domain
        }
        positive = corpus.index(int(batch.item_row[row]))
        keep = torch.tensor([i == positive or v not in taken for i, v in enumerate(corpus)])
        logit = logit.masked_fill(~keep, -torch.inf)
        expected.append(torch.nn.functional.cross_entropy(logit, torch.tensor(positive)))
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-5, atol=1e-5)


def settings_of(epochs: int, **changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "seed": 7,
            "epochs": epochs,
            "batch_size": 20,
            "num_negatives": 8,
            "learning_rate": 0.05,
            "network_learning_rate": 0.02,
            "patience": 9,
            **changes,
        }
    )


def train(
    dataset: Dataset, model_settings: TwoTowerSettings, settings: TrainingSettings, folder: Path, *, seed: int = 0
) -> tuple[TwoTower, list[EpochReport]]:
    folder.mkdir(exist_ok=True)
    model = new_model(dataset, model_settings, seed=seed)
    return model, train_retrieval(dataset, model, model_settings, settings, folder=folder, device=CPU)


def comparable(reports: list[EpochReport]) -> list[EpochReport]:
    return [replace(report, rows_per_second=0.0) for report in reports]


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


VARIANTS: dict[str, tuple[TwoTowerSettings, dict[str, object]]] = {
    "plain": (PLAIN, {}),
    "adi": (
        ADI,
        {
            "batch_size": 40,
            "negatives": "mixed",
            "self_training": SelfTrainingSettings(share=0.3),
            "schedule": "linear",
        },
    ),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_run_taken_up_again_gives_what_an_uninterrupted_one_gives(name: str, tmp_path: Path) -> None:
    dataset = rich_dataset(corpora={"a": ("a", "b", "c"), "b": ("a", "b")})
    model_settings, changes = VARIANTS[name]
    settings = settings_of(4, **changes)
    whole, reports = train(dataset, model_settings, settings, tmp_path / "whole")
    assert len(reports) == 4

    class KilledError(Exception):
        pass

    def kill(report: EpochReport) -> None:
        if report.epoch == 1:
            raise KilledError

    folder = tmp_path / "parts"
    folder.mkdir()
    first = new_model(dataset, model_settings)
    with pytest.raises(KilledError):
        train_retrieval(dataset, first, model_settings, settings, folder=folder, device=CPU, on_epoch=kill)
    torch.manual_seed(99)  # another process: nothing of the first one's state is left
    resumed, resumed_reports = train(dataset, model_settings, settings, folder, seed=5)
    assert comparable(resumed_reports) == comparable(reports)
    assert_same_weights(whole.state_dict(), resumed.state_dict())
    last = [torch.load(tmp_path / part / LAST, weights_only=True) for part in ("whole", "parts")]
    assert_same_weights(last[0]["model"], last[1]["model"])


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_run_killed_within_an_epoch_goes_on_from_the_last_saved_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = rich_dataset(corpora={"a": ("a", "b", "c"), "b": ("a", "b")})
    model_settings, changes = VARIANTS[name]
    settings = settings_of(2, **(changes | {"batch_size": 16, "checkpoint_steps": 2}))
    whole, reports = train(dataset, model_settings, settings, tmp_path / "whole")
    steps = 0
    real_step = retrieval.train_step

    def killed_at_the_fourth(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return real_step(*arguments)

    folder = tmp_path / "parts"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "train_step", killed_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            train_retrieval(
                dataset, new_model(dataset, model_settings), model_settings, settings, folder=folder, device=CPU
            )
    assert torch.load(folder / LAST, weights_only=True)["open_epoch"]["next_step"] == 2
    torch.manual_seed(99)
    resumed, resumed_reports = train(dataset, model_settings, settings, folder, seed=5)
    assert comparable(resumed_reports) == comparable(reports)
    assert_same_weights(whole.state_dict(), resumed.state_dict())


def test_two_epochs_and_two_more_are_four(tmp_path: Path) -> None:
    dataset = rich_dataset()
    whole, reports = train(dataset, ADI, settings_of(4, batch_size=40), tmp_path / "whole")
    _, first = train(dataset, ADI, settings_of(2, batch_size=40), tmp_path / "parts")
    resumed, second = train(dataset, ADI, settings_of(4, batch_size=40), tmp_path / "parts", seed=5)
    assert comparable(first) == comparable(reports[:2])
    assert comparable(second) == comparable(reports)
    assert_same_weights(whole.state_dict(), resumed.state_dict())


def test_training_leaves_the_global_generator_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(rich_dataset(), ADI, settings_of(1), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("patience", [1, 30])
def test_the_model_ends_with_its_best_epochs_weights(patience: int, tmp_path: Path) -> None:
    # A large rate on a small log soon overfits, so that the best epoch is not the last.
    dataset = rich_dataset()
    folder = tmp_path / "run"
    folder.mkdir()
    model = new_model(dataset, PLAIN)
    weights: list[dict[str, Tensor]] = []

    def keep(report: EpochReport) -> None:
        assert len(weights) == report.epoch
        weights.append({key: value.clone() for key, value in model.state_dict().items()})

    settings = settings_of(8, patience=patience, learning_rate=0.3)
    reports = train_retrieval(dataset, model, PLAIN, settings, folder=folder, device=CPU, on_epoch=keep)
    values = [report.valid["ndcg@10"] for report in reports]
    best = values.index(max(values))
    assert best < len(values) - 1
    assert [report.epoch for report in reports if report.is_best][-1] == best
    assert (len(reports) < 8) == (patience == 1)
    assert_same_weights(model.state_dict(), weights[best])
    assert_same_weights(torch.load(folder / BEST, weights_only=True), weights[best])
    assert_same_weights(torch.load(folder / LAST, weights_only=True)["model"], weights[-1])


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    dataset = rich_dataset()
    model, reports = train(dataset, PLAIN, settings_of(2), tmp_path)
    before = (tmp_path / LAST).read_bytes()
    again, same = train(dataset, PLAIN, settings_of(2), tmp_path, seed=5)
    assert same == reports
    assert_same_weights(model.state_dict(), again.state_dict())
    assert (tmp_path / LAST).read_bytes() == before


def planted() -> Dataset:
    """Each user of a domain takes items of one colour; the last one is held out, and colours differ by domain."""
    rng = np.random.default_rng(0)
    train_rows: list[Positive] = []
    valid: list[Positive] = []
    for domain in range(2):
        for user in range(1, 61):
            colour = (user + domain) % 3  # 8 items a colour: 1 + colour, 4 + colour, ...
            items = 1 + colour + 3 * rng.permutation(8)[:6]
            train_rows += [(user, int(item), domain, time) for time, item in enumerate(items[:5])]
            valid.append((user, int(items[5]), domain, 9))
    schema = tiny_schema(domains=("a", "b"), clock=False)
    return tiny_dataset(train_rows, valid, num_users=61, num_items=25, schema=schema)


@pytest.mark.parametrize("negatives", ["full", "uniform", "popularity", "in_batch", "mixed"])
def test_a_planted_answer_is_learnt(negatives: str, tmp_path: Path) -> None:
    dataset = planted()
    settings = settings_of(12, batch_size=100, negatives=negatives, learning_rate=0.05)
    _, reports = train(dataset, TwoTowerSettings(embedding_dim=8), settings, tmp_path)
    # 24 items less 5 known leave 19, 3 of them of the colour: by chance the first 10 hold the answer 53 times in 100,
    # knowing the colour always, at rank 1, 2 or 3: nDCG (1 + 0.631 + 0.5) / 3 = 0.71
    best = max(report.valid["corpus_ndcg@10"] for report in reports)
    assert best > 0.6
    assert all(set(report.valid_by_domain) >= {"corpus_recall@10"} for report in reports)
    losses = [report.loss for report in reports]
    assert all(losses[-1][name] < losses[0][name] for name in ("a", "b"))


def report_of(value: float, *, is_best: bool) -> EpochReport:
    return EpochReport(0, {}, {"corpus_ndcg@10": value}, {}, 1.0, {}, is_best)


def test_training_ends_after_so_many_epochs_without_a_better_one() -> None:
    better, worse = report_of(0.2, is_best=True), report_of(0.1, is_best=False)
    assert not is_finished([], 2)
    assert not is_finished([better, worse], 2)
    assert is_finished([better, worse, worse], 2)
    assert not is_finished([better, worse, better, worse], 2)


def test_epochs_are_chosen_by_the_given_lists_where_there_are_any() -> None:
    assert selection_value({"ndcg@10": 0.3, "corpus_ndcg@10": 0.1}) == 0.3
    assert selection_value({"ndcg@10": 0.0, "corpus_ndcg@10": 0.1}) == 0.0
    assert selection_value({"corpus_ndcg@10": 0.1}) == 0.1


@pytest.mark.parametrize(("schedule", "factors"), [("constant", [1.0, 1.0, 1.0]), ("linear", [1.0, 0.75, 0.0])])
def test_the_rate_over_a_run(schedule: Literal["constant", "linear"], factors: list[float]) -> None:
    settings = settings_of(4, schedule=schedule, learning_rate=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    rates = []
    for epochs_done in (0.0, 1.0, 4.0):
        set_rates([optimizer], settings.schedule, epochs_done, settings.epochs)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.5 * factor for factor in factors]
