import copy

import pytest
import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear, StarLinear, linear_by_span, output_linear


def test_each_row_meets_its_own_domains_weight() -> None:
    layer = DomainLinear(3, 2, 1)
    with torch.no_grad():
        for domain, own in enumerate(layer.own_layers):
            assert isinstance(own, nn.Linear)
            own.weight.copy_(torch.tensor([[1.0, 10.0]]) * (domain + 1))
            own.bias.fill_(0.5 * domain)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    y: Tensor = layer(x, DomainSlices((0, 1, 1, 3)))
    assert y.tolist() == [[21.0], [130.0], [196.0]]  # 1 + 20; 3 * (3 + 40) + 1; 3 * (5 + 60) + 1


def test_star_multiplies_the_weights_and_adds_the_biases() -> None:
    layer = StarLinear(2, 2, 2)
    with torch.no_grad():
        layer.shared.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.shared.bias.copy_(torch.tensor([100.0, 200.0]))
        layer.own_factors[1].copy_(torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
        layer.own_biases[1].copy_(torch.tensor([0.25, 0.5]))
    y: Tensor = layer(torch.tensor([[1.0, 10.0], [1.0, 10.0]]), DomainSlices((0, 1, 2)))
    # Domain 0 is the shared layer: 1 + 20 + 100, 3 + 40 + 200.
    # Domain 1 has the weight ((5, 12), (21, 32)): 5 + 120 + 100.25, 21 + 320 + 200.5.
    assert y.tolist() == [[121.0, 243.0], [225.25, 541.5]]


def test_star_starts_as_its_shared_layer_in_every_domain() -> None:
    layer, x = StarLinear(3, 4, 5), torch.randn(6, 4)
    shared: Tensor = layer.shared(x)
    torch.testing.assert_close(layer(x, DomainSlices((0, 2, 4, 6))), shared)
    assert shared.std() > 0.1  # a product of two random starts would be far smaller


def test_a_zero_start_is_zero_and_can_move() -> None:
    for layer in (DomainLinear(2, 3, 1, zero_start=True), StarLinear(2, 3, 1, zero_start=True)):
        y: Tensor = layer(torch.randn(4, 3), DomainSlices((0, 2, 4)))
        assert y.abs().max() == 0
        torch.autograd.backward(y.sum())
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        assert any(bool(g.abs().max() > 0) for g in gradients if g.dim() == 2)
    assert output_linear(3, 2, zero_start=True).weight.abs().max() == 0
    assert output_linear(3, 2, zero_start=False).weight.abs().max() > 0


def test_a_domain_without_rows_has_no_gradient_rather_than_a_zero_one() -> None:
    for layer in (DomainLinear(2, 3, 1), StarLinear(2, 3, 1)):
        layer(torch.randn(4, 3), DomainSlices((0, 4, 4))).sum().backward()
        own = {key: p.grad for key, p in layer.named_parameters() if key.startswith("own_")}
        assert len(own) == 4
        assert {key for key, grad in own.items() if grad is None} == {key for key in own if ".1" in key}


@pytest.mark.parametrize("kind", [StarLinear, DomainLinear])
def test_domains_together_give_what_each_gives_alone(kind: type[StarLinear] | type[DomainLinear]) -> None:
    torch.manual_seed(0)
    together = kind(4, 5, 3).double()
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    alone = copy.deepcopy(together)
    counts = [6, 1, 0, 9]
    x, factor = torch.randn(16, 5, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
    whole, parts = (x.clone().requires_grad_() for _ in range(2))
    y: Tensor = together(whole, DomainSlices.from_counts(counts))
    torch.autograd.backward(y, factor)
    own = [
        alone(rows, DomainSlices.single(d, len(rows), 4))
        for d, rows in enumerate(torch.split(parts, counts))
        if len(rows)
    ]
    torch.autograd.backward(torch.cat(own), factor)
    torch.testing.assert_close(y, torch.cat(own), rtol=0, atol=1e-13)
    torch.testing.assert_close(whole.grad, parts.grad, rtol=0, atol=1e-13)
    compared = list(zip(together.named_parameters(), alone.parameters(), strict=True))
    for (key, ours), plain in compared:
        assert (ours.grad is None) == (plain.grad is None) == (".2" in key)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-13, msg=key)
    assert len(compared) == {StarLinear: 2 + 2 * 4, DomainLinear: 2 * 4}[kind]


@pytest.mark.parametrize("kind", [StarLinear, DomainLinear])
def test_mixed_precision_gives_what_autocast_gives(kind: type[StarLinear] | type[DomainLinear]) -> None:
    torch.manual_seed(0)
    together = kind(2, 5, 3)
    alone = copy.deepcopy(together)
    x, factor = torch.randn(8, 5), torch.randn(8, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y: Tensor = together(x, DomainSlices((0, 3, 8)))
        own = torch.cat([alone(x[:3], DomainSlices((0, 3, 3))), alone(x[3:], DomainSlices((0, 0, 5)))])
    assert y.dtype == own.dtype == torch.bfloat16
    torch.autograd.backward(y, factor)
    torch.autograd.backward(own, factor)
    torch.testing.assert_close(y, own)
    for ours, plain in zip(together.parameters(), alone.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.dtype == torch.float32
        torch.testing.assert_close(ours.grad, plain.grad, rtol=2e-2, atol=2e-2)


def test_a_span_without_a_bias_is_the_product_alone() -> None:
    layers = [nn.Linear(2, 1, bias=False), nn.Linear(2, 1)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.tensor([[2.0, 3.0]]))
        layers[1].bias.fill_(100.0)
    y = linear_by_span(torch.tensor([[1.0, 1.0], [1.0, 2.0]]), [1, 1], layers)
    assert y.tolist() == [[5.0], [108.0]]  # 2 + 3; 2 + 6 + 100
    torch.autograd.backward(y.sum())
    assert layers[0].weight.grad is not None
    assert layers[0].weight.grad.tolist() == [[1.0, 1.0]]
