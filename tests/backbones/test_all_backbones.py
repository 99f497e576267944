"""One suite for every backbone: what a multi-domain network must never get wrong."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    BackboneModule,
    CrossStitchSettings,
    DCNSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    NormKind,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
    build_backbone,
)
from isthmus.domains import DomainSlices
from isthmus.layers.interest_adaptation import NetworkSE

NUM_DOMAINS, IN_DIM, OUT_DIM = 3, 6, 4
DIMS = (5, 7)

CASES: dict[str, Callable[[NormKind], AnyBackboneSettings]] = {
    "dnn": lambda norm: DNNSettings(hidden_dims=DIMS, norm=norm),
    "dcn": lambda norm: DCNSettings(hidden_dims=DIMS, norm=norm),
    "dcn_low_rank": lambda norm: DCNSettings(hidden_dims=DIMS, num_cross_layers=2, rank=2, norm=norm),
    "independent": lambda norm: IndependentSettings(hidden_dims=DIMS, norm="none" if norm == "none" else "domain"),
    "shared_bottom": lambda norm: SharedBottomSettings(hidden_dims=DIMS, forward_dims=(8,), norm=norm),
    "cross_stitch": lambda norm: CrossStitchSettings(hidden_dims=DIMS, norm=norm),
    "mmoe": lambda norm: MMoESettings(hidden_dims=DIMS, num_experts=4, forward_dims=(8,), norm=norm),
    "ple_1_level": lambda norm: PLESettings(hidden_dims=DIMS, num_specific=2, norm=norm),
    "ple_2_levels": lambda norm: PLESettings(hidden_dims=DIMS, num_levels=2, forward_dims=(8,), norm=norm),
    "star": lambda norm: StarSettings(hidden_dims=DIMS, norm=norm),
    "adi_concat": lambda norm: ADISettings(hidden_dims=DIMS, num_shared=2, forward_dims=(8,), norm=norm),
    "adi_one_shared": lambda norm: ADISettings(hidden_dims=DIMS, norm=norm),
    "adi_sum": lambda norm: ADISettings(hidden_dims=DIMS, num_shared=2, fusion="sum", gate="linear", norm=norm),
    "adi_scalar_gate": lambda norm: ADISettings(hidden_dims=DIMS, fusion_gate="scalar", norm=norm),
    "adi_network_mul": lambda norm: ADISettings(hidden_dims=DIMS, fusion="network_mul", norm=norm),
    "adi_network_se": lambda norm: ADISettings(hidden_dims=DIMS, num_shared=2, norm=norm),
}
NORMS: tuple[NormKind, ...] = ("shared", "domain", "none")
VARIANTS: list[tuple[str, NormKind]] = [(name, norm) for name in CASES for norm in NORMS] + [("star", "partitioned")]


def test_the_suite_runs_every_kind_of_backbone() -> None:
    kinds = {CASES[name]("none").kind for name in CASES}
    assert kinds == {"dnn", "dcn", "independent", "shared_bottom", "cross_stitch", "mmoe", "ple", "star", "adi"}
    assert len(VARIANTS) == 16 * 3 + 1


def build(name: str, norm: NormKind, *, num_domains: int = NUM_DOMAINS, zero_start: bool = False) -> BackboneModule:
    torch.manual_seed(5)
    return build_backbone(
        CASES[name](norm),
        num_domains=num_domains,
        in_dim=IN_DIM,
        out_dim=OUT_DIM,
        zero_start=zero_start,
        network_adaptation=(lambda: NetworkSE(3, 2)) if name == "adi_network_se" else None,
    ).double()


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, IN_DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(name: str, norm: NormKind) -> BackboneModule:
    """A backbone with running statistics and weights that differ by domain, in evaluation mode."""
    backbone = build(name, norm)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.05)
    for step in range(3):
        y: Tensor = backbone(rows_of(9, step) + 1, DomainSlices((0, 2, 5, 9)))
        optimizer.zero_grad()
        loss = (y - torch.arange(36).view(9, 4) / 20).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return backbone.eval()


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_a_rows_output_ignores_its_neighbours(name: str, norm: NormKind) -> None:
    backbone, x, slices = trained(name, norm), rows_of(7), DomainSlices((0, 3, 4, 7))
    together: Tensor = backbone(x, slices)
    domain = slices.row_domain()
    for row in (0, 3, 6):  # one of each domain
        alone: Tensor = backbone(x[[row]], DomainSlices.single(int(domain[row]), 1, NUM_DOMAINS))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 1, 3, 6, 4, 5])  # rows change places within their domain
    torch.testing.assert_close(backbone(x[order], slices), together[order], rtol=0, atol=1e-12)
    assert together.shape == (7, backbone.out_dim)
    assert together.std(dim=0).min() > 0


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_short_spans_give_what_long_ones_give(name: str, norm: NormKind, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = DomainSlices((0, 12, 13, 30))
    found: list[list[Tensor | None]] = []
    for long_span in (0, 31):  # every span is long; every one is short
        monkeypatch.setattr("isthmus.layers.routing.LONG_SPAN", long_span)
        backbone, x = build(name, norm), rows_of(30).requires_grad_()
        y: Tensor = backbone(x, slices)
        torch.autograd.backward(y, torch.arange(120.0, dtype=torch.float64).view(30, 4).sin())
        found.append([y, x.grad, *(p.grad for p in backbone.parameters()), *backbone.buffers()])
    assert len(found[0]) > 2
    for long, short in zip(*found, strict=True):
        assert (long is None) == (short is None)
        if long is not None:
            torch.testing.assert_close(short, long, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_no_rows_give_no_output(name: str, norm: NormKind) -> None:
    backbone = build(name, norm)
    for mode in (True, False):
        y: Tensor = backbone.train(mode)(rows_of(0), DomainSlices((0, 0, 0, 0)))
        assert y.shape == (0, OUT_DIM)


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_a_training_batch_of_one_row_gives_finite_gradients(name: str, norm: NormKind) -> None:
    backbone = build(name, norm)
    backbone(rows_of(1), DomainSlices.single(1, 1, NUM_DOMAINS)).sum().backward()
    gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


def belongs_to_domain(name: str, key: str, domain: int) -> bool:
    """Whether a parameter or buffer is this domain's alone; whatever a domain owns is in a list named `own_...`."""
    if name == "cross_stitch" and ".own_weights." in key:  # every row passes all stitches but the last
        return key == f"stitches.{len(DIMS) - 1}.own_weights.{domain}"
    return re.search(rf"\bown_\w+\.{domain}\b", key) is not None


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_a_step_on_one_domain_leaves_what_another_owns_bit_identical(name: str, norm: NormKind) -> None:
    backbone = build(name, norm)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, weight_decay=0.1)

    def step(slices: DomainSlices) -> None:
        optimizer.zero_grad(set_to_none=True)
        backbone(rows_of(slices.num_rows), slices).square().sum().backward()
        optimizer.step()

    step(DomainSlices((0, 3, 6, 9)))  # gives every parameter momentum
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    step(DomainSlices((0, 9, 9, 9)))
    moved = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    owned = [key for key in before if belongs_to_domain(name, key, 2)]
    assert owned or (name in ("dnn", "dcn", "dcn_low_rank") and norm in ("shared", "none"))
    assert not moved & set(owned)
    same_of_domain_0 = {key for key in before if belongs_to_domain(name, key, 0)} - moved
    assert not {key for key in same_of_domain_0 if not key.endswith("bias")}


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_every_parameter_gets_a_gradient_when_all_domains_are_present(name: str, norm: NormKind) -> None:
    backbone = build(name, norm)
    backbone(rows_of(60), DomainSlices((0, 20, 40, 60))).square().sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        if norm == "none":  # a norm takes away its layer's bias, whose gradient is then 0
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", list(CASES))
def test_zero_start_gives_zeros_and_can_leave_them(name: str) -> None:
    backbone = build(name, "shared", zero_start=True)
    slices = DomainSlices((0, 3, 6, 9))
    y: Tensor = backbone(rows_of(9), slices)
    assert y.abs().max() == 0
    loss = (y - 1).square().sum()
    torch.autograd.backward(loss)
    torch.optim.SGD(backbone.parameters(), lr=0.01).step()
    moved: Tensor = backbone(rows_of(9), slices)
    assert moved.abs().min() > 0


# Cross-stitch numbers its networks within each layer: its own file renumbers them.
@pytest.mark.parametrize(("name", "norm"), [variant for variant in VARIANTS if variant[0] != "cross_stitch"])
def test_renumbering_the_domains_changes_nothing(name: str, norm: NormKind) -> None:
    backbone, x = trained(name, norm), rows_of(9)
    new_number = (2, 0, 1)  # of domains 0, 1, 2
    renumbered = build(name, norm).eval()

    def rename(key: str) -> str:
        return re.sub(r"(\bown_\w+\.)(\d+)", lambda m: m[1] + str(new_number[int(m[2])]), key)

    renumbered.load_state_dict({rename(key): value for key, value in backbone.state_dict().items()})
    y: Tensor = backbone(x, DomainSlices((0, 2, 5, 9)))
    # Domain 1's rows come first now, then domain 2's, then domain 0's.
    order = torch.tensor([2, 3, 4, 5, 6, 7, 8, 0, 1])
    z: Tensor = renumbered(x[order], DomainSlices((0, 3, 7, 9)))
    torch.testing.assert_close(z, y[order], rtol=0, atol=1e-12)


def flops(backbone: BackboneModule, slices: DomainSlices) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        backbone(rows_of(slices.num_rows), slices)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", list(CASES))
def test_the_products_of_a_step_do_not_grow_with_the_domains(name: str) -> None:
    few = flops(build(name, "none", num_domains=2), DomainSlices((0, 1024, 2048)))
    many = flops(build(name, "none", num_domains=16), DomainSlices(tuple(range(0, 2049, 128))))
    assert few > 0
    if name == "cross_stitch":  # every row runs through all networks, as the method demands
        assert many > 7 * few
    else:
        assert many <= 1.02 * few  # the rest: ADI's gates, once a domain
