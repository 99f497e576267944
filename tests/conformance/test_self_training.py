"""ADI eq. 27 and Algorithm 1 as scalar loops in float64, against the objective of the training loop itself."""

from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch
from tests.tiny import Positive, sizes_of, tiny_dataset, tiny_schema
from torch import Tensor

from isthmus.data.dataset import Dataset
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training.retrieval import TrainingSettings, train_retrieval
from isthmus.training.self_training import SelfTrainingSettings

D, DIM, NUM_ITEMS = 3, 3, 12
MODEL = TwoTowerSettings(embedding_dim=DIM, initial_std=1.0)
V = [{1, 2, 3, 4, 5, 6, 7}, {4, 5, 6, 7, 8, 9}, {6, 7, 8, 9, 10, 11}]
"""What each domain may show: V_d, all of it taken there once or more."""


def positives() -> list[Positive]:
    """(u, v, d): user u takes a few items of each domain."""
    generator = torch.Generator().manual_seed(4)
    rows: list[Positive] = [(1 + place % 6, v, d, 0) for d in range(D) for place, v in enumerate(sorted(V[d]))]
    for d in range(D):
        for u in range(1, 7):
            v = sorted(V[d])[int(torch.randint(len(V[d]), (1,), generator=generator))]
            if (u, v, d, 0) not in rows:
                rows.append((u, v, d, 0))
    return rows


def objective(rows: list[Positive], e: list[list[float]], b: list[list[float]], p: float, temperature: float) -> float:
    """-sum_d sum_u sum_v [log s(v | u, d) + log s(v^ | u, d)], over the number of rows of the step.

    Args:
        e: the items' vectors. A user's is the sum of those of the items it took in the row's domain, the row's own
            left out, over the root of their number.
        b: the bias of each item in each domain.
    """

    def taken(u: int, d: int) -> list[int]:
        return [v for (u_, v, d_, _) in rows if (u_, d_) == (u, d)]

    def f(v: int, u: int, own: int, features_of: int, d: int) -> float:
        """f(v | u, d) of the row (u, own), with the features it has in domain `features_of`."""
        past = [v_ for v_ in taken(u, features_of) if v_ != own]
        total = b[d][v]
        for unit in range(DIM):
            user = 0.0
            for v_ in past:
                user += e[v_][unit]
            total += user / sqrt(max(1, len(past))) * e[v][unit]
        return total

    def log_s(v: int, u: int, i: int, j: int) -> float:
        """log s(v | u, j) of a row of domain i; items that u is known to like in i are no negatives."""
        denominator = 0.0
        for v_ in V[j]:
            if v_ == v or v_ not in taken(u, i):
                denominator += exp(f(v_, u, v, i, j) / temperature)
        return f(v, u, v, i, j) / temperature - log(denominator)

    total = 0.0
    for i in range(D):
        samples = [(u, v) for (u, v, d, _) in rows if d == i]
        for u, v in samples:
            total -= log_s(v, u, i, i)
        for j in range(D):
            if j == i:
                continue
            scored = sorted(((f(v, u, v, i, j), u, v) for u, v in samples if v in V[j]), reverse=True)
            for _, u, v in scored[: int(p * len(samples))]:
                total -= log_s(v, u, i, j)
    return total / len(rows)


def dataset() -> Dataset:
    rows = positives()
    schema = tiny_schema(clock=False)
    valid: list[Positive] = [(1, min(V[d]), d, 0) for d in range(D)]
    return tiny_dataset(rows, valid, num_users=7, num_items=NUM_ITEMS, schema=schema)


def new_model(data: Dataset) -> TwoTower:
    user, item, tables = sizes_of(data)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return TwoTower(
            MODEL,
            num_domains=D,
            user_sizes=user,
            item_sizes=item,
            table_rows=tables,
            initial_bias=torch.randn(D, NUM_ITEMS),
        ).double()


def test_the_objective_of_every_epoch_is_that_of_equation_27(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    assert [set(data.corpus(d).tolist()) for d in range(D)] == V
    model = new_model(data)
    (table,) = {id(p): p for p in model.user_tower.parameters()}.values()
    seen: list[tuple[float, float]] = []
    backward = torch.autograd.backward
    p, delta_p, temperature = 0.3, 0.2, 0.8

    def compare(loss: Tensor) -> None:
        assert model.item_bias is not None
        e, b = table.tolist(), model.item_bias.weight.view(D, NUM_ITEMS).tolist()
        seen.append((loss.item(), objective(positives(), e, b, p + len(seen) * delta_p, temperature)))
        backward(loss)

    monkeypatch.setattr(torch.autograd, "backward", compare)
    training = TrainingSettings(
        seed=1,
        epochs=3,
        batch_size=1000,  # the whole log is one step
        negatives="full",
        temperature=temperature,
        learning_rate=0.1,
        self_training=SelfTrainingSettings(share=p, share_growth=delta_p),
    )
    reports = train_retrieval(data, model, MODEL, training, folder=tmp_path, device=torch.device("cpu"))
    assert len(seen) == 3
    for ours, papers in seen:
        assert ours == pytest.approx(papers, abs=1e-10)
    assert seen[0][1] != pytest.approx(seen[1][1], abs=1e-3)
    labels = [sum(report.pseudo_labels.values()) for report in reports]
    assert labels[0] < labels[1] < labels[2]  # p grows


def test_pseudo_labels_are_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The gradient of the objective with the selection held fixed is that of our loop: by finite differences.
    data = dataset()
    model = new_model(data)
    (table,) = {id(p): p for p in model.user_tower.parameters()}.values()
    backward = torch.autograd.backward
    checked: list[int] = []

    def compare(loss: Tensor) -> None:
        backward(loss)
        assert model.item_bias is not None
        assert table.grad is not None
        assert model.item_bias.weight.grad is not None
        e, b = table.tolist(), model.item_bias.weight.view(D, NUM_ITEMS).tolist()
        step = 1e-6  # too small to change which rows are selected
        for matrix, gradient in (
            (e, table.grad.to_dense()),
            (b, model.item_bias.weight.grad.to_dense().view(D, NUM_ITEMS)),
        ):
            for row, column in ((0, 2), (1, 1), (2, 0)):
                place = (4 * row + 3, column) if matrix is e else (row, 4 * column + 3)
                kept = matrix[place[0]][place[1]]
                values = []
                for sign in (1, -1):
                    matrix[place[0]][place[1]] = kept + sign * step
                    values.append(objective(positives(), e, b, 0.5, 1.0))
                matrix[place[0]][place[1]] = kept
                slope = (values[0] - values[1]) / (2 * step)
                assert gradient[place].item() == pytest.approx(slope, abs=1e-8)
                checked.append(1)

    monkeypatch.setattr(torch.autograd, "backward", compare)
    training = TrainingSettings(
        seed=1,
        epochs=1,
        batch_size=1000,
        negatives="full",
        self_training=SelfTrainingSettings(share=0.5, share_growth=0.0),
    )
    train_retrieval(data, model, MODEL, training, folder=tmp_path, device=torch.device("cpu"))
    assert len(checked) == 6
