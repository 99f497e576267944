import copy

import pytest
import torch
from torch import Tensor, nn

from isthmus.layers.embedding import new_table
from isthmus.training.optim import AdamW, RowAdamW, descend, split_parameters, sum_by_row

ROWS, DIM = 5, 3
KINDS = (AdamW, torch.optim.AdamW)


def parameter(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def sparse(rows: list[int], values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (ROWS, DIM), check_invariants=True)


def gradient(step: int, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_with_all_rows_in_every_step_it_is_adamw(weight_decay: float) -> None:
    ours, theirs = parameter(), parameter()
    lazy = RowAdamW([ours], lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=weight_decay)
    dense = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=weight_decay)
    for step in range(6):
        values = gradient(step)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = sparse(order.tolist(), values[order]), values
        lazy.step()
        dense.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    assert (ours - parameter()).abs().min() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_is_pytorchs_and_goes_on_from_what_either_saved(fused: bool) -> None:
    parameters = parameter(), parameter()
    optimizers = [kind([p], lr=0.1, weight_decay=0.3, fused=fused) for kind, p in zip(KINDS, parameters, strict=True)]
    for step in range(6):
        if step == 3:
            saved = [copy.deepcopy(optimizer.state_dict()) for optimizer in reversed(optimizers)]
            optimizers = [kind([p], lr=9.0, fused=fused) for kind, p in zip(KINDS, parameters, strict=True)]
            for optimizer, state in zip(optimizers, saved, strict=True):
                optimizer.load_state_dict(state)
        for p, optimizer in zip(parameters, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            assert p.grad is None
            p.grad = gradient(step)
            optimizer.step()
        assert torch.equal(*parameters)
    assert parameters[0].requires_grad
    assert (parameters[0] - parameter()).abs().min() > 1e-3


def test_a_row_moves_as_adamw_moves_it_in_the_steps_that_name_it() -> None:
    ours = parameter()
    lazy = RowAdamW([ours], lr=0.1, weight_decay=0.2)
    named = [[0, 3], [3], [1, 3], [0], [3, 1]]
    gradients = [gradient(step, len(rows)) for step, rows in enumerate(named)]
    before = parameter()
    for rows, values in zip(named, gradients, strict=True):
        ours.grad = sparse(rows, values)
        lazy.step()
    for row in range(ROWS):
        alone = nn.Parameter(before.detach()[row].clone())
        dense = torch.optim.AdamW([alone], lr=0.1, weight_decay=0.2)
        for rows, values in zip(named, gradients, strict=True):
            if row in rows:
                alone.grad = values[rows.index(row)].clone()
                dense.step()
        torch.testing.assert_close(ours[row], alone, rtol=0, atol=1e-14)
        assert torch.equal(ours[row], before[row]) == (row in (2, 4))


def test_values_of_one_row_are_summed() -> None:
    values = gradient(0, 3)
    apart, together = parameter(), parameter()
    apart.grad = sparse([2, 4, 2], values)
    together.grad = sparse([2, 4], torch.stack([values[0] + values[2], values[1]]))
    for p in (apart, together):
        RowAdamW([p], lr=0.1).step()
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-15)


@pytest.mark.parametrize("num_rows", [3, 1000])
def test_sums_by_row_are_the_same_for_small_and_large_tables(num_rows: int) -> None:
    rows, values = torch.tensor([2, 0, 2, 2]), torch.arange(8.0, dtype=torch.float64).view(4, 2)
    gradient = torch.sparse_coo_tensor(rows[None], values, (num_rows, 2), check_invariants=True)
    named, total = sum_by_row(gradient)
    assert named.tolist() == [0, 2]
    assert total.tolist() == [[2.0, 3.0], [10.0, 13.0]]


def test_a_coalesced_gradient_is_left_as_it_was() -> None:
    ours = parameter()
    values = gradient(0, 2)
    ours.grad = sparse([1, 3], values.clone()).coalesce()
    RowAdamW([ours], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(ours.grad.coalesce().values(), values)


def test_a_step_without_rows_or_without_a_gradient_changes_nothing() -> None:
    ours, idle = parameter(), parameter(1)
    optimizer = RowAdamW([ours, idle], lr=0.1, weight_decay=0.1)
    ours.grad = sparse([], torch.empty(0, DIM, dtype=torch.float64))
    optimizer.step()
    assert torch.equal(ours, parameter())
    assert torch.equal(idle, parameter(1))


def test_a_dense_gradient_is_refused() -> None:
    ours = parameter()
    ours.grad = gradient(0)
    with pytest.raises(ValueError, match="takes sparse gradients"):
        RowAdamW([ours], lr=0.1).step()


def test_the_saved_state_goes_on_exactly() -> None:
    whole = nn.Parameter(parameter().detach().float())
    optimizer = RowAdamW([whole], lr=0.1, weight_decay=0.1)

    def step(p: nn.Parameter, by: RowAdamW, number: int) -> None:
        p.grad = sparse([number % ROWS, 4, 0], gradient(number, 3).float())
        by.step()

    for number in range(3):
        step(whole, optimizer, number)
    resumed = nn.Parameter(whole.detach().clone())
    other = RowAdamW([resumed], lr=0.7)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(3, 8):
        step(whole, optimizer, number)
        step(resumed, other, number)
    assert torch.equal(whole, resumed)


def test_parameters_are_told_apart_by_their_gradients() -> None:
    table = new_table(4, 2, std=0.1)
    model = nn.ModuleDict(
        {
            "one": nn.ModuleList([table]),
            "two": nn.ModuleList([table]),
            "net": nn.Linear(2, 2),
            "plain": nn.Embedding(3, 2),
        }
    )
    tables, networks = split_parameters(model)
    assert [p.shape for p in tables] == [(4, 2)]
    assert {tuple(p.shape) for p in networks} == {(2, 2), (2,), (3, 2)}


def test_a_step_down_the_objective_takes_its_own_gradients_alone_and_drops_the_tables() -> None:
    table, layer = nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1)
    before = [parameter.detach().clone() for parameter in (table.weight, layer.weight)]
    optimizers = [RowAdamW(table.parameters(), lr=0.1), AdamW(layer.parameters(), lr=0.1)]
    layer.weight.grad = torch.full_like(layer.weight, 1e9)  # what an earlier step left
    objective = layer(table(torch.tensor([1, 2]))).square().sum()
    expected = torch.autograd.grad(objective, layer.weight, retain_graph=True)[0]
    descend(objective, optimizers)
    # The first step of Adam is the learning rate, against the gradient's sign; weight decay is AdamW's .01.
    assert torch.allclose(layer.weight, before[1] * (1 - 0.1 * 0.01) - 0.1 * expected.sign(), atol=1e-4)
    assert (table.weight != before[0]).any(dim=1).tolist() == [False, True, True, False, False]
    assert table.weight.grad is None
    assert torch.equal(layer.weight.grad, expected)
