"""The options of the plain click model; what holds for every click model is in test_click_models.py."""

from itertools import permutations

import pytest
import torch
from pydantic import ValidationError
from tests.renumbering import renamed, renumbered_sizes, reordered
from tests.tiny_ranking import TABLES, random_features, ranking_sizes, slices, take
from torch import Tensor, nn

from isthmus.backbones.dnn import DNNBackbone
from isthmus.batch import RankingFeatures
from isthmus.models.ctr import CTRModel, CTRSettings

KINDS: dict[str, dict[str, object]] = {
    "dnn": {},
    "dcn": {},
    "independent": {},
    "shared_bottom": {},
    "mmoe": {"num_experts": 2},
    "ple": {},
    "star": {},
    "adi": {},
}
"""Cross-stitch numbers its networks layer by layer: its own test renumbers them."""


def ctr(num_domains: int = 2, **changed: object) -> CTRModel:
    torch.manual_seed(0)
    settings = CTRSettings.model_validate(
        {
            "embedding_dim": 3,
            "backbone": {"kind": "dnn", "hidden_dims": [6], "norm": "none"},
            "latent_dim": 4,
            "tower_dims": [3],
            "initial_std": 0.5,
        }
        | changed
    )
    sizes = ranking_sizes(num_domains)
    return CTRModel(settings, num_domains=num_domains, sizes=sizes, table_rows=TABLES).eval()


def scores(model: CTRModel, features: RankingFeatures, counts: list[int]) -> Tensor:
    logit: Tensor = model(features, slices(counts))
    return logit.detach()


def full_rows(count: int) -> RankingFeatures:
    """Rows of domain 0 twice, as rows of domains 0 and 1 of three, which have the same fields."""
    return take(random_features([count]), [*range(count), *range(count)])


def test_a_relu_stands_between_the_latent_vector_and_the_tower() -> None:
    # The latent vector is (-1, 2) for every row, the tower 3 a + 5 b + 1: with the ReLU 11, without it 8.
    model = ctr(latent_dim=2, tower_dims=[])
    assert isinstance(model.backbone, DNNBackbone)
    output = model.towers.output.own_layers[0]
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        model.backbone.output.weight.zero_()
        model.backbone.output.bias.copy_(torch.tensor([-1.0, 2.0]))
        output.weight.copy_(torch.tensor([[3.0, 5.0]]))
        output.bias.fill_(1.0)
    assert scores(model, random_features([2, 0]), [2, 0]).tolist() == [11.0, 11.0]


def test_towers_are_each_domains_own_or_one_for_all() -> None:
    rows, counts = full_rows(5), [5, 5, 0]
    own, one = (scores(ctr(3, tower_by_domain=given), rows, counts) for given in (True, False))
    assert (own[:5] - own[5:]).abs().min() > 1e-6
    assert torch.equal(one[:5], one[5:])
    assert len(ctr(3, tower_by_domain=False).towers.output.own_layers) == 1


def test_a_first_order_term_starts_at_nothing_and_learns_of_every_field() -> None:
    rows, counts = random_features([6, 6]), [6, 6]
    bare, model = ctr(), ctr(linear=True)
    model.load_state_dict(bare.state_dict(), strict=False)
    assert torch.equal(scores(model, rows, counts), scores(bare, rows, counts))
    assert model.first_order is not None
    torch.autograd.backward(model(rows, slices(counts)).sum())
    for name, parameter in model.first_order.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.to_dense().abs().max() > 0, name


def test_the_auxiliary_network_tells_apart_domains_that_all_else_treats_alike() -> None:
    rows, counts = full_rows(5), [5, 5, 0]
    bare, model = (ctr(3, tower_by_domain=False, indicator_logit=given) for given in (False, True))
    same, told = scores(bare, rows, counts), scores(model, rows, counts)
    assert torch.equal(same[:5], same[5:])
    assert (told[:5] - told[5:]).abs().min() > 1e-6
    assert model.indicator is not None
    torch.autograd.backward(model(rows, slices(counts)).sum())
    reached = [vector.grad is not None for vector in model.indicator.own_vectors]
    assert reached == [True, True, False]


def test_no_two_domains_share_a_vector_where_tables_are_by_domain() -> None:
    model = ctr(3, tables_by_domain=True, linear=True)
    assert model.first_order is not None
    torch.autograd.backward(model(random_features([0, 8, 0]), slices([0, 8, 0])).sum())
    touched = 0
    for embedding in (model.embedding, model.first_order.embedding):
        for side in (embedding.user, embedding.item):
            for table in side.tables:
                gradient = table.get_parameter("weight").grad
                assert gradient is not None
                rows = gradient.to_dense().abs().sum(dim=1)
                third = rows.numel() // 3
                assert rows[third : 2 * third].any()
                assert not rows[:third].any()
                assert not rows[2 * third :].any()
                touched += 1
    assert touched == 2 * 3  # the user's two tables and the item's, which is one of them, of each of the two


def test_a_towers_norm_knows_its_own_domains_rows_alone() -> None:
    model = ctr(tower_norm=True).train()
    before = {name: value.clone() for name, value in model.towers.state_dict().items() if "running" in name}
    assert before
    model(random_features([8, 0]), slices([8, 0]))
    after = model.towers.state_dict()
    moved = {name.split(".")[2] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"0"}


def test_dropout_is_for_training_alone() -> None:
    model, rows = ctr(dropout=0.5), random_features([6, 6])
    assert torch.equal(scores(model, rows, [6, 6]), scores(model, rows, [6, 6]))
    model.train()
    assert not torch.equal(scores(model, rows, [6, 6]), scores(model, rows, [6, 6]))


def test_a_field_that_a_domain_lacks_changes_none_of_its_scores() -> None:
    model = ctr(linear=True, indicator_logit=True)
    rows = random_features([3, 3])
    number = rows.row.number.clone()
    number[:, 1] += 5.0  # the last domain lacks the row's last field
    other = RankingFeatures(rows.user, rows.item, type(rows.row)(rows.row.categorical, (), number))
    assert model.first_order is not None
    row = model.first_order.embedding.row
    assert row is not None
    assert row.number_vector is not None
    torch.nn.init.ones_(row.number_vector)
    ours, theirs = scores(model, rows, [3, 3]), scores(model, other, [3, 3])
    assert torch.equal(ours[3:], theirs[3:])
    assert (ours[:3] - theirs[:3]).abs().min() > 0.1


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("num_domains", [2, 3])
def test_renumbering_the_domains_permutes_the_scores(kind: str, num_domains: int) -> None:
    backbone = {"kind": kind, "hidden_dims": [6]} | KINDS[kind]
    model = ctr(num_domains, backbone=backbone, indicator_logit=True, linear=True)
    counts = [3, 2, 4][:num_domains]
    rows = random_features(counts)
    ours = scores(model, rows, counts)
    cases = 0
    for new_number in permutations(range(num_domains)):
        other = ctr(num_domains, backbone=backbone, indicator_logit=True, linear=True)
        renumbered_sizes(other, new_number)
        kept = "auxiliary."  # one network for all, whatever its list is called
        state = {key if key.startswith(kept) else renamed(key, new_number): v for key, v in model.state_dict().items()}
        other.load_state_dict(state)
        order, new_counts = reordered(counts, new_number)
        theirs = scores(other, take(rows, order), new_counts)
        torch.testing.assert_close(theirs, ours[order], rtol=0, atol=1e-6)
        cases += 1
    assert cases == {2: 2, 3: 6}[num_domains]


@pytest.mark.parametrize("counts", [[0, 0], [0, 1], [1, 0]])
@pytest.mark.parametrize("mode", [True, False])
def test_a_batch_of_one_row_or_none_gives_finite_numbers(counts: list[int], mode: bool) -> None:
    model = ctr(backbone={"kind": "mmoe", "hidden_dims": [6], "num_experts": 2}, tower_norm=True, indicator_logit=True)
    logit: Tensor = model.train(mode)(random_features(counts), slices(counts))
    assert logit.shape == (sum(counts),)
    if not sum(counts):  # nothing to learn from
        return
    torch.autograd.backward(logit.sum())
    gradients = [p.grad.to_dense() for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"backbone": {"kind": "dnn"}},
        {"backbone": {"kind": "dnn", "hidden_dims": [4]}, "dropout": 1.0},
        {"backbone": {"kind": "dnn", "hidden_dims": [4]}, "initial_std": 0.0},
        {"backbone": {"kind": "dnn", "hidden_dims": [4]}, "tower_dims": [0]},
        {"backbone": {"kind": "dnn", "hidden_dims": [4]}, "tower_dim": 3},
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CTRSettings.model_validate(given)
