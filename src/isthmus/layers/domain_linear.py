"""Linear layers with weights of each domain: separate ones, and STAR's product with a shared one.

Each domain's weights are parameters of their own, not slices of one tensor: a domain without rows in a step then has
no gradient at all, and momentum or weight decay cannot move it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.embedding import for_products
from isthmus.layers.products import Linear, linear, product_over_rows, products_of_spans
from isthmus.layers.routing import by_domain


def output_linear(in_dim: int, out_dim: int, *, zero_start: bool) -> nn.Linear:
    """A linear layer; with `zero_start` its weight and bias are 0, so that it first adds nothing to a residual."""
    layer = Linear(in_dim, out_dim)
    if zero_start:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class DomainLinear(nn.Module):
    """A linear layer for each domain, run on that domain's rows only.

    Args:
        zero_start: all weights and biases start at 0.
    """

    def __init__(self, num_domains: int, in_dim: int, out_dim: int, *, zero_start: bool = False) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.own_layers = nn.ModuleList(
            output_linear(in_dim, out_dim, zero_start=zero_start) for _ in range(num_domains)
        )

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        present = [domain for domain, _ in domain_slices]
        if len(present) > 1 and torch.is_grad_enabled():
            counts = [count for count in domain_slices.counts if count]
            return linear_by_span(for_products(x), counts, [self.own_layers[domain] for domain in present])

        def run(domain: int, rows: Tensor) -> Tensor:
            y: Tensor = self.own_layers[domain](rows)
            return y

        return by_domain(run, domain_slices, x, width=(self.out_dim,))


def linear_by_span(
    x: Float[Tensor, "batch in_dim"], counts: list[int], layers: Sequence[nn.Module]
) -> Float[Tensor, "batch out_dim"]:
    """Each span of rows through the linear layer of its own."""
    parameters = []
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        parameters.append((layer.weight, layer.bias))
    return product_by_span(x, counts, parameters)


def product_by_span(
    x: Float[Tensor, "batch in_dim"], counts: list[int], parameters: Sequence[tuple[Tensor, Tensor | None]]
) -> Float[Tensor, "batch out_dim"]:
    """`x weight^T + bias` of each span of rows, by the weight and bias of its own."""
    flat = [each for pair in parameters for each in pair]
    y: Tensor = _SpanProduct.apply(x, counts, *flat)  # type: ignore[no-untyped-call]
    return y


class _SpanProduct(torch.autograd.Function):
    """`x weight^T + bias`, span by span, in one step of autograd; a bias may be None.

    What a span gives, and its gradient, is written to its place at once: a ninth less than with rows put together
    afterwards (`python -m benchmarks.retrieval --part segments`).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "batch in_dim"], counts: list[int], *parameters: Tensor | None
    ) -> Float[Tensor, "batch out_dim"]:
        weights, biases = [each for each in parameters[::2] if each is not None], parameters[1::2]
        typed_biases = [None if bias is None else bias.to(x.dtype) for bias in biases]
        y = x.new_empty(x.shape[0], weights[0].shape[0])
        products_of_spans(x, counts, (weight.to(x.dtype) for weight in weights), typed_biases, out=y)
        ctx.save_for_backward(x, *weights)
        ctx.counts, ctx.has_bias = counts, [bias is not None for bias in biases]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "batch out_dim"]) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_x = torch.empty_like(x)
        products_of_spans(gradient, ctx.counts, (weight.to(x.dtype).T for weight in weights), out=of_x)
        of_parameters: list[Tensor | None] = []
        rows = (torch.split(each, ctx.counts) for each in (gradient, x))
        for given, own_x, weight, has_bias in zip(*rows, weights, ctx.has_bias, strict=True):
            of_parameters.append(product_over_rows(given, own_x).to(weight.dtype))
            of_parameters.append(given.sum(dim=0).to(weight.dtype) if has_bias else None)
        return of_x, None, *of_parameters


class StarLinear(nn.Module):
    """STAR's layer: each domain's weight is the shared weight times the domain's factor, element by element.

    The factor starts at 1 and the domain's bias at 0, so every domain starts as the shared layer. (A product of two
    random starts would shrink the weights and with them the signal.)

    Args:
        zero_start: the shared weight and bias start at 0; the factors still at 1, so that the shared weight can move.

    Source: ADI eq. 16, (W_shared * W_spec) x + b_shared + b_spec; Sheng et al. 2021 (STAR), eq. 5-6.
    """

    def __init__(self, num_domains: int, in_dim: int, out_dim: int, *, zero_start: bool = False) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.shared = output_linear(in_dim, out_dim, zero_start=zero_start)
        self.own_factors = nn.ParameterList(nn.Parameter(torch.ones(out_dim, in_dim)) for _ in range(num_domains))
        self.own_biases = nn.ParameterList(nn.Parameter(torch.zeros(out_dim)) for _ in range(num_domains))

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        present = [domain for domain, _ in domain_slices]
        if len(present) > 1 and torch.is_grad_enabled():
            bias = self.shared.bias + torch.stack([self.own_biases[domain] for domain in present])
            factors = [self.own_factors[domain] for domain in present]
            counts = [count for count in domain_slices.counts if count]
            product = _StarProduct.apply
            y: Tensor = product(for_products(x), bias, counts, self.shared.weight, *factors)  # type: ignore[no-untyped-call]
            return y

        def run(domain: int, rows: Tensor) -> Tensor:
            weight = self.shared.weight * self.own_factors[domain]
            return linear(rows, weight, self.shared.bias + self.own_biases[domain])

        return by_domain(run, domain_slices, x, width=(self.out_dim,))


class _StarProduct(torch.autograd.Function):
    """`x (W * factor)^T + bias`, span by span of rows, in one step of autograd.

    A domain's weight is made anew in the backward too, where it lies in the cache, rather than kept for it; the
    shared weight's gradient is added up in place; and each span's rows are written where they belong at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "batch in_dim"],
        bias: Float[Tensor, "span out_dim"],
        counts: list[int],
        shared: Float[Tensor, "out_dim in_dim"],
        *factors: Float[Tensor, "out_dim in_dim"],
    ) -> Float[Tensor, "batch out_dim"]:
        y = x.new_empty(x.shape[0], shared.shape[0])
        weights = ((shared * factor).to(x.dtype) for factor in factors)
        products_of_spans(x, counts, weights, bias.to(x.dtype).unbind(), out=y)
        ctx.save_for_backward(x, shared, *factors)
        ctx.counts, ctx.bias_dtype = counts, bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "batch out_dim"]) -> tuple[Tensor | None, ...]:
        x, shared, *factors = ctx.saved_tensors
        of_x, of_shared, of_factors = torch.empty_like(x), torch.zeros_like(shared), []
        weights = ((shared * factor).to(x.dtype).T for factor in factors)
        products_of_spans(gradient, ctx.counts, weights, out=of_x)
        of_bias = gradient.new_empty(len(factors), gradient.shape[1], dtype=ctx.bias_dtype)
        rows = (torch.split(each, ctx.counts) for each in (gradient, x))
        for given, own_x, own_of_bias, factor in zip(*rows, of_bias, factors, strict=True):
            of_weight = product_over_rows(given, own_x).to(shared.dtype)
            of_shared.addcmul_(of_weight, factor)
            of_factors.append(of_weight.mul_(shared))
            own_of_bias.copy_(given.sum(dim=0))
        return of_x, of_bias, None, of_shared, *of_factors
