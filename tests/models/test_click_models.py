"""What holds for every click model: rows stand alone, domains keep to themselves, every part learns, and is saved."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from tests.tiny_ranking import TABLES, random_features, ranking_sizes, slices, take
from torch import nn

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DCNSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.domains import DomainSlices
from isthmus.losses import click_loss
from isthmus.models.cdanet import AugmentationNetwork, CDAnet, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRModel, CTRSettings
from isthmus.models.ddtcdr import DDTCDRModel, DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings, KnowledgeExtractor, PlugInModel

BACKBONES: tuple[AnyBackboneSettings, ...] = (
    DNNSettings(hidden_dims=(6,)),
    IndependentSettings(hidden_dims=(6,)),
    SharedBottomSettings(hidden_dims=(6,), norm="domain"),
    CrossStitchSettings(hidden_dims=(6,), norm="none"),
    MMoESettings(hidden_dims=(6,), num_experts=2),
    PLESettings(hidden_dims=(6,), norm="none"),
    StarSettings(hidden_dims=(6,)),
    ADISettings(hidden_dims=(6,)),
    DCNSettings(hidden_dims=(6,), rank=2, norm="none"),
)
NUM_DOMAINS = 3
COUNTS = [5, 4, 6]


def sized() -> dict[str, object]:
    return {"num_domains": NUM_DOMAINS, "sizes": ranking_sizes(NUM_DOMAINS), "table_rows": TABLES}


def ctr(backbone: AnyBackboneSettings) -> nn.Module:
    settings = CTRSettings(
        embedding_dim=3,
        backbone=backbone,
        latent_dim=4,
        tower_dims=(3,),
        linear=True,
        indicator_logit=True,
        initial_std=0.5,
    )
    return CTRModel(settings, num_domains=NUM_DOMAINS, sizes=ranking_sizes(NUM_DOMAINS), table_rows=TABLES)


def translation(**changed: object) -> TranslationNetwork:
    settings = CDAnetSettings.model_validate(
        {
            "embedding_dim": 3,
            "extractor": {"kind": "mmoe", "hidden_dims": [6], "num_experts": 2, "norm": "none"},
            "own_extractors": {"b": {"kind": "dcn", "hidden_dims": [6], "norm": "none"}},
            "latent_dim": 4,
            "tower_dims": [3],
            "initial_std": 0.5,
        }
        | changed
    )
    sizes = ranking_sizes(NUM_DOMAINS)
    return TranslationNetwork(settings, domain_names=("a", "b", "c"), sizes=sizes, table_rows=TABLES)


def cdanet(**changed: object) -> nn.Module:
    first = translation(**changed)
    return CDAnet(first, {target: AugmentationNetwork(first, target) for target in (0, 2)})


def keep() -> nn.Module:
    settings = KEEPSettings(embedding_dim=3, backbone=DNNSettings(hidden_dims=(6,)), latent_dim=4, initial_std=0.5)
    sizes = ranking_sizes(NUM_DOMAINS)
    extractor = KnowledgeExtractor(settings, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES)
    return PlugInModel(settings, extractor, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES)


def ddtcdr(alpha: float = 0.3) -> DDTCDRModel:
    settings = DDTCDRSettings(
        embedding_dim=3, hidden_dims=(6,), latent_dim=4, alpha=alpha, linear=True, products=True, initial_std=0.5
    )
    return DDTCDRModel(settings, num_domains=NUM_DOMAINS, sizes=ranking_sizes(NUM_DOMAINS), table_rows=TABLES)


def fm() -> nn.Module:
    settings = FactorisationMachineSettings(embedding_dim=3, initial_std=0.5)
    return FactorisationMachine(settings, num_domains=NUM_DOMAINS, sizes=ranking_sizes(NUM_DOMAINS), table_rows=TABLES)


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"ctr-{backbone.kind}": partial(ctr, backbone) for backbone in BACKBONES},
    "translation": translation,
    "cdanet": cdanet,
    "cdanet-gate": lambda: cdanet(gate="sigmoid", linear=True),
    "fine-tune": lambda: cdanet(translator=False),
    "ddtcdr": ddtcdr,
    "keep": keep,
    "fm": fm,
}


@pytest.fixture(params=MODELS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[request.param]()


def loss_of(model: nn.Module, counts: list[int], seed: int = 0) -> torch.Tensor:
    features = random_features(counts, seed=seed)
    label = torch.tensor([float(i % 2) for i in range(sum(counts))])
    if isinstance(model, TranslationNetwork):
        made = model.translate(features, slices(counts))
        cross = nn.functional.softplus(made.cross_logit).sum() + made.cycle_error.sum()
        return click_loss(made.logit, label).sum() + cross
    loss: torch.Tensor = click_loss(model(features, slices(counts)), label).sum()
    return loss


def test_a_rows_score_ignores_the_rows_beside_it(model: nn.Module) -> None:
    model.eval()
    features = random_features(COUNTS)
    together = model(features, slices(COUNTS))
    row = 0
    for domain, count in enumerate(COUNTS):
        for _ in range(count):
            alone = model(take(features, [row]), DomainSlices.single(domain, 1, NUM_DOMAINS))
            assert torch.allclose(alone, together[row], atol=1e-6)
            row += 1
    backwards = model(take(features, [4, 3, 2, 1, 0]), DomainSlices.single(0, 5, NUM_DOMAINS))
    assert torch.allclose(backwards.flip(0), together[:5], atol=1e-6)
    assert model(take(features, []), slices([0, 0, 0])).shape == (0,)


def test_every_parameter_gets_a_gradient_or_is_frozen(model: nn.Module) -> None:
    if isinstance(model, CDAnet):
        pytest.skip("its stages are trained one by one: translation and augmentation have their own cases")
    model.train()
    loss_of(model, [40, 40, 40]).backward()  # type: ignore[no-untyped-call]
    # An independent extractor's parts of a domain that has its own are out of reach, as is the foreign part below.
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if isinstance(model, TranslationNetwork):
        missing = [name for name in missing if ".shared." not in name or ".1." not in name]
    assert missing == []


def test_weights_read_back_score_the_same_and_twice_the_same(model: nn.Module) -> None:
    model.eval()
    features = random_features(COUNTS)
    before = model(features, slices(COUNTS))
    assert torch.equal(before, model(features, slices(COUNTS)))
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(model.state_dict())
    assert torch.allclose(other(features, slices(COUNTS)), before, atol=1e-6)


def test_two_models_of_one_declaration_share_no_storage(model: nn.Module, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["model"]
    pointers = [
        {p.untyped_storage().data_ptr() for p in one.parameters() if p.numel()} for one in (model, MODELS[name]())
    ]
    assert not pointers[0] & pointers[1]


@pytest.mark.parametrize("name", ["ctr-mmoe", "ctr-star", "ctr-adi", "cdanet", "ddtcdr", "keep"])
def test_a_step_on_one_domain_leaves_what_another_owns_bit_identical(name: str) -> None:
    torch.manual_seed(1)
    model = MODELS[name]().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss_of(model, [6, 0, 0]).backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        if parameter.grad is not None:
            with torch.no_grad():
                parameter.sub_(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)
    owned = [key for key in before if any(f"{part}.2." in key for part in ("own_networks", "own_layers", "own_norms"))]
    if name == "ddtcdr":  # its dual prediction is made to move the other towers; its networks stay
        owned = [key for key in owned if not key.startswith("towers")]
    assert owned
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in owned)


def test_a_stage_scores_by_the_path_that_it_was_trained_on() -> None:
    torch.manual_seed(1)
    first = translation().eval()
    features = random_features(COUNTS)
    assert torch.equal(first(features, slices(COUNTS)), first.translate(features, slices(COUNTS)).logit)
    second = AugmentationNetwork(first, 0).eval()
    own, rows = take(features, range(5)), DomainSlices.single(0, 5, NUM_DOMAINS)
    assert torch.equal(second(own, rows), second.augment(own, rows).logit)
    whole = CDAnet(first, {0: second}).eval()
    assert torch.allclose(whole(features, slices(COUNTS))[:5], second(own, rows), atol=1e-6)
    assert torch.allclose(whole(features, slices(COUNTS))[5:], first(features, slices(COUNTS))[5:], atol=1e-6)


def test_a_step_translates_into_as_many_other_domains_as_it_is_told_each_as_often_as_any() -> None:
    torch.manual_seed(1)
    few, features = translation(others_per_step=1, dropout=0.0), random_features(COUNTS)
    every = few.eval().translate(features, slices(COUNTS))
    assert every.cross_logit.shape == (sum(COUNTS), NUM_DOMAINS - 1)
    few.train()
    drawn = torch.zeros(sum(COUNTS), NUM_DOMAINS - 1)
    for _ in range(200):
        made = few.translate(features, slices(COUNTS))
        assert made.cross_logit.shape == made.cycle_error.shape == (sum(COUNTS), 1)
        assert torch.allclose(made.logit, every.logit)
        is_it = torch.isclose(every.cross_logit, made.cross_logit) & torch.isclose(every.cycle_error, made.cycle_error)
        assert torch.equal(is_it.sum(dim=1), torch.ones(sum(COUNTS), dtype=torch.int64))
        drawn += is_it
    assert bool(((drawn > 70) & (drawn < 130)).all())  # of two, each about a hundred times
    torch.manual_seed(1)
    as_many = translation(others_per_step=NUM_DOMAINS, dropout=0.0).train()
    assert torch.equal(as_many.translate(features, slices(COUNTS)).cross_logit, every.cross_logit)


def test_the_second_stage_starts_from_the_first_and_leaves_it_alone() -> None:
    torch.manual_seed(1)
    first = translation()
    second = AugmentationNetwork(first, 1)
    there, here = first.state_dict(), second.state_dict()
    assert torch.equal(here["embedding.user.tables.0.weight"], there["embedding.user.tables.0.weight"])
    pointers = [{p.untyped_storage().data_ptr() for p in one.parameters()} for one in (first, second)]
    assert not pointers[0] & pointers[1]
    assert len(second.translators) == NUM_DOMAINS - 1


def test_rows_of_another_domain_than_the_target_are_refused() -> None:
    second = AugmentationNetwork(translation(), 1)
    with pytest.raises(AssertionError, match="another domain"):
        second(random_features([2, 0, 0]), slices([2, 0, 0]))


def test_an_open_gate_lets_through_nine_tenths_and_none_lets_through_all() -> None:
    z = torch.randn(3, 4)
    assert AugmentationNetwork(translation(), 0).gate_weights(z).tolist() == [[1.0, 1.0]] * 3
    gated = AugmentationNetwork(translation(gate="sigmoid"), 0).gate_weights(z)
    assert torch.allclose(gated, torch.full((3, 2), 0.8808), atol=1e-4)


def test_domains_renumbered_permute_the_scores_and_nothing_else() -> None:
    torch.manual_seed(1)
    model = ctr(MMoESettings(hidden_dims=(6,), num_experts=2, norm="none")).eval()
    features = random_features([4, 4, 0])
    swapped = deepcopy(model)
    state = model.state_dict()

    def renamed(key: str) -> str:
        for part in ("own_gates", "own_networks", "own_layers", "own_vectors"):
            for a, b in (("0", "1"), ("1", "0")):
                if f"{part}.{a}" in key and "auxiliary" not in key:
                    return key.replace(f"{part}.{a}", f"{part}.{b}", 1)
        return key

    swapped.load_state_dict({renamed(key): value for key, value in state.items()})
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    ours = model(features, slices([4, 4, 0]))
    assert torch.allclose(swapped(take(features, order), slices([4, 4, 0])), ours[order], atol=1e-6)


def test_a_domains_rows_reach_the_map_and_the_other_towers_of_ddtcdr() -> None:
    torch.manual_seed(1)
    model = ddtcdr()
    loss_of(model, [6, 0, 0]).backward()  # type: ignore[no-untyped-call]
    assert model.maps[0].free.grad.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert model.towers.output.own_layers[1].weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_ddtcdr_maps_one_way_by_x_and_back_by_its_transpose() -> None:
    torch.manual_seed(1)
    model = ddtcdr()
    u = torch.randn(5, 4)
    assert torch.allclose(model.map_user(model.map_user(u, 0, 2), 2, 0), u, atol=1e-5)
    x = model.maps[1]()
    assert torch.allclose(x.T @ x, torch.eye(4), atol=1e-5)
    assert torch.allclose(model.map_user(u, 0, 2), u @ x.T, atol=1e-6)


def test_ddtcdrs_logit_is_that_of_the_mixed_probability() -> None:
    torch.manual_seed(1)
    mixed, own = ddtcdr(0.3), ddtcdr(0.0)
    own.load_state_dict(mixed.state_dict())
    other = ddtcdr(0.999999)
    other.load_state_dict(mixed.state_dict())
    features, rows = random_features([4, 0, 0]), slices([4, 0, 0])
    expected = 0.7 * own(features, rows).sigmoid() + 0.3 * other(features, rows).sigmoid()
    assert torch.allclose(mixed(features, rows).sigmoid(), expected, atol=1e-4)


def test_keeps_extractor_is_frozen_bit_for_bit_and_starts_from_the_base_model() -> None:
    torch.manual_seed(1)
    model = keep().train()
    assert isinstance(model, PlugInModel)
    before = {name: value.clone() for name, value in model.extractor.state_dict().items()}
    features = random_features(COUNTS)
    model.eval()
    base = model(features, slices(COUNTS))
    with torch.no_grad():
        model.gate.weight.add_(1.0)  # what is plugged in starts at zero, whatever the gate says
    assert torch.equal(model(features, slices(COUNTS)), base)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    loss_of(model, COUNTS).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert not model.extractor.training
    assert all(torch.equal(value, model.extractor.state_dict()[name]) for name, value in before.items())


def test_the_factorisation_machine_is_the_sum_over_pairs() -> None:
    torch.manual_seed(1)
    model = fm()
    assert isinstance(model, FactorisationMachine)
    features, rows = random_features([2, 0, 0]), slices([2, 0, 0])
    fields = model.embedding(features, rows)
    for row in range(2):
        pairs = sum(float((fields[row, i] @ fields[row, j]).detach()) for i in range(5) for j in range(i))
        assert float(model(features, rows)[row].detach()) == pytest.approx(
            pairs, abs=1e-5
        )  # first-order weights start at 0


def test_keeps_products_are_of_the_user_with_the_knowledge_plugged_in() -> None:
    settings = KEEPSettings(embedding_dim=3, backbone=DNNSettings(hidden_dims=(6,)), products=True, initial_std=0.5)
    sizes = ranking_sizes(NUM_DOMAINS)
    extractor = KnowledgeExtractor(settings, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES)
    model = PlugInModel(settings, extractor, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES).eval()
    torch.nn.init.normal_(model.projection.weight)
    rows, domains = random_features(COUNTS), slices(COUNTS)
    read = model.backbone_input(rows, domains)
    width = sizes.num_fields * 3
    plugged = read[:, :width].view(-1, sizes.num_fields, 3)
    assert model.products is not None
    torch.testing.assert_close(read[:, width:], model.products(plugged))
    assert (model.products(model.embedding(rows, domains)) - read[:, width:]).abs().max() > 0.1


def test_keep_knows_a_users_first_order_weight_frozen_and_learns_its_own_beside() -> None:
    settings = KEEPSettings(embedding_dim=3, backbone=DNNSettings(hidden_dims=(6,)), linear=True, initial_std=0.5)
    sizes = ranking_sizes(NUM_DOMAINS)
    extractor = KnowledgeExtractor(settings, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES)
    model = PlugInModel(settings, extractor, num_domains=NUM_DOMAINS, sizes=sizes, table_rows=TABLES).eval()
    rows, domains = random_features(COUNTS), slices(COUNTS)
    bare, bare_knowledge = model(rows, domains), model.extractor(rows, domains)
    assert model.first_order is not None
    assert model.extractor.first_order is not None
    own, known = model.first_order.embedding, model.extractor.first_order.embedding
    for embedding in (own, known):
        for parameter in embedding.parameters():
            torch.nn.init.normal_(parameter)
    of_user = known(rows, domains)[:, : sizes.user.num_fields].sum(dim=(1, 2))
    torch.testing.assert_close(model(rows, domains), bare + own(rows, domains).sum(dim=(1, 2)) + of_user)
    # The extractor itself learns by the weights of all fields.
    everything = known(rows, domains).sum(dim=(1, 2))
    torch.testing.assert_close(model.extractor(rows, domains), bare_knowledge + everything)
    assert (everything - of_user).abs().min() > 1e-3
    model(rows, domains).sum().backward()
    assert all(parameter.grad is not None for parameter in own.parameters())
    assert all(parameter.grad is None for parameter in known.parameters())


def test_ddtcdrs_towers_read_the_products_of_its_fields() -> None:
    model = ddtcdr(alpha=0.0)
    for network in (model.user_network, model.item_network):
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)  # nothing but the products tells rows of a domain apart
    for parameter in model.towers.parameters():
        torch.nn.init.ones_(parameter)
    rows, domains = random_features(COUNTS), slices(COUNTS)
    assert model.products is not None
    summed = model.products(model.embedding(rows, domains)).sum(dim=1)
    width = model.towers.hidden.out_dim
    assert torch.allclose(model(rows, domains), width * (summed + 1).relu() + 1, atol=1e-4)
    assert summed.std() > 0.1
