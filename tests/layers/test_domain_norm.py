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
