import math

import pytest
import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.fusion import ConcatFusion, SumFusion

SPECIFIC = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
SHARED = torch.tensor([[10.0, 20.0], [30.0, 50.0]])
SLICES = DomainSlices((0, 1, 2))
LOG_3 = math.log(3)  # sigmoid(log 3) = 3 / 4, sigmoid(-log 3) = 1 / 4


def indicator() -> DomainIndicator:
    made = DomainIndicator(2, 1)
    with torch.no_grad():
        made.own_vectors[0].fill_(0.0)
        made.own_vectors[1].fill_(LOG_3)
    return made


def fill(gates: nn.ModuleList, values: list[float]) -> None:
    for gate in gates:
        assert isinstance(gate, nn.Linear)
        with torch.no_grad():
            gate.weight.copy_(torch.tensor(values)[:, None])


def test_concat_puts_the_product_between_the_two() -> None:
    fusion = ConcatFusion(2, 2, 1)
    fill(fusion.own_specific_gates, [1.0, -1.0])
    fill(fusion.own_shared_gates, [0.0, 1.0])
    y: Tensor = fusion(SPECIFIC, SHARED, indicator(), SLICES)
    # Domain 0's indicator is 0, so every gate is 1/2: (0.5, 1), (5, 10) and their product.
    # Domain 1: specific gates 3/4 and 1/4 give (2.25, 1.25); shared gates 1/2 and 3/4 give (15, 37.5).
    assert y[0].tolist() == pytest.approx([0.5, 1.0, 2.5, 10.0, 5.0, 10.0])
    assert y[1].tolist() == pytest.approx([2.25, 1.25, 33.75, 46.875, 15.0, 37.5])


def test_sum_is_a_weighted_mean() -> None:
    fusion = SumFusion(2, 2, 1)
    fill(fusion.own_gates, [1.0, -1.0])
    y: Tensor = fusion(SPECIFIC, SHARED, indicator(), SLICES)
    # Domain 0: halves. Domain 1: 3/4 of 3 and 1/4 of 30; 1/4 of 5 and 3/4 of 50.
    assert y[0].tolist() == pytest.approx([5.5, 11.0])
    assert y[1].tolist() == pytest.approx([9.75, 38.75])


def test_a_scalar_gate_weighs_the_whole_vector_alike() -> None:
    fusion = SumFusion(2, 2, 1, gate="scalar")
    fill(fusion.own_gates, [1.0])
    y: Tensor = fusion(SPECIFIC, SHARED, indicator(), SLICES)
    assert y[1].tolist() == pytest.approx([9.75, 16.25])  # 3/4 and 1/4 for both units
    assert sum(p.numel() for p in ConcatFusion(2, 7, 3, gate="scalar").parameters()) == 2 * 2 * 3


@pytest.mark.parametrize("kind", [ConcatFusion, SumFusion])
def test_no_rows_are_fused_to_no_rows(kind: type[ConcatFusion] | type[SumFusion]) -> None:
    fusion = kind(2, 2, 1)
    y: Tensor = fusion(torch.empty(0, 2), torch.empty(0, 2), indicator(), DomainSlices((0, 0, 0)))
    assert y.shape == (0, fusion.out_dim)
