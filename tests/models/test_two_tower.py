import re
from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.tiny import Positive, rich_dataset, sizes_of, tiny_dataset, tiny_schema
from torch import Tensor

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
from isthmus.batch import Features, ItemBlock, RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler
from isthmus.domains import DomainSlices
from isthmus.evaluation.retrieval import TwoTowerScorer
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training.optim import RowAdamW, split_parameters

DIM, DIMS = 4, (5, 6)
DATASET = rich_dataset()

BACKBONES: dict[str, Callable[[], AnyBackboneSettings]] = {
    "dnn": lambda: DNNSettings(hidden_dims=DIMS),
    "independent": lambda: IndependentSettings(hidden_dims=DIMS),
    "shared_bottom": lambda: SharedBottomSettings(hidden_dims=DIMS),
    "cross_stitch": lambda: CrossStitchSettings(hidden_dims=DIMS),
    "mmoe": lambda: MMoESettings(hidden_dims=DIMS, num_experts=3),
    "ple": lambda: PLESettings(hidden_dims=DIMS),
    "star": lambda: StarSettings(hidden_dims=DIMS),
    "adi": lambda: ADISettings(hidden_dims=DIMS, num_shared=2, forward_dims=(3,)),
}
SETTINGS: dict[str, TwoTowerSettings] = {
    "plain": TwoTowerSettings(embedding_dim=DIM),
    "plain linear indicator": TwoTowerSettings(embedding_dim=DIM, adaptation="linear", domain_indicator=True),
    "plain attention no bias": TwoTowerSettings(embedding_dim=DIM, adaptation="attention", item_bias=False),
    **{f"{n} residual": TwoTowerSettings(embedding_dim=DIM, backbone=b()) for n, b in BACKBONES.items()},
    **{
        f"{n} literal": TwoTowerSettings(embedding_dim=DIM, backbone=b(), connection="literal")
        for n, b in BACKBONES.items()
    },
    "adi global se": TwoTowerSettings(embedding_dim=DIM, backbone=BACKBONES["adi"](), adaptation="se", se_use="global"),
    "adi domain se indicator": TwoTowerSettings(
        embedding_dim=DIM, backbone=BACKBONES["adi"](), adaptation="se", domain_indicator=True, connection="literal"
    ),
    "adi network se": TwoTowerSettings(
        embedding_dim=DIM, backbone=BACKBONES["adi"](), adaptation="se", se_use="network", connection="literal"
    ),
    "one model a domain": TwoTowerSettings(
        embedding_dim=DIM, backbone=BACKBONES["independent"](), adaptation="linear", tables_by_domain=True
    ),
}
EVERY = pytest.mark.parametrize("name", list(SETTINGS))


def test_the_suite_runs_every_kind() -> None:
    kinds = {settings.backbone.kind for settings in SETTINGS.values() if settings.backbone}
    assert kinds == {"dnn", "independent", "shared_bottom", "cross_stitch", "mmoe", "ple", "star", "adi"}
    assert {settings.adaptation for settings in SETTINGS.values()} == {"none", "linear", "attention", "se"}
    assert len(SETTINGS) == 3 + 2 * 8 + 4


def new_model(settings: TwoTowerSettings, *, seed: int = 3, dataset: Dataset = DATASET) -> TwoTower:
    user, item, tables = sizes_of(dataset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bias = torch.randn(dataset.num_domains, dataset.num_items)
        return TwoTower(
            settings,
            num_domains=dataset.num_domains,
            user_sizes=user,
            item_sizes=item,
            table_rows=tables,
            initial_bias=bias,
        ).double()


def double(features: Features) -> Features:
    return replace(features, number=features.number.double())


def batch_of(rows: np.ndarray) -> RetrievalBatch:
    """The named training rows, which are sorted by domain."""
    domain = torch.from_numpy(np.asarray(DATASET.events["train"].domain[rows], np.int64))
    loader = RetrievalLoader(DATASET, batch_size=8, seed=0)
    batch = loader.batch(rows, DomainSlices.from_sorted(domain, DATASET.num_domains))
    return replace(batch, user=double(batch.user))


def everything() -> RetrievalBatch:
    return batch_of(np.arange(DATASET.events["train"].num_rows))


def block_of(batch: RetrievalBatch) -> ItemBlock:
    block, _ = CandidateSampler(DATASET, "full", 1, None).block(batch, torch.Generator())
    return replace(block, item=double(block.item))


def scores(model: TwoTower, batch: RetrievalBatch, block: ItemBlock) -> list[Tensor]:
    """Of each domain with rows, the scores of its rows and items."""
    user = model.encode_user(batch.user, batch.domain_slices)
    item = model.encode_item(block.item, block.item_row, block.domain_slices)
    return [model.score(user[rows], item[block.domain_slices[domain]]) for domain, rows in batch.domain_slices]


class Trainer:
    """Steps that pull scores to arbitrary targets, so that all weights of all domains come to differ."""

    def __init__(self, model: TwoTower, *, weight_decay: float = 0.0) -> None:
        self.model = model.train()
        tables, networks = split_parameters(model)
        self.optimizers: list[torch.optim.Optimizer] = [RowAdamW(tables, lr=0.05, weight_decay=weight_decay)]
        if networks:
            self.optimizers.append(torch.optim.AdamW(networks, lr=0.05, weight_decay=weight_decay))

    def step(self, batch: RetrievalBatch) -> None:
        loss = torch.zeros((), dtype=torch.float64)
        for score in scores(self.model, batch, block_of(batch)):
            target = torch.arange(score.numel(), dtype=torch.float64).view_as(score).sin() * 2
            loss = loss + (score - target).square().mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()


def trained(name: str) -> TwoTower:
    model = new_model(SETTINGS[name])
    trainer = Trainer(model)
    for _ in range(3):
        trainer.step(everything())
    return model.eval()


@EVERY
def test_a_rows_vector_ignores_the_rows_beside_it(name: str) -> None:
    model, batch = trained(name), everything()
    rows = torch.tensor([0, 39, 40, 60, 66, 73])
    with torch.no_grad():
        user = model.encode_user(batch.user, batch.domain_slices)
        block = block_of(batch)
        item = model.encode_item(block.item, block.item_row, block.domain_slices)
        domain = batch.domain_slices.row_domain()
        item_domain = block.domain_slices.row_domain()
        for row in rows.tolist():
            one = torch.tensor([row])
            slices = DomainSlices.single(int(domain[row]), 1, 3)
            alone = model.encode_user(batch.user.take(one), slices)
            torch.testing.assert_close(alone[0], user[row], rtol=0, atol=1e-12)
        for place in range(0, item.shape[0], 19):
            one = torch.tensor([place])
            slices = DomainSlices.single(int(item_domain[place]), 1, 3)
            alone = model.encode_item(block.item.take(one), block.item_row[one], slices)
            torch.testing.assert_close(alone[0], item[place], rtol=0, atol=1e-12)
        order = torch.tensor([39, 0, 7, 60, 40, 73, 66])  # rows change places within their domain
        some = model.encode_user(batch.user.take(order), DomainSlices((0, 3, 5, 7)))
        torch.testing.assert_close(some, user[order], rtol=0, atol=1e-12)
    assert user.std(dim=0)[:DIM].min() > 0


def belongs_to_domain(key: str, domain: int) -> bool:
    """Whether a parameter or buffer is one domain's alone: whatever a domain owns is in a list named `own_...`."""
    if ".stitches." in key:  # every row passes all stitches but the last
        return key.endswith(f"stitches.{len(DIMS) - 1}.own_weights.{domain}")
    return re.search(rf"\bown_\w+\.{domain}\b", key) is not None


@EVERY
def test_a_step_on_one_domain_leaves_what_another_owns_bit_identical(name: str) -> None:
    model = new_model(SETTINGS[name])
    trainer = Trainer(model, weight_decay=0.1)
    trainer.step(everything())
    trainer.step(everything())  # gives every parameter momentum
    before = {key: value.clone() for key, value in model.state_dict().items()}
    events = DATASET.events["train"]
    trainer.step(batch_of(np.flatnonzero(np.asarray(events.domain) == 0)))
    after = model.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved
    owned = [key for key in before if belongs_to_domain(key, 2)]
    assert not moved & set(owned)
    num_owned = 0
    for key, value in after.items():  # tables that hold one block of rows a domain
        is_by_domain = key.startswith("item_bias") or (SETTINGS[name].tables_by_domain and ".tables." in key)
        if is_by_domain:
            blocks = value.chunk(3), before[key].chunk(3)
            assert torch.equal(blocks[0][1], blocks[1][1]), key
            assert torch.equal(blocks[0][2], blocks[1][2]), key
            assert not torch.equal(blocks[0][0], blocks[1][0]), key
            num_owned += 1
    assert owned or num_owned or name == "plain attention no bias"


@EVERY
def test_every_parameter_learns_in_an_epoch_of_all_domains(name: str) -> None:
    settings = SETTINGS[name].model_copy(update={"initial_std": 1.0})  # smaller inputs leave units dead at the start
    if settings.backbone is not None:  # a norm takes away its layer's bias, whose gradient is then 0
        settings = settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"norm": "none"})})
    model = new_model(settings)
    trainer = Trainer(model)
    seen = {key: 0.0 for key, _ in model.named_parameters()}
    for batch in RetrievalLoader(DATASET, batch_size=25, seed=0).epoch(0):
        trainer.step(replace(batch, user=double(batch.user)))
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
                seen[key] += float(gradient.abs().sum())
    assert seen
    assert [key for key, total in seen.items() if not total > 0] == []


def test_two_models_of_one_schema_share_no_storage() -> None:
    settings = SETTINGS["adi domain se indicator"]
    user, item, tables = sizes_of(DATASET)
    bias = torch.randn(3, DATASET.num_items)
    one, other = (
        TwoTower(settings, num_domains=3, user_sizes=user, item_sizes=item, table_rows=tables, initial_bias=bias)
        for _ in range(2)
    )
    places = [{t.untyped_storage().data_ptr() for t in model.state_dict().values()} for model in (one, other)]
    assert not places[0] & places[1]
    assert bias.untyped_storage().data_ptr() not in places[0] | places[1]


@EVERY
def test_evaluation_scores_are_those_of_training_in_evaluation_mode(name: str) -> None:
    model = trained(name).float()
    events = DATASET.events["train"]
    rows = np.arange(events.num_rows)
    loader = RetrievalLoader(DATASET, batch_size=8, seed=0)
    batch = loader.batch(rows, everything().domain_slices)
    block, _ = CandidateSampler(DATASET, "full", 1, None).block(batch, torch.Generator())
    scorer = TwoTowerScorer(model, SETTINGS[name], DATASET, "train")
    with torch.no_grad():
        expected = scores(model, batch, block)
    for domain in range(3):
        own = rows[batch.domain_slices[domain]]
        torch.testing.assert_close(scorer(domain, own), expected[domain], rtol=1e-5, atol=1e-5)


def test_renumbering_the_domains_changes_nothing_but_their_order() -> None:
    new_number = (2, 0, 1)  # of domains 0, 1, 2
    old_of_new = [new_number.index(domain) for domain in range(3)]
    for name in ("adi domain se indicator", "one model a domain", "star literal", "ple residual"):
        model = trained(name)
        user, item, tables = sizes_of(DATASET)
        renumbered = TwoTower(
            SETTINGS[name],
            num_domains=3,
            user_sizes=replace(user, present=tuple(user.present[d] for d in old_of_new)),
            item_sizes=replace(item, present=tuple(item.present[d] for d in old_of_new)),
            table_rows=tables,
            initial_bias=torch.zeros(3, DATASET.num_items),
        )
        state: dict[str, Tensor] = {}
        for key, value in model.state_dict().items():
            is_by_domain = key.startswith("item_bias") or (SETTINGS[name].tables_by_domain and ".tables." in key)
            moved = torch.cat([value.chunk(3)[d] for d in old_of_new]) if is_by_domain else value
            state[re.sub(r"(\bown_\w+\.)(\d+)", lambda m: m[1] + str(new_number[int(m[2])]), key)] = moved
        renumbered = renumbered.double().eval()
        renumbered.load_state_dict(state)
        batch, block = everything(), block_of(everything())

        def reordered(slices: DomainSlices) -> tuple[Tensor, DomainSlices]:
            rows = torch.cat([torch.arange(slices.num_rows)[slices[d]] for d in old_of_new])
            return rows, DomainSlices.from_counts([slices.counts[d] for d in old_of_new])

        rows, slices = reordered(batch.domain_slices)
        places, item_slices = reordered(block.domain_slices)
        with torch.no_grad():
            users = model.encode_user(batch.user, batch.domain_slices)
            items = model.encode_item(block.item, block.item_row, block.domain_slices)
            same_users = renumbered.encode_user(batch.user.take(rows), slices)
            same_items = renumbered.encode_item(block.item.take(places), block.item_row[places], item_slices)
        torch.testing.assert_close(same_users, users[rows], rtol=0, atol=1e-12)
        torch.testing.assert_close(same_items, items[places], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_residual_network_starts_as_the_plain_tower(name: str) -> None:
    plain, residual, literal = (new_model(SETTINGS[kind]) for kind in ("plain", f"{name} residual", f"{name} literal"))
    tables = {key: value for key, value in plain.state_dict().items() if ".backbone." not in key}
    batch, block = everything(), block_of(everything())
    results = {}
    for kind, model in (("plain", plain), ("residual", residual), ("literal", literal)):
        model.load_state_dict(tables, strict=False)
        with torch.no_grad():
            results[kind] = scores(model.eval(), batch, block)
    for one, other, unlike in zip(results["plain"], results["residual"], results["literal"], strict=True):
        assert torch.equal(one, other)
        assert not torch.allclose(one, unlike, atol=1e-6)


def hand_made() -> tuple[TwoTower, Dataset]:
    """Item r is embedded as (r, 1); the bias of item r in domain d is d + r / 10."""
    train: list[Positive] = [(1, 2, 0, 1), (1, 3, 0, 2), (1, 4, 0, 3), (1, 2, 1, 4)]
    dataset = tiny_dataset(train, num_users=2, num_items=5, schema=tiny_schema(domains=("a", "b"), clock=False))
    user, item, tables = sizes_of(dataset)
    bias = torch.arange(2)[:, None] + torch.arange(5) / 10
    model = TwoTower(
        TwoTowerSettings(embedding_dim=2),
        num_domains=2,
        user_sizes=user,
        item_sizes=item,
        table_rows=tables,
        initial_bias=bias,
    )
    (table,) = {id(p): p for p in model.user_tower.parameters()}.values()
    with torch.no_grad():
        table.copy_(torch.stack([torch.arange(5.0), torch.ones(5)], dim=1))
    return model, dataset


def test_a_score_is_the_inner_product_and_the_bias() -> None:
    model, dataset = hand_made()
    batch = next(RetrievalLoader(dataset, batch_size=4, seed=0).epoch(0))
    block, _ = CandidateSampler(dataset, "full", 1, None).block(batch, torch.Generator())
    domain_a, domain_b = scores(model, batch, block)
    row = batch.item_row[batch.domain_slices[0]].tolist().index(4)
    # The row of item 4 has taken 2 and 3: (5, 2) / sqrt(2). Items 2, 3, 4: (2, 1), (3, 1), (4, 1).
    expected = [12 / sqrt(2) + 0.2, 17 / sqrt(2) + 0.3, 22 / sqrt(2) + 0.4]
    assert domain_a[row].tolist() == pytest.approx(expected)
    # In b there is no history but the target: the vector is 0, the score the bias of item 2 in b.
    assert domain_b.tolist() == [[pytest.approx(1.2)]]


def test_the_bias_is_one_more_unit_of_both_vectors() -> None:
    model, dataset = hand_made()
    batch = next(RetrievalLoader(dataset, batch_size=4, seed=0).epoch(0))
    user = model.encode_user(batch.user, batch.domain_slices)
    assert user.shape == (4, model.out_dim)
    assert model.out_dim == 3
    assert user[:, 2].tolist() == [1.0] * 4
    items = Features(torch.tensor([[2], [2]]), (), torch.empty(2, 0))
    vectors = model.encode_item(items, torch.tensor([2, 2]), DomainSlices((0, 1, 2)))
    assert vectors.tolist() == [pytest.approx([2.0, 1.0, 0.2]), pytest.approx([2.0, 1.0, 1.2])]
    assert new_model(SETTINGS["plain attention no bias"]).out_dim == DIM


def test_dropout_leaves_out_units_of_the_user_alone_and_in_training_alone() -> None:
    model = new_model(TwoTowerSettings(embedding_dim=DIM, dropout=0.5))
    batch, block = everything(), block_of(everything())

    def vectors() -> tuple[Tensor, Tensor]:
        return (
            model.encode_user(batch.user, batch.domain_slices),
            model.encode_item(block.item, block.item_row, block.domain_slices),
        )

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        (user, item), (again, same_item) = vectors(), vectors()
        assert not torch.allclose(user, again)
        assert torch.equal(item, same_item)
        model.eval()
        assert torch.equal(vectors()[0], vectors()[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connection": "literal"}, "needs a backbone"),
        ({"adaptation": "se", "se_use": "network"}, "backbone.kind must be 'adi'"),
        ({"adaptation": "se", "se_use": "network", "backbone": {"kind": "dnn", "hidden_dims": [4]}}, "must be 'adi'"),
        ({"temprature": 1}, "Extra inputs"),
        ({"embedding_dim": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TwoTowerSettings.model_validate({"embedding_dim": 4, **settings})
