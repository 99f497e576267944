import pytest
import torch
from torch import Tensor, nn

from isthmus.layers.cross_network import CrossNetwork


def set_to(layer: nn.Linear, weight: list[list[float]], bias: list[float] | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def test_two_layers_are_worked_by_hand() -> None:
    cross = CrossNetwork(2, num_layers=2).double()
    first, second = cross.layers
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    set_to(first, [[0.0, 1.0], [2.0, 0.0]], [1.0, -1.0])
    set_to(second, [[1.0, 1.0], [0.0, 3.0]], [0.0, 2.0])
    # x0 = (2, 3). Layer 1: W x0 + b = (3 + 1, 4 - 1) = (4, 3); times x0 (8, 9); plus x0: x1 = (10, 12).
    # Layer 2: W x1 + b = (22, 36 + 2) = (22, 38); times x0, not x1: (44, 114); plus x1: (54, 126).
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    y: Tensor = cross(x)
    assert y.tolist() == [[54.0, 126.0]]


def test_low_rank_is_the_product_of_two_matrices_with_one_bias() -> None:
    cross = CrossNetwork(3, num_layers=1, rank=1).double()
    (layer,) = cross.layers
    assert isinstance(layer, nn.Sequential)
    down, up = layer
    assert isinstance(down, nn.Linear)
    assert isinstance(up, nn.Linear)
    assert down.bias is None
    set_to(down, [[1.0, 2.0, 0.0]])
    set_to(up, [[1.0], [0.0], [3.0]], [0.0, 1.0, 0.0])
    # x0 = (1, 2, 4): down 1 + 4 = 5; up (5, 0, 15) + b (0, 1, 0) = (5, 1, 15); times x0 (5, 2, 60); plus x0.
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    y: Tensor = cross(x)
    assert y.tolist() == [[6.0, 4.0, 64.0]]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_degree_is_one_more_than_the_layers(num_layers: int) -> None:
    torch.manual_seed(1)
    cross = CrossNetwork(3, num_layers).double()
    x = torch.randn(3, dtype=torch.float64)
    # A polynomial of degree p in t: its differences of order p + 1 at equal steps vanish, those of order p do not.
    values: Tensor = cross(torch.arange(8, dtype=torch.float64)[:, None] * x)
    degree = num_layers + 1
    assert values.diff(n=degree, dim=0).abs().min() > 1e-3
    assert values.diff(n=degree + 1, dim=0).abs().max() < 1e-6
