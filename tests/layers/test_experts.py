import pytest
import torch
from torch import Tensor, nn

from isthmus.layers.experts import Gate, mix_experts


def test_softmax_weights_are_positive_and_sum_to_one() -> None:
    weights: Tensor = Gate(3, 5)(torch.randn(7, 3) * 10)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7))


def test_nothing_random_and_no_norm_stands_behind_the_softmax() -> None:
    gate, x = Gate(3, 5).train(), torch.randn(7, 3)
    assert torch.equal(gate(x), gate(x))
    assert not [m for m in gate.modules() if isinstance(m, (nn.BatchNorm1d, nn.Dropout))]


def test_the_literal_gate_divides_by_the_signed_sum() -> None:
    gate = Gate(1, 3, "linear")
    with torch.no_grad():
        gate.linear.weight.copy_(torch.tensor([[1.0], [2.0], [-5.0]]))
        gate.linear.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    weights: Tensor = gate(torch.tensor([2.0]))  # logits 3, 4, -10: sum -3
    assert weights.tolist() == pytest.approx([-1.0, -4 / 3, 10 / 3])


def test_a_mixture_weighs_each_rows_experts() -> None:
    experts = torch.tensor([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], [[3.0, 4.0], [30.0, 40.0], [300.0, 400.0]]])
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 2.0]])
    # Row 0: 0.5 + 2.5 + 25, 1 + 5 + 50. Row 1: 30 + 600, 40 + 800.
    assert mix_experts(experts.unbind(1), weights).tolist() == [[28.0, 56.0], [630.0, 840.0]]
