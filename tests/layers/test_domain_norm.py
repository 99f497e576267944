import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import DomainBatchNorm, NoNorm, PartitionedNorm, SharedBatchNorm

NORMS: dict[str, Callable[[], nn.Module]] = {
    "shared": lambda: SharedBatchNorm(2),
    "domain": lambda: DomainBatchNorm(3, 2),
    "partitioned": lambda: PartitionedNorm(3, 2),
    "none": lambda: NoNorm(2),
}


def test_the_suite_runs_every_norm() -> None:
    assert len(NORMS) == 4


def test_each_domain_is_normalised_by_its_own_rows() -> None:
    # Domain 0: rows 1 and 3, mean 2, variance 1. Domain 2: rows 10 and 30, mean 20, variance 100.
    x = torch.tensor([[1.0], [3.0], [10.0], [30.0]], dtype=torch.float64)
    norm = DomainBatchNorm(3, 1).double()
    y: Tensor = norm(x, DomainSlices((0, 2, 2, 4)))
    low, high = 1 / math.sqrt(1 + 1e-5), 10 / math.sqrt(100 + 1e-5)
    assert y.flatten().tolist() == pytest.approx([-low, low, -high, high])
    # Running mean: 0.9 * 0 + 0.1 * 20. Running variance: 0.9 * 1 + 0.1 * 200, the unbiased variance of 10 and 30.
    third = norm.own_norms[2]
    assert isinstance(third, nn.BatchNorm1d)
    assert third.running_mean is not None
    assert third.running_var is not None
    assert third.running_mean.tolist() == pytest.approx([2.0])
    assert third.running_var.tolist() == pytest.approx([20.9])
    # In evaluation a row of domain 2 is normalised by these: (23 - 2) / sqrt(20.9).
    z: Tensor = norm.eval()(torch.tensor([[23.0]], dtype=torch.float64), DomainSlices((0, 0, 0, 1)))
    assert z.item() == pytest.approx(21 / math.sqrt(20.9 + 1e-5))


def test_each_domain_has_its_own_scale_and_shift() -> None:
    norm = DomainBatchNorm(2, 1)
    second = norm.own_norms[1]
    with torch.no_grad():
        for key, parameter in second.named_parameters():
            parameter.fill_(3.0 if key == "weight" else 5.0)
    y: Tensor = norm(torch.tensor([[0.0], [2.0], [0.0], [2.0]]), DomainSlices((0, 2, 4)))
    assert y.flatten().tolist() == pytest.approx([-1, 1, 2, 8], abs=1e-4)  # 3 * -1 + 5, 3 * 1 + 5


def test_one_shared_norm_mixes_the_domains() -> None:
    # All four rows: mean 11, squared distances 100 + 64 + 1 + 361 = 526, variance 131.5.
    x = torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    y: Tensor = SharedBatchNorm(1)(x, DomainSlices((0, 2, 2, 4)))
    assert y.flatten().tolist() == pytest.approx([v / math.sqrt(131.5) for v in (-10, -8, -1, 19)], abs=1e-5)


def test_partitioned_scales_are_multiplied_and_shifts_added() -> None:
    norm = PartitionedNorm(2, 1)
    with torch.no_grad():
        norm.shared_scale.fill_(2.0)
        norm.shared_shift.fill_(10.0)
        norm.own_scales[1].fill_(3.0)
        norm.own_shifts[1].fill_(100.0)
    x = torch.tensor([[0.0], [2.0], [50.0], [70.0]])  # -1 and 1 in each domain once normalised
    y: Tensor = norm(x, DomainSlices((0, 2, 4)))
    # Domain 0: 2 * 1 * z + 10 + 0. Domain 1: 2 * 3 * z + 10 + 100.
    assert y.flatten().tolist() == pytest.approx([8, 12, 104, 116], abs=1e-3)


@pytest.mark.parametrize("name", ["domain", "partitioned"])
def test_a_batch_of_one_domain_leaves_anothers_statistics_alone(name: str) -> None:
    norm = NORMS[name]()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    norm(torch.randn(6, 2), DomainSlices((0, 6, 6, 6)))
    moved = {key for key, value in norm.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {f"own_norms.0.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("name", ["shared", "domain", "partitioned"])
def test_one_training_row_uses_running_statistics_and_does_not_move_them(name: str) -> None:
    norm = NORMS[name]()
    norm(torch.randn(6, 2) * 3 + 1, DomainSlices((0, 2, 4, 6)))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    row, slices = torch.randn(1, 2), DomainSlices((0, 0, 1, 1))
    in_training: Tensor = norm.train()(row, slices)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    in_evaluation: Tensor = norm.eval()(row, slices)
    assert torch.equal(in_training, in_evaluation)


@pytest.mark.parametrize("name", list(NORMS))
def test_a_rows_evaluation_ignores_its_neighbours(name: str) -> None:
    norm, x, slices = NORMS[name](), torch.randn(6, 2) * 3 + 1, DomainSlices((0, 2, 4, 6))
    norm(x, slices)
    together: Tensor = norm.eval()(x, slices)
    alone: Tensor = norm(x[[4]], DomainSlices((0, 0, 0, 1)))
    torch.testing.assert_close(alone[0], together[4])


@pytest.mark.parametrize("name", list(NORMS))
def test_no_rows_stay_no_rows(name: str) -> None:
    norm = NORMS[name]()
    for mode in (True, False):
        y: Tensor = norm.train(mode)(torch.empty(0, 2), DomainSlices((0, 0, 0, 0)))
        assert y.shape == (0, 2)


def test_no_norm_gives_its_input_back() -> None:
    x = torch.randn(3, 2)
    assert NoNorm(2)(x, DomainSlices((0, 3))) is x


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("name", ["domain", "partitioned"])
def test_spans_together_give_what_each_gives_alone(name: str, rectify: bool) -> None:
    torch.manual_seed(0)
    together = NORMS[name]().double()
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    alone = copy.deepcopy(together)
    counts = [40, 1, 7]  # one row is normalised by running statistics
    x, factor = (torch.randn(48, 2, dtype=torch.float64) * 3 + 1 for _ in range(2))
    whole, parts = (x.clone().requires_grad_() for _ in range(2))
    y: Tensor = together(whole, DomainSlices.from_counts(counts), rectify=rectify)
    torch.autograd.backward(y, factor)
    outputs = []
    for domain, rows in enumerate(torch.split(parts, counts)):
        own: Tensor = alone(rows, DomainSlices.single(domain, len(rows), 3))
        outputs.append(own.relu() if rectify else own)
    torch.autograd.backward(torch.cat(outputs), factor)
    torch.testing.assert_close(y, torch.cat(outputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.grad, parts.grad, rtol=0, atol=1e-12)
    compared = list(zip(together.named_parameters(), alone.parameters(), strict=True))
    for (key, ours), plain in compared:
        torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-11, msg=key)
    assert len(compared) == {"domain": 6, "partitioned": 8}[name]
    for moved, expected in zip(together.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", list(NORMS))
@pytest.mark.parametrize("mode", [True, False])
def test_rectified_is_the_relu(name: str, mode: bool) -> None:
    norm, x, slices = NORMS[name](), torch.randn(6, 2), DomainSlices((0, 2, 4, 6))
    plain: Tensor = copy.deepcopy(norm).train(mode)(x.clone(), slices)
    rectified: Tensor = norm.train(mode)(x.clone(), slices, rectify=True)
    assert plain.min() < 0
    torch.testing.assert_close(rectified, plain.relu())


def test_mixed_precision_normalises_as_plain_layers_do() -> None:
    torch.manual_seed(0)
    together = PartitionedNorm(3, 2)
    alone = copy.deepcopy(together)
    x, factor = (torch.randn(30, 2).bfloat16() for _ in range(2))
    whole, parts = (x.clone().requires_grad_() for _ in range(2))
    y: Tensor = together(whole, DomainSlices((0, 12, 13, 30)), rectify=True)
    assert y.dtype == torch.bfloat16
    torch.autograd.backward(y, factor)
    own = [
        alone(rows, DomainSlices.single(d, len(rows), 3)).relu()
        for d, rows in enumerate(torch.split(parts, [12, 1, 17]))
    ]
    torch.autograd.backward(torch.cat(own), factor)
    torch.testing.assert_close(y, torch.cat(own))
    torch.testing.assert_close(whole.grad, parts.grad)
    for ours, plain in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad)
