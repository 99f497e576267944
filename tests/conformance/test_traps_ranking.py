"""Every click model against every trap that a model can fall into: T1, T2, T4, T5, T6, T7, T8, T10 and the device.

The models: every backbone with towers, as CDAnet's extractor in its first stage, in its second and in both, and under
KEEP; CDAnet with extractors of domains' own, with a gate, without translator and for two domains; DDTCDR; the
factorisation machine.
"""

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
import torch
from tests.every_click_model import BACKBONES, MODELS, TARGET
from tests.renumbering import renamed, renumbered_sizes, reordered
from tests.tiny_ranking import TABLES, random_features, slices, take
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isthmus.batch import RankingBatch, RankingFeatures
from isthmus.domains import DomainSlices
from isthmus.layers.experts import Gate
from isthmus.layers.mlp import MLP
from isthmus.models.cdanet import AugmentationNetwork, CDAnet, TranslationNetwork
from isthmus.training.ranking import (
    RankingTrainingSettings,
    Stage,
    new_optimizers,
    ranking_loss,
    row_weights,
    train_step,
)

COUNTS = [5, 4, 6]
WITH_GATES = ("mmoe", "ple", "adi")
TRAINED = [name for name in MODELS if not name.startswith("cdanet")]  # CDAnet whole is trained by its stages
SEVERAL = [name for name in TRAINED if not name.startswith("augmentation")]  # with rows of several domains
FAST = RankingTrainingSettings(seed=0, epochs=1, learning_rate=0.05, network_learning_rate=0.05)


def counts_of(name: str) -> list[int]:
    """Rows of each domain that the model can score."""
    if name.startswith("augmentation"):
        return [0, 0, COUNTS[TARGET]]
    return COUNTS[:2] if name.endswith("of two") else COUNTS


def built(name: str, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name]()


def batch(counts: list[int], seed: int = 0) -> RankingBatch:
    label = torch.tensor([float(number % 2) for number in range(sum(counts))])
    return RankingBatch(random_features(counts, seed=seed), label, slices(counts))


def stage_of(counts: list[int]) -> Stage:
    return Stage("tried", 0, tuple(range(len(counts))), None, alpha=0.5, beta=0.5)


def steps(model: nn.Module, batches: Iterable[RankingBatch], settings: RankingTrainingSettings = FAST) -> None:
    """Train on some batches with one pair of optimizers, as a stage does."""
    stage = stage_of(COUNTS)
    optimizers = new_optimizers(model, settings)
    model.train()
    for one in batches:
        train_step(model, optimizers, one, stage, settings)


def some_trained(name: str) -> nn.Module:
    """A model whose norms have seen rows and whose numbers are no longer those it starts with; in evaluation mode."""
    model = built(name)
    if isinstance(model, CDAnet):
        first = model.translation
        assert isinstance(first, TranslationNetwork)
        steps(first, [batch(counts_of(name), seed) for seed in range(3)])
        own = {target: AugmentationNetwork(first, target) for target in model.targets}
        for target, part in own.items():
            counts = [7 if d == target else 0 for d in range(first.num_domains)]
            steps(part, [batch(counts, seed) for seed in range(3)])
        return CDAnet(first, own).eval()
    counts = [3 * count for count in counts_of(name)]
    steps(model, [batch(counts, seed) for seed in range(3)])
    return model.eval()


def logits(model: nn.Module, features: RankingFeatures, rows: DomainSlices) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(features, rows)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_t1_a_rows_score_ignores_the_rows_beside_it(name: str) -> None:
    model, counts = some_trained(name), counts_of(name)
    features = random_features(counts)
    together = logits(model, features, slices(counts))
    row = 0
    for domain, count in enumerate(counts):
        first = row
        for _ in range(count):
            alone = logits(model, take(features, [row]), DomainSlices.single(domain, 1, len(counts)))
            torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-5)
            row += 1
        if count:
            order = list(range(row - 1, first - 1, -1))
            backwards = logits(model, take(features, order), DomainSlices.single(domain, count, len(counts)))
            torch.testing.assert_close(backwards, together[order], atol=1e-5, rtol=1e-5)
    assert logits(model, take(features, []), slices([0] * len(counts))).shape == (0,)
    assert float(together.std()) > 100 * 1e-5  # the rows differ by far more than is let pass


def owned(name: str, keys: Iterable[str], domain: int) -> set[str]:
    """What is one domain's alone: in a list named `own_...`, or a translator out of the domain."""
    found = {key for key in keys if re.search(rf"\bown_\w+\.{domain}\b", key)}
    if name.startswith("keep"):  # of the frozen extractor nothing moves, nor is it of a domain
        found = {key for key in found if not key.startswith("extractor.")}
    found |= {key for key in keys if name.startswith("translation") and key.startswith(f"translators.{domain}.")}
    # A domain's own extractor stands in `own_extractors` by its place there, and holds parts of all domains.
    others = {"own": {0: (), 1: ("0",), 2: ("1",)}}.get(name.split(" ")[-1], {}).get(domain)
    if others is not None:
        found = {key for key in found if not key.startswith("extractor.own_extractors.")}
        found |= {key for key in keys if any(key.startswith(f"extractor.own_extractors.{place}.") for place in others)}
    if name.startswith(("translation", "ddtcdr")):
        # Cross-supervision and the dual prediction are there to move the other domains' towers.
        found = {key for key in found if not key.startswith("towers.")}
    # Every row passes all of Cross-Stitch's networks and stitches, save the last stitch.
    return {key for key in found if "stitches." not in key or re.search(rf"stitches\.0\.own_weights\.{domain}$", key)}


@pytest.mark.parametrize("name", SEVERAL)
def test_t2_a_step_on_one_domain_leaves_what_another_owns_bit_identical(name: str) -> None:
    decaying = FAST.model_copy(update={"weight_decay": 0.1, "network_weight_decay": 0.1})
    model, counts, stage = built(name).train(), counts_of(name), stage_of(counts_of(name))
    optimizers = new_optimizers(model, decaying)
    train_step(model, optimizers, batch([3 * count for count in counts]), stage, decaying)  # gives everything momentum
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train_step(model, optimizers, batch([9] + [0] * (len(counts) - 1), seed=1), stage, decaying)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    last = len(counts) - 1
    assert owned(name, before, last) or name in ("knowledge", "translation dnn", "translation dcn")
    assert not moved & owned(name, before, last)
    assert moved
    own = {key for key in owned(name, before, 0) - moved if not key.startswith("extractor.own_extractors")}
    assert not {key for key in own if not key.endswith("bias")}


@pytest.mark.parametrize("name", SEVERAL)
def test_t2_a_step_leaves_the_embeddings_of_values_that_it_does_not_hold_bit_identical(name: str) -> None:
    decaying = FAST.model_copy(update={"weight_decay": 0.1})
    model, counts, stage = built(name).train(), counts_of(name), stage_of(counts_of(name))
    optimizers = new_optimizers(model, decaying)
    train_step(model, optimizers, batch([30] * len(counts)), stage, decaying)
    tables = {key: table for key, table in model.named_modules() if isinstance(table, nn.Embedding) and "user" in key}
    tables = {key: table for key, table in tables.items() if table.num_embeddings == TABLES["user"]}
    before = {key: table.weight.detach().clone() for key, table in tables.items()}
    one = batch([1] + [0] * (len(counts) - 1), seed=3)
    user = int(one.features.user.categorical[0, 0])
    train_step(model, optimizers, one, stage, decaying)
    others = [row for row in range(TABLES["user"]) if row != user]
    assert tables
    for key, table in tables.items():
        assert torch.equal(table.weight[others], before[key][others]), key
    assert any(not torch.equal(table.weight[user], before[key][user]) for key, table in tables.items())


def out_of_reach(name: str, keys: Iterable[str]) -> set[str]:
    """What no row of the model's stage passes, by design: parts of a shared extractor that other domains own."""
    if name.startswith("translation own"):  # a and b, c apart: a domain's own extractor takes its rows away
        shared = {key for d in (1, 2) for key in keys if re.search(rf"extractor\.shared\..*\bown_\w+\.{d}\b", key)}
        own = {key for d in (0, 1) for key in keys if re.search(rf"own_extractors\.1\..*\bown_\w+\.{d}\b", key)}
        return shared | own
    if name.startswith("augmentation"):
        found = {key for d in (0, 1) for key in keys if re.search(rf"^extractor\..*\bown_\w+\.{d}\b", key)}
        if name.endswith("cross_stitch"):  # all its networks are passed, and of the stitches all but the last
            found = {key for key in found if "stitches.0.own_weights" in key or ".output." in key}
        return found
    return set()


@pytest.mark.parametrize("name", TRAINED)
def test_t4_every_parameter_moves_in_some_steps_or_is_frozen(name: str) -> None:
    model, counts = built(name), [40 if count else 0 for count in counts_of(name)]
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    steps(model, [batch(counts, seed) for seed in range(4)])
    learns = {key for key, value in model.named_parameters() if value.requires_grad}
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    frozen = {key for key in before if name.startswith("keep") and key.startswith("extractor.")}
    assert set(before) - learns == frozen
    assert still == frozen | out_of_reach(name, before)


@pytest.mark.parametrize("name", MODELS)
def test_t5_weights_read_back_score_the_same_and_twice_the_same(name: str) -> None:
    model, counts = some_trained(name), counts_of(name)
    features = random_features(counts)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    once = logits(model, features, slices(counts))
    assert torch.equal(once, logits(model, features, slices(counts)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    other = built(name, seed=2).eval()
    assert not torch.equal(logits(other, features, slices(counts)), once)
    other.load_state_dict(before)
    assert torch.equal(logits(other, features, slices(counts)), once)


@pytest.mark.parametrize("name", MODELS)
def test_t6_two_models_of_one_declaration_share_no_storage(name: str) -> None:
    models = built(name), built(name)
    pointers = [
        {value.untyped_storage().data_ptr() for value in model.state_dict().values() if value.numel()}
        for model in models
    ]
    assert all(pointers)
    assert not pointers[0] & pointers[1]


@pytest.mark.parametrize("name", MODELS)
def test_t7_what_is_trained_is_what_is_scored(name: str) -> None:
    model, counts = some_trained(name), counts_of(name)
    one = batch(counts)
    scored = logits(model, one.features, one.domain_slices)
    plain = Stage("tried", 0, tuple(range(len(counts))), None, alpha=0.0, beta=0.0)
    if not isinstance(model, CDAnet):
        trained_on = ranking_loss(model, one, plain).detach()
        expected = nn.functional.softplus(torch.where(one.label > 0, -scored, scored))
        torch.testing.assert_close(trained_on, expected, atol=1e-6, rtol=1e-5)
        return
    first = model.translation
    assert isinstance(first, TranslationNetwork)
    expected = first.translate(one.features, one.domain_slices).logit.detach().clone()
    start = 0
    for domain, count in enumerate(counts):
        if domain in model.targets:
            part = model.augmentations[model.targets.index(domain)]
            assert isinstance(part, AugmentationNetwork)
            own = take(one.features, range(start, start + count))
            made = part.augment(own, DomainSlices.single(domain, count, len(counts)))
            expected[start : start + count] = made.logit.detach()
        start += count
    torch.testing.assert_close(scored, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name.split(" ")[-1] in WITH_GATES])
def test_t8_gates_sum_to_one_and_experts_stay_apart(name: str) -> None:
    model = some_trained(name)
    weights: list[Tensor] = []
    ranks: list[int] = []

    def note_gate(_: nn.Module, __: object, output: Tensor) -> None:
        weights.append(output)

    def note_expert(_: nn.Module, __: object, output: Tensor) -> None:
        ranks.append(int(torch.linalg.matrix_rank(output - output.mean(dim=0))))

    for part in model.modules():
        if isinstance(part, Gate):
            part.register_forward_hook(note_gate)
        elif isinstance(part, MLP):
            part.register_forward_hook(note_expert)
    for mode in (True, False):
        with torch.no_grad():
            counts = [40 if count else 0 for count in counts_of(name)]
            model.train(mode)(random_features(counts), slices(counts))
    assert weights
    for one in weights:
        assert bool((one >= 0).all())
        torch.testing.assert_close(one.sum(dim=-1), torch.ones(one.shape[:-1]))
    assert ranks
    assert max(ranks) > 1


NEW_NUMBER = (2, 0, 1)  # of domains 0, 1 and 2


def renumbered(name: str, model: nn.Module) -> nn.Module:
    """The same model, its domains under their new numbers."""
    other = built(name, seed=2)
    state = {}
    for key, value in model.state_dict().items():
        is_of_all = renamed(key, (1, 1, 1)) not in model.state_dict()  # a single tower, not one a domain
        new_key, new_value = key if is_of_all else renamed(key, NEW_NUMBER), value
        if found := re.match(r"translators\.(\d)\.(\d)(\..*)", key):
            source, place = int(found[1]), int(found[2])
            towards = NEW_NUMBER[[d for d in range(3) if d != source][place]]
            source = NEW_NUMBER[source]
            new_key = f"translators.{source}.{[d for d in range(3) if d != source].index(towards)}{found[3]}"
        elif found := re.match(r"maps\.(\d)\.free", key):
            pairs = list(combinations(range(3), 2))
            low, high = (NEW_NUMBER[d] for d in pairs[int(found[1])])
            new_key = f"maps.{pairs.index((min(low, high), max(low, high)))}.free"
            new_value = value if low < high else value.T  # X of the way back is the transpose, and exp(A)^T = exp(A^T)
        state[new_key] = new_value
    other.load_state_dict(state)
    renumbered_sizes(other, NEW_NUMBER)
    return other.eval()


RENUMBERED = [name for name in SEVERAL if "of two" not in name and name != "translation own"]


@pytest.mark.parametrize("name", RENUMBERED)
def test_t10_domains_renumbered_permute_the_scores_and_nothing_else(name: str) -> None:
    model = some_trained(name)
    other = renumbered(name, model)
    features = random_features(COUNTS)
    order, counts = reordered(COUNTS, NEW_NUMBER)
    expected = logits(model, features, slices(COUNTS))[order]
    found = logits(other, take(features, order), slices(counts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if isinstance(model, TranslationNetwork):
        assert isinstance(other, TranslationNetwork)
        made, there = (
            one.translate(which, slices(rows))
            for one, which, rows in ((model, features, COUNTS), (other, take(features, order), counts))
        )
        torch.testing.assert_close(
            there.cycle_error.sum(dim=1), made.cycle_error.sum(dim=1)[order], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            there.cross_logit.sum(dim=1), made.cross_logit.sum(dim=1)[order], atol=1e-4, rtol=1e-4
        )


FACTORIES = (
    *(torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.tensor, torch.as_tensor),
    *(torch.rand, torch.randn, torch.randint, torch.eye, torch.linspace, torch.scalar_tensor),
)


class NamedDevices(TorchFunctionMode):
    """Refuses whatever makes a tensor without saying on which device: it would be on the processor."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in FACTORIES or (kwargs or {}).get("device") is not None, f"{function.__name__}: no device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_is_made_on_another_device_than_the_models(name: str) -> None:
    model, one = some_trained(name), batch(counts_of(name))
    parameters = [value for value in model.parameters() if value.requires_grad]
    with NamedDevices():
        if isinstance(model, CDAnet):
            model(one.features, one.domain_slices)
            return
        loss = ranking_loss(model.train(), one, stage_of(counts_of(name)))
        weights = row_weights(one.domain_slices, "domains", loss)
        torch.autograd.backward((loss * weights).sum())
    assert any(value.grad is not None for value in parameters)


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_runs_where_no_tensor_has_numbers(name: str) -> None:
    there = torch.device("meta")  # mixing its tensors with the processor's fails, as an accelerator's do
    model, counts = built(name).to(there), counts_of(name)
    loss = ranking_loss(model, batch(counts).to(there), stage_of(counts))
    torch.autograd.backward((loss * row_weights(slices(counts), "domains", loss)).sum())
    assert loss.device == there
    for value in model.parameters():
        assert value.grad is None or value.grad.device == there


def test_a_tensor_without_a_device_is_found() -> None:
    with NamedDevices(), pytest.raises(AssertionError, match="zeros: no device"):
        torch.zeros(3)


def test_the_suite_holds_every_model() -> None:
    assert len(BACKBONES) == 9
    assert len(MODELS) == 5 * 9 + 3 * 3 + 5
    assert (len(TRAINED), len(SEVERAL), len(RENUMBERED)) == (46, 34, 32)
    kinds = {type(built(name)).__name__ for name in MODELS}
    assert kinds == {
        *("CTRModel", "TranslationNetwork", "AugmentationNetwork", "CDAnet", "DDTCDRModel"),
        *("PlugInModel", "KnowledgeExtractor", "FactorisationMachine"),
    }
