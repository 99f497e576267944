"""ADI eq. 19-26 as scalar loops in the paper's symbols, against our layers; `d` is a row's domain."""

# ruff: noqa: N803, N806 (the paper's symbols)

import math

import pytest
import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import DomainBatchNorm, SharedBatchNorm
from isthmus.layers.interest_adaptation import (
    GlobalSEAdaptation,
    LinearAdaptation,
    SEAdaptation,
    SEBlock,
    SEOutput,
    VanillaAttention,
)

D, N, DIM = 3, 4, 3  # domains, features, width of an embedded feature
EPSILON = 1e-5
SLICES = DomainSlices((0, 2, 5, 9))
ROW_DOMAIN = (0, 0, 1, 1, 1, 2, 2, 2, 2)
ROWS_OF = ((0, 1), (2, 3, 4), (5, 6, 7, 8))
TOLERANCE = 1e-10


def random_rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 + 1


def stir(module: nn.Module) -> None:
    """Moves every parameter from its start, so that none is 0 or 1 and domains differ."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.requires_grad_(False).parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def batch_norm(module: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """alpha, beta, and the running mean and variance."""
    assert isinstance(module, nn.BatchNorm1d)
    assert module.running_mean is not None
    assert module.running_var is not None
    return module.weight, module.bias, module.running_mean, module.running_var


def scalar_batch_norm(X: Tensor, rows: tuple[int, ...], alpha: Tensor, beta: Tensor) -> list[list[float]]:
    """Eq. 19 over the given rows."""
    theirs = [[0.0] * X.shape[1] for _ in rows]
    for j in range(X.shape[1]):
        mu = sum(float(X[r, j]) for r in rows) / len(rows)
        variance = sum((float(X[r, j]) - mu) ** 2 for r in rows) / len(rows)
        for i, r in enumerate(rows):
            theirs[i][j] = float(alpha[j]) * (float(X[r, j]) - mu) / math.sqrt(variance + EPSILON) + float(beta[j])
    return theirs


def assert_values(ours: Tensor, theirs: list[list[float]]) -> None:
    expected = torch.tensor(theirs, dtype=torch.float64)
    torch.testing.assert_close(ours.reshape(expected.shape), expected, rtol=0, atol=TOLERANCE)


def test_equation_19_one_batch_normalisation() -> None:
    norm, X = SharedBatchNorm(DIM).double(), random_rows(9, DIM)
    stir(norm)
    alpha, beta, _, _ = batch_norm(norm.norm)
    assert_values(norm(X, SLICES), scalar_batch_norm(X, tuple(range(9)), alpha, beta))


def test_equation_20_batch_normalisation_of_each_domain() -> None:
    norm, X = DomainBatchNorm(D, DIM).double(), random_rows(9, DIM)
    stir(norm)
    theirs = []
    for d in range(D):
        alpha, beta, _, _ = batch_norm(norm.own_norms[d])
        theirs += scalar_batch_norm(X, ROWS_OF[d], alpha, beta)
    assert_values(norm(X, SLICES), theirs)


def test_equation_20_at_evaluation_uses_the_domains_running_statistics() -> None:
    norm, X = DomainBatchNorm(D, DIM).double(), random_rows(9, DIM)
    stir(norm)
    norm(X, SLICES)
    theirs = []
    for r, d in enumerate(ROW_DOMAIN):
        alpha, beta, mu, variance = batch_norm(norm.own_norms[d])
        theirs.append(
            [
                float(alpha[j] * (X[r, j] - mu[j])) / math.sqrt(float(variance[j]) + EPSILON) + float(beta[j])
                for j in range(DIM)
            ]
        )
    assert_values(norm.eval()(X, SLICES), theirs)


def test_equations_21_and_22_linear_transformation() -> None:
    layer, F = LinearAdaptation(D, N, DIM).double(), random_rows(9, N, DIM)
    stir(layer)
    theirs = []
    for r, d in enumerate(ROW_DOMAIN):
        W, b = layer.own_scales[d], layer.own_shifts[d]
        theirs.append([float(W[i, t]) * float(F[r, i, t]) + float(b[i, t]) for i in range(N) for t in range(DIM)])
    assert_values(layer(F, SLICES), theirs)


def test_equations_23_and_24_vanilla_attention() -> None:
    layer, F = VanillaAttention(D, N, DIM).double(), random_rows(9, N, DIM)
    stir(layer)
    theirs, attention = [], []
    for r, d in enumerate(ROW_DOMAIN):
        Q = layer.own_queries[d]
        products = [sum(float(Q[i, t]) * float(F[r, i, t]) for t in range(DIM)) for i in range(N)]
        a = [1 / (1 + math.exp(-z)) for z in products]
        attention.append(a)
        theirs.append([a[i] * float(F[r, i, t]) for i in range(N) for t in range(DIM)])
    assert_values(layer.weights(F, SLICES), attention)
    assert_values(layer(F, SLICES), theirs)


def scalar_se(block: nn.Module, F: Tensor, output: SEOutput) -> list[float]:
    """Eq. 25 on one row: avg, FC, ReLU, FC, and the sigmoid of the usual block."""
    assert isinstance(block, SEBlock)
    z = [sum(float(F[i, t]) for t in range(DIM)) / DIM for i in range(N)]
    W1, b1, W2, b2 = block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias
    hidden = [max(sum(float(W1[h, i]) * z[i] for i in range(N)) + float(b1[h]), 0.0) for h in range(len(b1))]
    a = [sum(float(W2[i, h]) * hidden[h] for h in range(len(b1))) + float(b2[i]) for i in range(N)]
    return a if output == "linear" else [1 / (1 + math.exp(-v)) for v in a]


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("use", ["3-SE", "1-SE"])
def test_equations_25_and_26_squeeze_and_excitation(use: str, output: SEOutput) -> None:
    torch.manual_seed(0)
    layer = SEAdaptation(D, N, 2, output) if use == "3-SE" else GlobalSEAdaptation(N, 2, output)
    layer = layer.double().requires_grad_(False)
    F = random_rows(9, N, DIM)
    theirs, attention = [], []
    for r, d in enumerate(ROW_DOMAIN):
        a = scalar_se(layer.own_blocks[d] if isinstance(layer, SEAdaptation) else layer.block, F[r], output)
        attention.append(a)
        theirs.append([a[i] * float(F[r, i, t]) for i in range(N) for t in range(DIM)])  # (26)
    assert_values(layer.weights(F, SLICES), attention)
    assert_values(layer(F, SLICES), theirs)
