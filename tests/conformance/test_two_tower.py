"""ADI eq. 1-2, 6-7 and 21-22 through both towers, as scalar loops in float64."""

from collections.abc import Mapping
from dataclasses import replace
from math import exp, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import rich_dataset, sizes_of
from torch import Tensor

from isthmus.backbones.settings import DNNSettings
from isthmus.batch import Features
from isthmus.data.features import FeatureReader, HistoryReader
from isthmus.domains import DomainSlices
from isthmus.index.exact import ExactIndex
from isthmus.models.two_tower import TwoTower, TwoTowerSettings

DIM, HIDDEN, D = 3, 5, 3
Vector = list[float]
State = Mapping[str, Any]


def embed(
    state: State, tower: str, tables: list[str], features: Features, row: int, has_field: list[bool]
) -> list[Vector]:
    """F_i = EMBED(f_i), a vector a field, in the order: one value, a list of values, a number.

    A list is the sum of its values' vectors over the root of their number; a field that the domain lacks is 0.
    """
    names = list(dict.fromkeys(tables))
    weight = [state[f"{tower}.embedding.tables.{names.index(table)}.weight"] for table in tables]
    f: list[Vector] = [weight[place][value] for place, value in enumerate(features.categorical[row].tolist())]
    for bag in features.bags:
        table = weight[len(f)]
        values = bag.values[int(bag.offsets[row]) : int(bag.offsets[row + 1])].tolist()
        pooled = [0.0] * DIM
        for value in values:
            for unit in range(DIM):
                pooled[unit] += table[value][unit] / sqrt(len(values))
        f.append(pooled)
    for place, value in enumerate(features.number[row].tolist()):
        f.append([value * unit for unit in state[f"{tower}.embedding.number_vector"][place]])
    return [vector if there else [0.0] * DIM for vector, there in zip(f, has_field, strict=True)]


def tower_vector(state: State, tower: str, f: list[Vector], d: int) -> Vector:
    """LT with domain d's weights (eq. 21-22), the fields side by side (eq. 7), and a network of one hidden layer."""
    w, b = state[f"{tower}.adaptation.own_scales.{d}"], state[f"{tower}.adaptation.own_shifts.{d}"]
    x = [w[i][unit] * f[i][unit] + b[i][unit] for i in range(len(f)) for unit in range(DIM)]
    network = f"{tower}.backbone."
    hidden_weight, hidden_bias = (
        state[network + "network.layers.0.linear.weight"],
        state[network + "network.layers.0.linear.bias"],
    )
    hidden = []
    for row, bias in zip(hidden_weight, hidden_bias, strict=True):
        hidden.append(max(0.0, bias + sum(n * m for n, m in zip(row, x, strict=True))))
    vector = []
    for row, bias in zip(state[network + "output.weight"], state[network + "output.bias"], strict=True):
        vector.append(bias + sum(n * m for n, m in zip(row, hidden, strict=True)))
    return vector


@pytest.mark.parametrize("d", range(D))
def test_scores_and_the_retrieved_items_are_those_of_equations_1_and_2(d: int) -> None:
    dataset = rich_dataset()
    user_sizes, item_sizes, tables = sizes_of(dataset)
    settings = TwoTowerSettings(
        embedding_dim=DIM,
        backbone=DNNSettings(hidden_dims=(HIDDEN,), norm="none"),
        connection="literal",
        adaptation="linear",
        domain_indicator=True,
        initial_std=1.0,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(8)
        model = TwoTower(
            settings,
            num_domains=D,
            user_sizes=user_sizes,
            item_sizes=item_sizes,
            table_rows=tables,
            initial_bias=torch.randn(D, dataset.num_items),
        ).double()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    model.eval()
    state: State = {key: value.tolist() for key, value in model.state_dict().items()}

    events = dataset.events["test"]
    rows = np.flatnonzero(np.asarray(events.domain) == d)
    reader = FeatureReader(dataset, "user", None)
    span = HistoryReader(dataset).event_span(events, rows, "test")
    domain = np.full(len(rows), d, dtype=np.int64)
    user = reader.read(np.asarray(events.user_row[rows], np.int64), domain, span=span, events=events, event_rows=rows)
    user = replace(user, number=user.number.double())
    corpus = dataset.corpus(d)
    item = FeatureReader(dataset, "item", None).read(corpus, np.full(len(corpus), d, dtype=np.int64))
    item = replace(item, number=item.number.double())

    f = []
    for u in range(len(rows)):
        fields = embed(
            state, "user_tower", [*user_sizes.categorical, *user_sizes.bags], user, u, list(user_sizes.present[d])
        )
        q = tower_vector(state, "user_tower", [*fields, state[f"user_tower.indicator.own_vectors.{d}"]], d)
        line = []
        for place, v in enumerate(corpus.tolist()):
            fields = embed(
                state,
                "item_tower",
                [*item_sizes.categorical, *item_sizes.bags],
                item,
                place,
                list(item_sizes.present[d]),
            )
            vector = tower_vector(state, "item_tower", [*fields, state[f"item_tower.indicator.own_vectors.{d}"]], d)
            (bias,) = state["item_bias.weight"][d * dataset.num_items + v]
            line.append(sum(n * m for n, m in zip(q, vector, strict=True)) + bias)
        f.append(line)

    with torch.no_grad():
        users = model.encode_user(user, DomainSlices.single(d, len(rows), D))
        items = model.encode_item(item, torch.from_numpy(corpus), DomainSlices.single(d, len(corpus), D))
        score: Tensor = model.score(users, items)
    torch.testing.assert_close(score, torch.tensor(f, dtype=torch.float64), rtol=0, atol=1e-10)

    s = [[exp(n) / sum(exp(m) for m in line) for n in line] for line in f]
    torch.testing.assert_close(score.softmax(dim=1), torch.tensor(s, dtype=torch.float64), rtol=0, atol=1e-10)

    found = ExactIndex(items, torch.from_numpy(corpus)).search(users, 4)
    best = [[int(corpus[v]) for v in sorted(range(len(corpus)), key=lambda v: -line[v])[:4]] for line in f]
    assert found.item_row.tolist() == best
