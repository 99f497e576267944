"""Which learning rate each parameter has: first-order weights their own, what a later stage carries over less."""

import pytest
import torch
from tests.every_click_model import SMALL, backbone, sized
from tests.tiny_ranking import random_features, slices
from torch import nn

from isthmus.errors import InputError
from isthmus.losses import click_loss
from isthmus.models.cdanet import AugmentationNetwork, CDAnetSettings, TranslationNetwork
from isthmus.models.ctr import CTRModel, CTRSettings, FirstOrder
from isthmus.models.ddtcdr import DDTCDRModel, DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings, KnowledgeExtractor, PlugInModel
from isthmus.settings import read_any_settings
from isthmus.training.optim import descend
from isthmus.training.ranking import RankingTrainingSettings, new_optimizers

RATES = RankingTrainingSettings(
    seed=0,
    epochs=1,
    learning_rate=0.001,
    network_learning_rate=0.002,
    first_order_learning_rate=0.25,
    later_rate_factor=0.5,
)


def ctr() -> nn.Module:
    return CTRModel(CTRSettings(backbone=backbone("mmoe"), linear=True, **SMALL), num_domains=2, **sized(2))


def translation() -> TranslationNetwork:
    settings = CDAnetSettings.model_validate({"extractor": backbone("mmoe"), "linear": True} | SMALL)
    return TranslationNetwork(settings, domain_names=("a", "b"), **sized(2))


def ddtcdr() -> nn.Module:
    return DDTCDRModel(DDTCDRSettings(embedding_dim=3, linear=True), num_domains=2, **sized(2))


def fm() -> nn.Module:
    return FactorisationMachine(FactorisationMachineSettings(embedding_dim=3), num_domains=2, **sized(2))


def knowledge() -> nn.Module:
    return KnowledgeExtractor(KEEP, num_domains=2, **sized(2))


def plug_in() -> nn.Module:
    return PlugInModel(KEEP, KnowledgeExtractor(KEEP, num_domains=2, **sized(2)), num_domains=2, **sized(2))


KEEP = KEEPSettings(embedding_dim=3, backbone=backbone("mmoe"), linear=True)
MODELS = {
    "ctr": ctr,
    "translation": translation,
    "ddtcdr": ddtcdr,
    "fm": fm,
    "knowledge": knowledge,
    "plug-in": plug_in,
}


def rates(model: nn.Module, settings: RankingTrainingSettings) -> dict[int, float]:
    """Each parameter's learning rate; every parameter has one optimizer."""
    found: dict[int, float] = {}
    for optimizer in new_optimizers(model, settings):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert id(parameter) not in found
                found[id(parameter)] = group["lr"]
    assert found.keys() == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    return found


def first_order_of(model: nn.Module) -> list[nn.Parameter]:
    terms = [module for module in model.modules() if isinstance(module, FirstOrder)]
    return [parameter for term in terms for parameter in term.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("kind", MODELS)
def test_first_order_weights_alone_have_their_own_rate(kind: str) -> None:
    model = MODELS[kind]()
    found, without = (
        rates(model, settings) for settings in (RATES, RATES.model_copy(update={"first_order_learning_rate": None}))
    )
    ours = first_order_of(model)
    assert len(ours) >= 3  # of the user's and the item's tables, and of the row's numbers
    assert {found.pop(id(parameter)) for parameter in ours} == {0.25}
    assert {without.pop(id(parameter)) for parameter in ours} == {0.001, 0.002}
    assert found == without


def test_a_later_stage_moves_what_it_carries_over_slower_and_what_is_new_at_full_rates() -> None:
    model = AugmentationNetwork(translation(), 0)
    found = rates(model, RATES)
    assert {found[id(parameter)] for parameter in first_order_of(model)} == {0.125}
    assert {found[id(parameter)] for parameter in model.tower.parameters()} == {0.002}
    assert {found[id(parameter)] for parameter in model.carried()} == {0.125, 0.0005, 0.001}


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_moves_them_by_that_rate(kind: str) -> None:
    torch.manual_seed(0)
    model, counts = MODELS[kind](), [6, 6]
    label = torch.arange(12).remainder(2).float()
    descend(click_loss(model(random_features(counts), slices(counts)), label).mean(), new_optimizers(model, RATES))
    # Adam's first step is its rate, whatever the gradient's size; they started at zero.
    moved = torch.cat([parameter.detach().flatten() for parameter in first_order_of(model)]).abs()
    touched = moved[moved > 0]
    assert touched.numel() >= 12
    assert (touched - 0.25).abs().max() < 1e-3


@pytest.mark.parametrize(
    "ranking", ["ranking.kind=keep", "ranking.kind=ddtcdr", "ranking.kind=ctr", "ranking.kind=cdanet"]
)
def test_a_rate_of_weights_that_a_model_lacks_is_refused(ranking: str) -> None:
    rate = "training.first_order_learning_rate=0.1"
    with pytest.raises(InputError, match=r"first_order_learning_rate: this model has no first-order weights; give"):
        read_any_settings(None, [ranking, rate], task="ranking")
    read_any_settings(None, [ranking, rate, "ranking.linear=true"], task="ranking")
    read_any_settings(None, ["ranking.kind=fm", rate], task="ranking")


@pytest.mark.parametrize("ranking", ["ranking.kind=keep", "ranking.kind=ctr", "ranking.stages=augmentation"])
def test_a_factor_of_what_no_stage_carries_over_is_refused(ranking: str) -> None:
    factor = "training.later_rate_factor=0.2"
    with pytest.raises(InputError, match=r"later_rate_factor: no stage of this model goes on with what .*leave it out"):
        read_any_settings(None, [ranking, factor], task="ranking")
    read_any_settings(None, [ranking, "training.later_rate_factor=1"], task="ranking")
    read_any_settings(None, [factor], task="ranking")
