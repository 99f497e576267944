import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.interest_adaptation import (
    GlobalSEAdaptation,
    LinearAdaptation,
    NetworkSE,
    SEAdaptation,
    SEBlock,
    VanillaAttention,
)

NUM_FIELDS, DIM = 3, 4
KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: LinearAdaptation(2, NUM_FIELDS, DIM),
    "attention": lambda: VanillaAttention(2, NUM_FIELDS, DIM),
    "se": lambda: SEAdaptation(2, NUM_FIELDS, 2),
    "se_plain": lambda: SEAdaptation(2, NUM_FIELDS, 2, "linear"),
    "global_se": lambda: GlobalSEAdaptation(NUM_FIELDS, 2),
}


def noisy(name: str) -> nn.Module:
    """An adaptation whose domains differ, also where they start alike."""
    torch.manual_seed(0)
    layer = KINDS[name]().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    return layer


def test_the_suite_runs_every_kind() -> None:
    assert len(KINDS) == 5


@pytest.mark.parametrize("name", list(KINDS))
def test_a_row_is_adapted_by_its_domain_and_ignores_its_neighbours(name: str) -> None:
    layer = noisy(name)
    x = torch.randn(1, NUM_FIELDS, DIM, dtype=torch.float64).repeat(4, 1, 1)
    y: Tensor = layer(x, DomainSlices((0, 1, 4)))
    assert y.shape == x.shape
    alone: Tensor = layer(x[:1], DomainSlices((0, 0, 1)))
    torch.testing.assert_close(y[1:], alone.repeat(3, 1, 1))
    assert torch.allclose(y[0], y[1]) == (name == "global_se")


@pytest.mark.parametrize("name", list(KINDS))
def test_no_rows_stay_no_rows(name: str) -> None:
    y: Tensor = KINDS[name]()(torch.empty(0, NUM_FIELDS, DIM), DomainSlices((0, 0, 0)))
    assert y.shape == (0, NUM_FIELDS, DIM)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_domain_without_rows_gets_no_gradient(name: str) -> None:
    layer = noisy(name)
    layer(torch.randn(3, NUM_FIELDS, DIM, dtype=torch.float64), DomainSlices((0, 3, 3))).sum().backward()
    absent = [p.grad for key, p in layer.named_parameters() if key.startswith("own_") and ".1" in key]
    assert all(grad is None for grad in absent)
    assert absent or name == "global_se"


def test_the_linear_adaptation_starts_as_the_identity() -> None:
    x = torch.randn(3, NUM_FIELDS, DIM)
    assert torch.equal(LinearAdaptation(2, NUM_FIELDS, DIM)(x, DomainSlices((0, 1, 3))), x)


def test_attention_starts_at_one_half_and_follows_its_query() -> None:
    layer = VanillaAttention(2, 2, 2)
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]])
    assert layer.weights(x, DomainSlices((0, 1, 2))).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with torch.no_grad():  # domain 1, field 1: <(1, -1), (3, 4)> = -1
        layer.own_queries[1].copy_(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    y: Tensor = layer(x, DomainSlices((0, 1, 2)))
    a = 1 / (1 + math.e)
    assert y.flatten(1).tolist() == [pytest.approx([0.5, 1.0, 1.5, 2.0]), pytest.approx([0.5, 1.0, 3 * a, 4 * a])]


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_a_block_reads_the_mean_of_each_field(output: str) -> None:
    block = SEBlock(2, 1, "sigmoid" if output == "sigmoid" else "linear")
    with torch.no_grad():
        block.squeeze.weight.copy_(torch.tensor([[1.0, 0.5]]))
        block.squeeze.bias.fill_(-2.0)
        block.excite.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        block.excite.bias.copy_(torch.tensor([0.25, 0.0]))
    # Means 2 and 6: 2 + 3 - 2 = 3, so 3.25 and -3. Means 0 and 2: the ReLU gives 0, so 0.25 and 0.
    x = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[-1.0, 1.0], [2.0, 2.0]]])
    weights: Tensor = block(x)
    expected = torch.tensor([[3.25, -3.0], [0.25, 0.0]])
    torch.testing.assert_close(weights, expected.sigmoid() if output == "sigmoid" else expected)


def test_each_domain_has_a_block_and_the_global_one_is_for_all() -> None:
    assert sum(isinstance(m, SEBlock) for m in SEAdaptation(3, 4, 2).modules()) == 3
    assert sum(isinstance(m, SEBlock) for m in GlobalSEAdaptation(4, 2).modules()) == 1


def test_weights_are_what_the_fields_are_multiplied_by() -> None:
    x, slices = torch.randn(4, NUM_FIELDS, DIM, dtype=torch.float64), DomainSlices((0, 1, 4))
    for name in ("attention", "se", "global_se"):
        layer = noisy(name)
        assert isinstance(layer, (VanillaAttention, SEAdaptation, GlobalSEAdaptation))
        weights = layer.weights(x, slices)
        assert weights.shape == (4, NUM_FIELDS)
        torch.testing.assert_close(layer(x, slices), torch.einsum("bf,bfd->bfd", weights, x))


def test_a_networks_block_takes_fields_side_by_side() -> None:
    torch.manual_seed(0)
    block = NetworkSE(3, 2)
    x = torch.arange(24.0).reshape(2, 12)  # fields 0-3, 4-7, 8-11 of row 0: all numbers distinct
    fields = torch.stack((x[:, 0:4], x[:, 4:8], x[:, 8:12]), dim=1)
    weights: Tensor = block.block(fields)
    expected = torch.cat([x[:, 4 * i : 4 * i + 4] * weights[:, [i]] for i in range(3)], dim=1)
    torch.testing.assert_close(block(x), expected)
