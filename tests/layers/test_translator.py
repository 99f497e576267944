import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isthmus.layers.translator import Translator


def translator_of(weight: list[list[float]]) -> Translator:
    translator = Translator(len(weight))
    with torch.no_grad():
        translator.linear.weight.copy_(torch.tensor(weight))
    return translator


def test_a_row_is_multiplied_from_the_left_and_its_error_is_worked_by_hand() -> None:
    # W = ((1, 2), (0, 3)), z = (1, -1): W z = (-1, -3); W^T W z = (-1, -2 - 9) = (-1, -11);
    # less z (-2, -10), whose square is 104. The other way round, W W^T z = W (1 - 0, ...) would give another number.
    translator = translator_of([[1.0, 2.0], [0.0, 3.0]])
    z = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    translated: Tensor = translator(z)
    assert translated.tolist() == [[-1.0, -3.0], [0.0, 0.0]]
    assert translator.cycle_error(z, translated).tolist() == [104.0, 0.0]


@pytest.mark.parametrize("dim", [1, 4, 128])
def test_the_way_there_and_back_starts_as_the_identity_and_keeps_lengths(dim: int) -> None:
    torch.manual_seed(0)
    translator, z = Translator(dim), torch.randn(6, dim)
    translated: Tensor = translator(z)
    torch.testing.assert_close(translated.norm(dim=1), z.norm(dim=1))
    assert translator.cycle_error(z, translated).max() < 1e-6
    assert dim == 1 or (translated - z).abs().max() > 0.1  # orthogonal, not the identity
    assert [name for name, _ in translator.named_parameters()] == ["linear.weight"]


@given(scale=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_the_error_of_a_scaled_rotation_is_that_of_its_squared_scale(scale: float) -> None:
    # W = s R: W^T W z = s^2 z, so the error is (s^2 - 1)^2 |z|^2; z = (3, 4)
    translator = translator_of([[0.0, -scale], [scale, 0.0]]).double()
    z = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    error = float(translator.cycle_error(z, translator(z)).detach())
    assert error == pytest.approx((scale**2 - 1) ** 2 * 25, rel=1e-5, abs=1e-5)


def test_descent_on_the_error_makes_the_matrix_orthogonal() -> None:
    torch.manual_seed(0)
    translator = translator_of(torch.eye(4).add(0.3 * torch.randn(4, 4)).tolist())
    optimizer = torch.optim.SGD(translator.parameters(), lr=0.05)
    z = torch.randn(64, 4)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(translator.cycle_error(z, translator(z)).mean())
        optimizer.step()
    weight = translator.linear.weight.detach()
    torch.testing.assert_close(weight.T @ weight, torch.eye(4), atol=1e-3, rtol=0)


def test_no_rows_have_no_errors() -> None:
    translator, z = Translator(3), torch.empty(0, 3)
    assert translator.cycle_error(z, translator(z)).shape == (0,)
