"""Training in mixed precision: near to float32 in values and gradients, and float32 in all that is kept."""

import pytest
import torch
from tests.every_click_model import MODELS
from tests.tiny_ranking import random_features, slices
from torch import Tensor, nn

from isthmus.batch import RankingBatch
from isthmus.training.ranking import RankingTrainingSettings, Stage, new_optimizers, ranking_loss, train_step

MIXED = RankingTrainingSettings(seed=0, epochs=1, learning_rate=0.01, network_learning_rate=0.01, precision="bfloat16")
TRAINED = [name for name in MODELS if not name.startswith("cdanet")]


def stage_and_batch(name: str) -> tuple[Stage, RankingBatch]:
    counts = [0, 0, 24] if name.startswith("augmentation") else [8, 8] if name.endswith("of two") else [8, 9, 7]
    domains = tuple(domain for domain, count in enumerate(counts) if count)
    label = (torch.arange(sum(counts)) % 3 == 0).float()
    return Stage("stage", 0, domains, None, alpha=0.5, beta=0.5), RankingBatch(
        random_features(counts, seed=3), label, slices(counts)
    )


def gradients(model: nn.Module) -> Tensor:
    found = [value.grad for value in model.parameters() if value.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in found)
    return torch.cat([grad.to_dense().flatten() for grad in found])


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_are_near_those_of_float32(name: str) -> None:
    torch.manual_seed(1)
    model = MODELS[name]().train()
    stage, batch = stage_and_batch(name)
    states = {key: value.clone() for key, value in model.state_dict().items()}
    found = []
    for mixed in (False, True):
        model.load_state_dict(states)
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = ranking_loss(model, batch, stage)
        assert loss.dtype == torch.float32
        torch.autograd.backward(loss.mean())
        found.append((loss.detach(), gradients(model)))
    (plain_loss, plain), (mixed_loss, mixed_gradients) = found
    torch.testing.assert_close(mixed_loss, plain_loss, rtol=0.05, atol=0.05)
    assert torch.nn.functional.cosine_similarity(plain, mixed_gradients, dim=0) > 0.98


@pytest.mark.parametrize("name", ["ctr mmoe", "translation ple"])
def test_what_is_kept_and_what_is_scored_is_float32(name: str) -> None:
    torch.manual_seed(1)
    model = MODELS[name]().train()
    stage, batch = stage_and_batch(name)
    optimizers = new_optimizers(model, MIXED)
    first = train_step(model, optimizers, batch, stage, MIXED).mean()
    for _ in range(60):
        last = train_step(model, optimizers, batch, stage, MIXED).mean()
    assert last < 0.8 * first
    assert all(value.dtype == torch.float32 for value in model.parameters())
    for optimizer in optimizers:
        for state in optimizer.state.values():
            assert all(value.dtype == torch.float32 for value in state.values())
    with torch.no_grad():
        assert model.eval()(batch.features, batch.domain_slices).dtype == torch.float32
