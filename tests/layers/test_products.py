"""Products by the faster library: values and gradients of the plain ones, and where each is asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus.layers import products
from isthmus.layers.domain_linear import product_by_span
from isthmus.layers.products import (
    LEAST_WORK_WITH_GRADIENT,
    Linear,
    linear,
    product,
    product_over_rows,
    products_of_spans,
)

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),  # type: ignore[no-untyped-call]
    reason="this PyTorch has no oneDNN",
)
# rows, in, out: whole blocks, a rest, many rows and a rest, wide and narrow, below what pays
SHAPES = [(256, 256, 64), (261, 256, 64), (1100, 40, 80), (2049, 33, 48), (300, 30, 400), (50, 8, 4), (1, 64, 64)]


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where oneDNN is the faster one."""
    monkeypatch.setattr(products, "has_faster_onednn", lambda: True)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[int] = []
        self.weights: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.mkldnn._linear_pointwise.default:
            self.rows.append(args[0].shape[0])
            self.weights.append(args[1])
        return func(*args, **(kwargs or {}))


@contextmanager
def calls_of_onednn() -> Iterator[list[int]]:
    """The rows of each product that oneDNN is asked for."""
    with _Calls() as calls:
        yield calls.rows


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_double_precision(shape: tuple[int, int, int], has_bias: bool) -> None:
    num_rows, in_dim, out_dim = shape
    torch.manual_seed(0)
    layer = Linear(in_dim, out_dim, bias=has_bias)
    x, given = torch.randn(num_rows, in_dim, requires_grad=True), torch.randn(num_rows, out_dim)
    parameters = tuple(layer.parameters())
    found = layer(x)
    of_found = torch.autograd.grad(found, (x, *parameters), given)
    exact = [each.detach().double().requires_grad_() for each in (x, *parameters)]
    expected = functional.linear(*exact)
    of_expected = torch.autograd.grad(expected, exact, given.double())
    assert close(found, expected)
    assert all(close(a, b) for a, b in zip(of_found, of_expected, strict=True))
    with torch.no_grad():
        assert close(layer(x), expected)
        assert close(product(x, layer.weight, layer.bias), expected)
        out = torch.full_like(found, torch.nan)
        assert product(x, layer.weight, layer.bias, out=out) is out
        assert close(out, expected)
        assert close(product_over_rows(given, x), given.double().T @ x.double())


@needs_onednn
def test_all_but_a_last_few_rows_are_handed_over_in_numbers_that_come_again() -> None:
    weight = torch.randn(128, 128)
    with torch.no_grad(), calls_of_onednn() as rows:
        for num_rows in (1361, 1365, 1400, 300, 203):
            product(torch.randn(num_rows, 128), weight)
    assert rows == [1344, 1344, 1344, 288, 200]


@needs_onednn
def test_rows_of_any_layout_give_the_same() -> None:
    torch.manual_seed(0)
    wide, weight = torch.randn(300, 500), torch.randn(200, 64)
    x = wide[:, 50:250]
    assert close(linear(x, weight.T), x.double() @ weight.double())
    once = torch.randn(1, 200).expand(300, 200)
    assert close(linear(once, weight.T), once.double() @ weight.double())


@needs_onednn
@pytest.mark.parametrize("layout", ["columns of a wider matrix", "every other row", "one row in many places"])
def test_no_weight_is_handed_over_with_gaps(layout: str) -> None:
    torch.manual_seed(0)
    wide, layer = torch.randn(512, 512), Linear(256, 128)
    rows = {"columns of a wider matrix": wide[:, 100:356], "every other row": wide[::2, :256]}
    x = rows.get(layout, wide[:1, :256].expand(512, -1)).requires_grad_()
    given = torch.randn(128, len(x)).T
    with _Calls() as calls:
        of_x, of_weight = torch.autograd.grad(layer(x), (x, layer.weight), given)
    assert len(calls.weights) == 3
    assert all(weight.is_contiguous() or weight.T.is_contiguous() for weight in calls.weights)
    assert close(of_x, given.double() @ layer.weight.double())
    assert close(of_weight, given.T.double() @ x.double())


@needs_onednn
def test_a_gradient_that_is_one_number_in_many_places_is_read_as_such() -> None:
    torch.manual_seed(0)
    layer = Linear(128, 128)
    layer(torch.randn(256, 128)).sum().backward()
    assert layer.bias.grad is not None
    assert close(layer.bias.grad, torch.full((128,), 256.0, dtype=torch.float64))


@needs_onednn
def test_only_what_needs_a_gradient_is_multiplied_backward() -> None:
    layer = Linear(128, 128)
    x = torch.randn(256, 128)
    with calls_of_onednn() as rows:
        layer(x).sum().backward()
    assert rows == [256, 128]  # forward, and the weight's gradient


@needs_onednn
def test_spans_of_rows_are_handed_over_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 128, requires_grad=True)
    layers = [Linear(128, 96) for _ in range(2)]
    with calls_of_onednn() as rows:
        y = product_by_span(x, [250, 150], [(layer.weight, layer.bias) for layer in layers])
        torch.autograd.backward(y.square().sum())
    assert sorted(rows) == [96, 96, 152, 152, 252, 252]  # each with a row or two of the other, forward and backward
    exact = x.detach().double().requires_grad_()
    parts = [layer.double()(part) for layer, part in zip(layers, torch.split(exact, [250, 150]), strict=True)]
    expected = torch.cat(parts)
    (of_exact,) = torch.autograd.grad(expected.square().sum(), exact)
    assert x.grad is not None
    assert close(y, expected)
    assert torch.allclose(x.grad.double(), of_exact, rtol=1e-3, atol=1e-3)


@needs_onednn
@pytest.mark.parametrize("counts", [[130, 270], [270, 130], [129, 1], [5, 130, 1]])
def test_a_span_has_nothing_of_the_rows_that_are_handed_over_with_it(counts: list[int]) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(96, 128) for _ in counts]
    whole = torch.randn(sum(counts), 128)
    start = 0
    for count, weight in zip(counts, weights, strict=True):
        x = torch.full_like(whole, torch.nan)
        x[start : start + count] = whole[start : start + count]
        y = products_of_spans(x, counts, weights, out=x.new_empty(len(x), 96))
        assert close(y[start : start + count], whole[start : start + count].double() @ weight.double().T)
        start += count


@needs_onednn
@pytest.mark.parametrize("case", ["small", "narrow", "double", "mixed precision", "turned off", "another machine"])
def test_elsewhere_pytorch_multiplies_as_ever(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = torch.randn(256, 128), Linear(128, 128)
    if case == "small":
        x = x[: LEAST_WORK_WITH_GRADIENT // 128**2 - 1]
    elif case == "narrow":
        layer = Linear(128, 4)
    elif case == "double":
        x, layer = x.double(), layer.double()
    elif case == "turned off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    elif case == "another machine":
        monkeypatch.setattr(products, "has_faster_onednn", lambda: False)
    with calls_of_onednn() as rows, torch.autocast("cpu", torch.bfloat16, enabled=case == "mixed precision"):
        layer(x)
    assert not rows


@needs_onednn
def test_what_is_traced_has_plain_products_and_any_number_of_rows() -> None:
    program = torch.export.export(
        Linear(128, 128), (torch.randn(256, 128),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    assert "mkldnn" not in str(program.graph)
    assert program.module()(torch.randn(3, 128)).shape == (3, 128)


def test_it_is_a_linear_layer_with_the_same_start_and_state() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    torch.manual_seed(0)
    ours = Linear(5, 3)
    assert isinstance(ours, nn.Linear)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    rows = torch.randn(2, 4, 5)
    assert torch.equal(ours(rows), plain(rows))


def test_who_made_the_processor_is_asked_of_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert products._maker() == "GenuineIntel"
