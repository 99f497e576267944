"""On an accelerator every model learns as on the processor, and a run folder goes from one to the other."""

from pathlib import Path

import pytest
import torch
from tests.models.test_click_models import COUNTS, MODELS
from tests.tiny_ranking import random_features, slices
from tests.training.test_ranking_runs import KINDS, settings_of
from torch import nn

from isthmus.api import RankingRun, Run, open_run, train
from isthmus.backbones.settings import ADISettings
from isthmus.batch import RankingBatch
from isthmus.data.dataset import Dataset
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.settings import RunSettings
from isthmus.training.ranking import RankingTrainingSettings, Stage, new_optimizers, ranking_loss, train_step
from isthmus.training.retrieval import TrainingSettings
from isthmus.training.self_training import SelfTrainingSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")
STEP = RankingTrainingSettings(seed=0, epochs=1)
TOLERANCE = 1e-4  # of single precision, summed in another order


def learned(model: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """The gradients of a batch on a device, and the losses before and after a step, brought back."""
    model.to(device).eval()  # without dropout, which draws other numbers there
    stage = Stage("click", 0, (0, 1, 2), None, alpha=0.1, beta=0.1)
    label = torch.tensor([float(i % 2) for i in range(sum(COUNTS))])
    batch = RankingBatch(features=random_features(COUNTS), label=label, domain_slices=slices(COUNTS)).to(device)
    torch.autograd.backward(ranking_loss(model, batch, stage).mean())
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = (parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad).cpu()
    optimizers = new_optimizers(model, STEP)
    found["loss before"] = train_step(model, optimizers, batch, stage, STEP)
    found["loss after"] = train_step(model, optimizers, batch, stage, STEP)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_click_model_learns_the_same_there_as_on_the_processor(name: str) -> None:
    found = []
    for device in (torch.device("cpu"), CUDA):
        torch.manual_seed(1)
        found.append(learned(MODELS[name](), device))
    on_processor, there = found
    assert set(there) == set(on_processor)
    assert len(there) > 2
    for part, value in on_processor.items():
        torch.testing.assert_close(there[part], value, atol=TOLERANCE, rtol=TOLERANCE, msg=f"{name}: {part}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_ranker_trained_on_the_accelerator_is_resumed_there_and_scores_the_same_on_the_processor(
    labelled: Dataset, tmp_path: Path, kind: str
) -> None:
    def ignore(_: str) -> None:
        pass

    whole = train(labelled.path, tmp_path / "run", settings_of(kind), device="cuda", say=ignore)
    assert next(whole.model.parameters()).is_cuda
    (tmp_path / "run" / "best.pt").unlink()  # as if it had been killed before the end
    train(labelled.path, tmp_path / "run", settings_of(kind), device="cuda", say=ignore)
    runs = [open_run(tmp_path / "run", device=device) for device in ("cpu", "cuda")]
    logits = []
    for run in runs:
        assert isinstance(run, RankingRun)
        logits.append(run.evaluate("test").logit)
    torch.testing.assert_close(logits[0], logits[1], atol=TOLERANCE, rtol=TOLERANCE)


def test_retrieval_with_self_training_runs_there_and_retrieves_the_same_on_the_processor(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = RunSettings(
        retrieval=TwoTowerSettings(embedding_dim=4, backbone=ADISettings(hidden_dims=(8,))),
        training=TrainingSettings(seed=0, epochs=2, batch_size=256, self_training=SelfTrainingSettings(share=0.2)),
    )
    train(tiny_dataset.path, tmp_path / "run", settings, device="cuda", say=lambda _: None)
    results = []
    for device in ("cpu", "cuda"):
        run = open_run(tmp_path / "run", device=device)
        assert isinstance(run, Run)
        assert [one.item for one in run.recommend("shop", user=tiny_dataset.vocabulary("user")[0], k=5).items]
        results.append(run.evaluate("test").metrics["recall@10"].mean())
    assert float((results[0] - results[1]).abs()) < 0.01  # near ties may change places
