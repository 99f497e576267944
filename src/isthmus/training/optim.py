"""Optimizers: AdamW for networks, and one for embedding tables that touches only the rows of the step."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Eager(torch.optim.Optimizer):
    """An optimizer that does not load torch.compile, as PyTorch's do at their first call in order to keep it out.

    Loading it costs a second and 70 MiB of every process that trains. The methods are PyTorch's own without that
    decorator, and so not for use within torch.compile.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(_Eager, torch.optim.AdamW):
    """PyTorch's AdamW, arguments and all."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        inspect.unwrap(torch.optim.AdamW.step)(self)


class RowAdamW(_Eager):
    """AdamW on the rows that a sparse gradient names; every other row, and its moments, stays as it is.

    A step costs the same at any table size. A row's moments decay, and its weights with them, only in the steps that
    touch it; the bias correction counts those steps row by row, so that a row seen for the first time late in training
    moves as far as one seen in the first step.

    Source: Loshchilov and Hutter 2019, made lazy.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not gradient.is_sparse:
            raise ValueError("RowAdamW takes sparse gradients; give dense parameters to AdamW")
        state = self.state[parameter]
        if not state:
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
            state["num_steps"] = torch.zeros(parameter.shape[0], dtype=torch.float32, device=parameter.device)
        rows, values = sum_by_row(gradient)
        beta1, beta2 = group["betas"]
        num_steps = state["num_steps"].index_select(0, rows).add_(1)
        first = state["first"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["second"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["num_steps"].index_copy_(0, rows, num_steps)
        state["first"].index_copy_(0, rows, first)
        state["second"].index_copy_(0, rows, second)
        counts = num_steps.double().unsqueeze(1)  # in single precision 1 - 0.999 loses four digits
        step_size = (group["lr"] / (1 - beta1**counts)).to(values.dtype)
        scale = (1 - beta2**counts).sqrt_().to(values.dtype)
        denominator = second.sqrt_().div_(scale).add_(group["eps"])
        weight = parameter.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(first.div_(denominator).mul_(step_size))
        parameter.index_copy_(0, rows, weight)


def descend(objective: Float[Tensor, ""], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """One step down the objective.

    A table's gradient is dropped at once, not to stand beside the next step's activations where memory is at its peak.
    Those of networks wait for the next backward: without them the heap's end is free, goes back to the system after
    every step and is asked for anew, a tenth of a step.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(objective)
    for optimizer in optimizers:
        optimizer.step()
        if isinstance(optimizer, RowAdamW):
            optimizer.zero_grad(set_to_none=True)


def sum_by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a sparse gradient and the sum of what stands for each."""
    if gradient.is_coalesced():
        return gradient.indices()[0], gradient.values()
    indices, values = gradient._indices()[0], gradient._values()
    if gradient.shape[0] <= 2 * indices.numel():  # a small table: cheaper to add up whole than to sort
        total = torch.zeros(gradient.shape, dtype=values.dtype, device=values.device).index_add_(0, indices, values)
        rows = torch.bincount(indices, minlength=gradient.shape[0]).nonzero()[:, 0]
        return rows, total.index_select(0, rows)
    rows, place = torch.unique(indices, return_inverse=True)
    total = torch.zeros(rows.numel(), *values.shape[1:], dtype=values.dtype, device=values.device)
    return rows, total.index_add_(0, place, values)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A model's parameters with sparse gradients, and all others."""
    is_table = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse}
    parameters = list(model.parameters())
    return [p for p in parameters if id(p) in is_table], [p for p in parameters if id(p) not in is_table]
