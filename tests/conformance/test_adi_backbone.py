"""ADI eq. 8-18 as scalar loops in the paper's symbols, against our layers; `d` is a row's domain."""

# ruff: noqa: N802, N803, N806 (the paper's symbols)

import math

import pytest
import torch
from torch import Tensor, nn

from isthmus.backbones.adi import ADIBackbone, FusionKind, MixtureBottom, NetworkAdaptation, SharedNetworks
from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.domain_linear import DomainLinear, StarLinear
from isthmus.layers.domain_norm import NoNorm
from isthmus.layers.experts import Gate, GateForm
from isthmus.layers.fusion import ConcatFusion, FusionGate, SumFusion
from isthmus.layers.interest_adaptation import NetworkSE
from isthmus.layers.mlp import MLP, DenseLayer, DomainMLP, StarMLP

Vector = list[float]
Matrix = list[list[float]]
D, K = 3, 2
SLICES = DomainSlices((0, 2, 3, 6))
ROW_DOMAIN = (0, 0, 1, 2, 2, 2)
TOLERANCE = 1e-10


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def FC(W: Matrix, b: Vector, x: Vector) -> Vector:
    return [sum(W[i][j] * x[j] for j in range(len(x))) + b[i] for i in range(len(b))]


def relu(x: Vector) -> Vector:
    return [max(v, 0.0) for v in x]


def numbers(t: Tensor) -> Vector:
    return [float(v) for v in t.detach()]


def table(t: Tensor) -> Matrix:
    return [numbers(row) for row in t.detach()]


def linear_numbers(layer: nn.Module | Tensor) -> tuple[Matrix, Vector]:
    assert isinstance(layer, nn.Linear)
    return table(layer.weight), numbers(layer.bias)


def weight_numbers(layer: nn.Module) -> Matrix:
    assert isinstance(layer, nn.Linear)
    return table(layer.weight)


def scalar_mlp(network: nn.Module, x: Vector) -> Vector:
    """MLP(x): a fully connected layer and a ReLU for each hidden width."""
    assert isinstance(network, MLP)
    for layer in network.layers:
        assert isinstance(layer, DenseLayer)
        x = relu(FC(*linear_numbers(layer.linear), x))
    return x


def scalar_alpha(gate: Gate, f_domain: Vector, form: GateForm) -> Vector:
    """Eq. 8, and the softmax that stands in its place by default."""
    W, b = linear_numbers(gate.linear)
    z = [sum(W[k][j] * f_domain[j] for j in range(len(f_domain))) + b[k] for k in range(len(b))]
    terms = [math.exp(v) for v in z] if form == "softmax" else z
    return [terms[k] / sum(terms) for k in range(len(terms))]


def scalar_shared(shared: SharedNetworks, f_domain: Vector, form: GateForm, inputs: list[Vector]) -> Vector:
    """Eq. 9."""
    outputs = [scalar_mlp(network, x) for network, x in zip(shared.networks, inputs, strict=True)]
    if len(outputs) == 1:
        return outputs[0]
    assert shared.gate is not None
    alpha = scalar_alpha(shared.gate, f_domain, form)
    return [sum(alpha[k] * outputs[k][i] for k in range(len(outputs))) for i in range(len(outputs[0]))]


def scalar_concat(fusion: ConcatFusion, d: int, E_spec: Vector, E_shared: Vector, f_domain: Vector) -> Vector:
    W_spec = weight_numbers(fusion.own_specific_gates[d])
    W_shared = weight_numbers(fusion.own_shared_gates[d])
    n = len(E_spec)
    beta_1 = [sigma(sum(w * f for w, f in zip(row, f_domain, strict=True))) for row in W_spec]  # (11)
    beta_2 = [sigma(sum(w * f for w, f in zip(row, f_domain, strict=True))) for row in W_shared]  # (12)
    beta_1, beta_2 = (beta * n if len(beta) == 1 else beta for beta in (beta_1, beta_2))
    first = [beta_1[i] * E_spec[i] for i in range(n)]
    second = [beta_1[i] * E_spec[i] * (beta_2[i] * E_shared[i]) for i in range(n)]
    third = [beta_2[i] * E_shared[i] for i in range(n)]
    return [*first, *second, *third]  # (13)


def scalar_sum(fusion: SumFusion, d: int, E_spec: Vector, E_shared: Vector, f_domain: Vector) -> Vector:
    W, b = weight_numbers(fusion.own_gates[d]), numbers(fusion.shared_bias)
    n = len(E_spec)
    alpha = [sigma(sum(w * f for w, f in zip(W[i], f_domain, strict=True)) + b[i]) for i in range(len(b))]  # (14)
    alpha = alpha * n if len(alpha) == 1 else alpha
    return [alpha[i] * E_spec[i] + (1 - alpha[i]) * E_shared[i] for i in range(n)]  # (15)


def scalar_star(layer: StarLinear, d: int, X: Vector) -> Vector:
    """Eq. 16."""
    W_shared, b_shared = linear_numbers(layer.shared)
    W_spec, b_spec = table(layer.own_factors[d]), numbers(layer.own_biases[d])
    return [
        sum(W_shared[i][j] * W_spec[i][j] * X[j] for j in range(len(X))) + b_shared[i] + b_spec[i]
        for i in range(len(b_shared))
    ]


def stir(module: nn.Module) -> None:
    """Moves every parameter from its start, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)


def random_rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def assert_rows(ours: Tensor, theirs: Matrix) -> None:
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["softmax", "linear"])
def test_equations_8_and_9_shared_networks(form: GateForm) -> None:
    torch.manual_seed(0)
    shared = SharedNetworks(
        4,
        [5, 3],
        num_shared=K,
        indicator_dim=2,
        gate=form,
        norm=NoNorm,
        dropout=0.0,
        adaptation=None,
    ).double()
    indicator = DomainIndicator(D, 2).double()
    F = random_rows(6, 4)
    theirs = []
    for row, d in enumerate(ROW_DOMAIN):
        f_domain = numbers(indicator(d))
        theirs.append(scalar_shared(shared, f_domain, form, [numbers(F[row])] * K))
    assert_rows(shared(F, indicator, SLICES), theirs)


def test_equation_10_specific_networks() -> None:
    torch.manual_seed(0)
    networks, F = DomainMLP(D, 4, [5, 3], NoNorm, 0.0).double(), random_rows(6, 4)
    theirs = [scalar_mlp(networks.own_networks[d], numbers(F[row])) for row, d in enumerate(ROW_DOMAIN)]
    assert_rows(networks(F, SLICES), theirs)


@pytest.mark.parametrize("gate", ["unit", "scalar"])
def test_equations_11_to_13_concat(gate: FusionGate) -> None:
    torch.manual_seed(0)
    fusion, indicator = ConcatFusion(D, 3, 2, gate).double(), DomainIndicator(D, 2).double()
    E_spec, E_shared = random_rows(6, 3), random_rows(6, 3) + 0.5
    theirs = [
        scalar_concat(fusion, d, numbers(E_spec[row]), numbers(E_shared[row]), numbers(indicator(d)))
        for row, d in enumerate(ROW_DOMAIN)
    ]
    assert_rows(fusion(E_spec, E_shared, indicator, SLICES), theirs)


@pytest.mark.parametrize("gate", ["unit", "scalar"])
def test_equations_14_and_15_sum(gate: FusionGate) -> None:
    torch.manual_seed(0)
    fusion, indicator = SumFusion(D, 3, 2, gate).double(), DomainIndicator(D, 2).double()
    stir(fusion)
    E_spec, E_shared = random_rows(6, 3), random_rows(6, 3) + 0.5
    theirs = [
        scalar_sum(fusion, d, numbers(E_spec[row]), numbers(E_shared[row]), numbers(indicator(d)))
        for row, d in enumerate(ROW_DOMAIN)
    ]
    assert_rows(fusion(E_spec, E_shared, indicator, SLICES), theirs)


def test_equation_16_network_mul_layer() -> None:
    torch.manual_seed(0)
    layer, X = StarLinear(D, 4, 3).double(), random_rows(6, 4)
    stir(layer)
    assert_rows(layer(X, SLICES), [scalar_star(layer, d, numbers(X[row])) for row, d in enumerate(ROW_DOMAIN)])


def scalar_network_mul(network: StarMLP, d: int, F: Vector) -> Vector:
    """Eq. 17, with the ReLU of a layer of the networks that it replaces."""
    for layer in network.linears:
        assert isinstance(layer, StarLinear)
        F = relu(scalar_star(layer, d, F))
    return F


def test_equation_17_network_mul_on_the_rows_of_a_domain() -> None:
    torch.manual_seed(0)
    network, F = StarMLP(D, 4, [5, 3], NoNorm, 0.0).double(), random_rows(6, 4)
    stir(network)
    assert_rows(network(F, SLICES), [scalar_network_mul(network, d, numbers(F[r])) for r, d in enumerate(ROW_DOMAIN)])


def scalar_network_se(adaptation: nn.Module, F: Vector) -> Vector:
    """Eq. 25-26 before one network, with a sigmoid; fields lie side by side."""
    assert isinstance(adaptation, NetworkSE)
    num_fields = adaptation.num_fields
    dim = len(F) // num_fields
    z = [sum(F[i * dim + t] for t in range(dim)) / dim for i in range(num_fields)]
    hidden = relu(FC(*linear_numbers(adaptation.block.squeeze), z))
    a = [sigma(v) for v in FC(*linear_numbers(adaptation.block.excite), hidden)]
    return [a[j // dim] * F[j] for j in range(len(F))]


@pytest.mark.parametrize(
    ("fusion", "num_shared", "form", "with_se"),
    [
        ("concat", 1, "softmax", False),
        ("concat", K, "softmax", False),
        ("concat", K, "linear", True),
        ("sum", K, "softmax", True),
        ("network_mul", 1, "softmax", False),
    ],
)
def test_equations_8_to_18_the_whole_backbone(
    fusion: FusionKind, num_shared: int, form: GateForm, with_se: bool
) -> None:
    torch.manual_seed(0)
    network_adaptation: NetworkAdaptation | None = (lambda: NetworkSE(2, 2)) if with_se else None
    backbone = ADIBackbone(
        D,
        4,
        [5, 3],
        2,
        num_shared=num_shared,
        gate=form,
        fusion=fusion,
        indicator_dim=2,
        forward_dims=(4,),
        norm=NoNorm,
        own_norm=NoNorm,
        dropout=0.0,
        network_adaptation=network_adaptation,
    ).double()
    stir(backbone)
    F, bottom = random_rows(6, 4), backbone.bottom
    theirs = []
    for row, d in enumerate(ROW_DOMAIN):
        f_row = numbers(F[row])
        if isinstance(bottom, MixtureBottom):
            f_domain = numbers(bottom.indicator(d))
            shared_inputs, specific_input = [f_row] * num_shared, f_row
            if with_se:
                shared_inputs = [scalar_network_se(block, f_row) for block in bottom.shared.adaptations]
                specific_input = scalar_network_se(bottom.own_adaptations[d], f_row)
            E_shared = scalar_shared(bottom.shared, f_domain, form, shared_inputs)
            E_spec = scalar_mlp(bottom.specific.own_networks[d], specific_input)
            if isinstance(bottom.fusion, ConcatFusion):
                E_fusion = scalar_concat(bottom.fusion, d, E_spec, E_shared, f_domain)
            else:
                E_fusion = scalar_sum(bottom.fusion, d, E_spec, E_shared, f_domain)
        else:
            E_fusion = scalar_network_mul(bottom, d, f_row)
        assert isinstance(backbone.output, DomainLinear)
        hidden = scalar_mlp(backbone.forwards.own_networks[d], E_fusion)
        theirs.append(FC(*linear_numbers(backbone.output.own_layers[d]), hidden))  # (18)
    assert_rows(backbone(F, SLICES), theirs)
