"""Matrix products of single precision, by the faster of the two libraries that PyTorch holds.

PyTorch hands them to MKL, which has half the speed of a processor with AVX-512 that is not Intel's; oneDNN, which is in
PyTorch too and which it uses in half precision, has full speed there. `linear` and `product` ask oneDNN where that
pays, and MKL, or the accelerator's library, elsewhere.

oneDNN makes code for each shape that it meets and keeps it for the next time. The rows of a domain differ in number
from step to step, so all but a last few of them are handed over, a number that comes again, and MKL takes the rest.

`torch.backends.mkldnn.enabled = False` turns it off.
"""

import platform
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEAST_WORK = 3 << 19  # multiplications, below which asking oneDNN costs more than it saves
LEAST_WORK_WITH_GRADIENT = 2 * LEAST_WORK  # where a step of autograd in Python is paid too
LEAST_WIDTH = 16
ROUND_ROWS = ((1024, 64), (256, 16), (0, 4))  # from this many rows on, multiples of that many are handed over


def linear(
    x: Float[Tensor, "*rows in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    bias: Float[Tensor, " out_dim"] | None = None,
) -> Float[Tensor, "*rows out_dim"]:
    """`x weight^T + bias`, as `torch.nn.functional.linear` gives it."""
    with_gradient = torch.is_grad_enabled()
    if not is_for_onednn(x, weight, LEAST_WORK_WITH_GRADIENT if with_gradient else LEAST_WORK):
        return functional.linear(x, weight, bias)
    if not with_gradient:
        return product(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class Linear(nn.Linear):
    """`torch.nn.Linear` by the faster library; the same weights, start and state."""

    def forward(self, x: Float[Tensor, "*rows in_dim"]) -> Float[Tensor, "*rows out_dim"]:
        return linear(x, self.weight, self.bias)


def product(
    x: Float[Tensor, "row in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    bias: Float[Tensor, " out_dim"] | None = None,
    *,
    out: Float[Tensor, "row out_dim"] | None = None,
) -> Float[Tensor, "row out_dim"]:
    """`x weight^T + bias` outside autograd, written to `out` where that is given."""
    num_rows = _rounded(x.shape[0]) if is_for_onednn(x, weight) else 0
    if num_rows == x.shape[0] and num_rows:
        y = by_onednn(x, weight, bias)
        return y if out is None else out.copy_(y)
    y = x.new_empty(x.shape[0], weight.shape[0]) if out is None else out
    if num_rows:
        y[:num_rows] = by_onednn(x[:num_rows], weight, bias)
    if bias is None:
        torch.mm(x[num_rows:], weight.T, out=y[num_rows:])
    else:
        torch.addmm(bias, x[num_rows:], weight.T, out=y[num_rows:])
    return y


def products_of_spans(
    x: Float[Tensor, "row in_dim"],
    counts: Sequence[int],
    weights: Iterable[Float[Tensor, "out_dim in_dim"]],
    biases: Sequence[Float[Tensor, " out_dim"] | None] | None = None,
    *,
    out: Float[Tensor, "row out_dim"],
) -> Float[Tensor, "row out_dim"]:
    """`x weight^T + bias` of each span of rows, by a weight and bias of its own, outside autograd and written to `out`.

    So that oneDNN meets a number of rows that comes again, a span is handed over with a few rows of those beside it,
    for which what it gives is dropped.
    """
    may_ask: bool | None = None
    stop = 0
    for count, weight, bias in zip(counts, weights, biases or [None] * len(counts), strict=True):
        if may_ask is None:
            may_ask = _may_ask_onednn(x, weight)
        start, stop = stop, stop + count
        num_rows = count + -count % _unit(count)
        if may_ask and num_rows <= x.shape[0] and _is_worth_it(count, x.shape[1], out.shape[1]):
            first = min(start, x.shape[0] - num_rows)
            y = by_onednn(x[first : first + num_rows], weight, bias)
            out[start:stop] = y[start - first : stop - first]
        else:
            product(x[start:stop], weight, bias, out=out[start:stop])
    return out


def product_over_rows(
    left: Float[Tensor, "row left_dim"], right: Float[Tensor, "row right_dim"]
) -> Float[Tensor, "left_dim right_dim"]:
    """`left^T right`, the sum of the rows' outer products, outside autograd."""
    num_rows = _rounded(left.shape[0]) if is_for_onednn(left.T, right.T) else 0
    if not num_rows:
        return left.T @ right
    y = by_onednn(left[:num_rows].T, right[:num_rows].T, None)
    return y if num_rows == left.shape[0] else y.addmm_(left[num_rows:].T, right[num_rows:])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "row in_dim"],
        weight: Float[Tensor, "out_dim in_dim"],
        bias: Float[Tensor, " out_dim"] | None,
    ) -> Float[Tensor, "row out_dim"]:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "row out_dim"]) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.T) if needs_x else None,
            product_over_rows(gradient, x) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
        )


def _unit(num_rows: int) -> int:
    return next(unit for least, unit in ROUND_ROWS if num_rows >= least)


def _rounded(num_rows: int) -> int:
    return num_rows - num_rows % _unit(num_rows)


def is_for_onednn(x: Tensor, weight: Tensor, least_work: int = LEAST_WORK) -> bool:
    """Whether `x weight^T` of these two is faster by oneDNN."""
    return _may_ask_onednn(x, weight) and _is_worth_it(x.shape[0], x.shape[1], weight.shape[0], least_work)


def _may_ask_onednn(x: Tensor, weight: Tensor) -> bool:
    # While a graph is traced, numbers of rows are symbols, which a comparison would pin down.
    return (
        has_faster_onednn()
        and not torch.compiler.is_compiling()
        and x.dim() == 2
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _is_worth_it(num_rows: int, in_dim: int, out_dim: int, least_work: int = LEAST_WORK) -> bool:
    return num_rows * in_dim * out_dim >= least_work and min(num_rows, in_dim, out_dim) >= LEAST_WIDTH


@cache
def has_faster_onednn() -> bool:
    """Whether this machine is one on which oneDNN's products in single precision are faster than MKL's."""
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _maker() != "GenuineIntel"
    )


def _maker() -> str:
    """Who made the processor, where Linux says so; "GenuineIntel", for which nothing changes, elsewhere."""
    file = Path("/proc/cpuinfo")
    if platform.system() == "Linux" and file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return "GenuineIntel"


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weight^T + bias` by oneDNN. A weight with gaps between its rows is put together first: as it lies, oneDNN
    takes a thousand times as long.
    """
    if not weight.is_contiguous() and not weight.T.is_contiguous():
        weight = weight.T.contiguous().T
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
