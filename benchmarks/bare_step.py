"""The least that a step of any model has to do, read off the step itself: its products, gathers and sparse updates.

The products of matrices are noted while a real step runs, forward and backward, with their shapes and strides, and run
again alone on memory already held, each whole and by the faster of PyTorch's libraries. Beside them stand one gather of
every looked-up row, one scatter of its gradient, and the traffic of a sparse update with two moments: three gathers and
three scatters of the distinct rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus.layers.products import by_onednn, is_for_onednn

MATRIX_PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.mm.out: (0, 1),
    torch.ops.aten.addmm.out: (1, 2),
}


@dataclass(frozen=True)
class Factor:
    """A factor of a product: what a random tensor needs to take its place."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> "Factor":
        return cls(tuple(x.shape), tuple(x.stride()), x.dtype)

    def random(self) -> Tensor:
        needed = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.rand(needed).to(self.dtype).as_strided(self.shape, self.stride)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the factors of every product of matrices that runs while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[tuple[Factor, Factor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in MATRIX_PRODUCTS:
            left, right = (args[place] for place in MATRIX_PRODUCTS[func])
            self.products.append((Factor.of(left), Factor.of(right)))
        return func(*args, **(kwargs or {}))


@contextmanager
def lookups_of(model: nn.Module) -> Iterator[list[tuple[nn.Embedding, Tensor]]]:
    """The tables that are looked up within the block, and which rows."""
    found: list[tuple[nn.Embedding, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Embedding)
        found.append((module, inputs[0].detach().clone()))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def whole_products() -> Iterator[None]:
    """Products as they are, not in the parts in which `isthmus.layers.products` hands them to oneDNN."""
    flags: Any = torch.backends.mkldnn
    before, flags.enabled = flags.enabled, False
    try:
        yield
    finally:
        flags.enabled = before


def bare_product(left: Tensor, right: Tensor) -> Tensor:
    """One product, by oneDNN where that is faster."""
    if left.dim() == 2 and is_for_onednn(left, right.T):
        return by_onednn(left, right.T, None)
    return torch.matmul(left, right)


class BareStep:
    """The bound of one step.

    Args:
        model: whose tables are looked up.
        step: runs the step once.
    """

    def __init__(self, model: nn.Module, step: Callable[[], object]) -> None:
        with whole_products(), lookups_of(model) as lookups, Recorder() as recorder:
            step()
        self.factors = [(left.random(), right.random()) for left, right in recorder.products]
        self.rows = [rows for _, rows in lookups]
        self.distinct = [torch.unique(rows) for rows in self.rows]
        self.tables = [table.weight.detach().clone() for table, _ in lookups]
        self.moments = [(torch.zeros_like(table), torch.zeros_like(table)) for table in self.tables]
        self.gradients = [torch.rand(len(rows), table.shape[1]) for rows, table in self.rows_and_tables()]

    def rows_and_tables(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.rows, self.tables, strict=True)

    def products(self) -> None:
        for left, right in self.factors:
            bare_product(left, right)

    def products_of_torch(self) -> None:
        """By the library that PyTorch asks, whichever is faster."""
        for left, right in self.factors:
            torch.matmul(left, right)

    def gathers(self) -> None:
        for rows, table in self.rows_and_tables():
            table.index_select(0, rows)

    def updates(self) -> None:
        parts = zip(self.rows, self.distinct, self.tables, self.moments, self.gradients, strict=True)
        for rows, distinct, table, moments, gradient in parts:
            table.index_add_(0, rows, gradient)
            for held in (table, *moments):
                held.index_copy_(0, distinct, held.index_select(0, distinct))

    def all(self) -> None:
        self.products()
        self.gathers()
        self.updates()


class BareSteps:
    """Several steps, one after the other."""

    def __init__(self, steps: Iterable[BareStep]) -> None:
        self.steps = list(steps)

    def products(self) -> None:
        for step in self.steps:
            step.products()

    def products_of_torch(self) -> None:
        for step in self.steps:
            step.products_of_torch()

    def all(self) -> None:
        for step in self.steps:
            step.all()
