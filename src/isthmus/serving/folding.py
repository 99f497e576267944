"""Less work for the first layers of an exported click model: what they multiply for every row and need not.

All rows of a request are of one user, whose fields a graph copies to every row, and a number's field is the number
times one learned vector. A layer that multiplies the fields side by side,

    W x + b  =  sum over fields f of W_f x_f  +  b,

gives the same where the user's fields join the bias, once a request, and a number has one column, W_f v_f, in place of
as many as its vector has numbers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

EMBEDDED_NUMBERS = "bn,nd->nbd"  # of `layers.embedding`: each number times its vector


@dataclass(frozen=True)
class Part:
    """Some of the columns that a layer multiplies.

    Attributes:
        value: what has them, a row for each item, unless `is_one_row`.
        width: how many.
        column, vector: of an embedded number: the columns are that column of `value` times the vector.
    """

    value: ir.Value
    width: int
    is_one_row: bool = False
    column: int | None = None
    vector: NDArray[np.float32] | None = None


def fold_first_layers(model: ir.Model) -> int:
    """Rewrite in place every linear layer that reads such fields, and give their number; others stay as they are."""
    folder = _Folder(model.graph)
    folded = sum(folder.fold(node) for node in list(model.graph) if node.op_type == "Gemm")
    if folded:
        RemoveUnusedNodesPass()(model)
    return folded


class _Folder:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.joined: dict[tuple[int, ...], ir.Value] = {}  # values side by side, which several layers read

    def fold(self, layer: ir.Node) -> bool:
        """Whether the layer could be rewritten."""
        weight = _constant(layer.inputs[1])
        if weight is None or not _is_linear(layer):
            return False
        parts = parts_of(layer.inputs[0])
        is_varied = [not part.is_one_row for part in parts]
        if not any(is_varied) or all(part.vector is None and not part.is_one_row for part in parts):
            return False
        columns = np.split(weight, np.cumsum([part.width for part in parts])[:-1], axis=1)
        pairs = list(zip(parts, columns, strict=True))
        name = layer.outputs[0].name or "linear"
        once = [(part.value, own) for part, own in pairs if part.is_one_row]
        if once:
            bias = ir.node("Gemm", [*self._factors(f"{name}.once", once, layer), *layer.inputs[2:3]], {"transB": 1})
            self.graph.insert_before(layer, bias)
            layer.resize_inputs(3)
            layer.replace_input_with(2, bias.outputs[0])
        by_row = [(part.value, own) for part, own in pairs if not part.is_one_row and part.vector is None]
        for place, factor in enumerate(self._factors(f"{name}.by_row", [*by_row, *_numbers(pairs)], layer)):
            layer.replace_input_with(place, factor)
        return True

    def _factors(
        self, name: str, pairs: Sequence[tuple[ir.Value, NDArray[np.float32]]], layer: ir.Node
    ) -> tuple[ir.Value, ir.Value]:
        """The values side by side, and their weights."""
        weight = np.ascontiguousarray(np.concatenate([own for _, own in pairs], axis=1))
        initializer = ir.Value(name=name, const_value=ir.tensor(weight, name=name))
        initializer.shape, initializer.dtype = ir.Shape(weight.shape), ir.DataType.FLOAT
        self.graph.register_initializer(initializer)
        return self._side_by_side([value for value, _ in pairs], layer), initializer

    def _side_by_side(self, values: Sequence[ir.Value], layer: ir.Node) -> ir.Value:
        if len(values) == 1:
            return values[0]
        key = tuple(id(value) for value in values)
        if key not in self.joined:
            node = ir.node("Concat", values, {"axis": 1})
            self.graph.insert_before(layer, node)
            self.joined[key] = node.outputs[0]
        return self.joined[key]


def _numbers(
    pairs: Sequence[tuple[Part, NDArray[np.float32]]],
) -> list[tuple[ir.Value, NDArray[np.float32]]]:
    """Each matrix of numbers, and the weights of its columns: 0 for one that the layer does not read."""
    weights: dict[int, dict[int, NDArray[np.float32]]] = defaultdict(dict)
    values = {}
    for part, own in pairs:
        if part.vector is not None and part.column is not None:
            of_value = weights[id(part.value)]  # a field may stand in several places
            of_value[part.column] = of_value.get(part.column, 0) + own @ part.vector
            values[id(part.value)] = part.value
    found = []
    for key, value in values.items():
        by_column = weights[key]
        none = np.zeros(len(next(iter(by_column.values()))), np.float32)
        found.append((value, np.stack([by_column.get(column, none) for column in range(_width(value))], axis=1)))
    return found


def parts_of(value: ir.Value | None) -> list[Part]:
    """What lies side by side in a matrix; the matrix itself where that is not known."""
    assert value is not None
    producer = value.producer()
    whole = [Part(value, _width(value))]
    if producer is None:
        return whole
    if producer.op_type == "Concat" and _attribute(producer, "axis") in (1, -1) and _rank(value) == 2:
        parts = [part for each in producer.inputs for part in parts_of(each)]
    elif producer.op_type == "Reshape" and producer.inputs[0] is not None:
        parts = _stacked(producer.inputs[0])
    else:
        parts = [_field(value)]
    return parts if sum(part.width for part in parts) == whole[0].width else whole


def _stacked(value: ir.Value) -> list[Part]:
    """The fields of `torch.stack(fields, dim=1)`, none where it is something else."""
    stack = value.producer()
    if stack is None or stack.op_type != "Concat" or _attribute(stack, "axis") != 1 or _rank(value) != 3:
        return []
    fields = []
    for each in stack.inputs:
        producer = None if each is None else each.producer()
        if producer is None or producer.op_type != "Unsqueeze" or _integers(producer.inputs[1]) != [1]:
            return []
        assert producer.inputs[0] is not None
        fields.append(_field(producer.inputs[0]))
    return fields


def _field(value: ir.Value) -> Part:
    """An embedded field: one row copied to all, a number times a vector, or any other."""
    plain, producer = Part(value, _width(value)), value.producer()
    if producer is None or producer.inputs[0] is None:
        return plain
    source = producer.inputs[0]
    if producer.op_type == "Expand" and source.shape is not None and list(source.shape) == [1, plain.width]:
        return Part(source, plain.width, is_one_row=True)
    if producer.op_type == "Squeeze" and _integers(producer.inputs[1]) == [0]:
        return _embedded_number(source, plain)
    return plain


def _embedded_number(value: ir.Value, plain: Part) -> Part:
    """Row `column` of the embedded numbers, one of which `Slice` takes out, unless there is but one."""
    column, producer = 0, value.producer()
    if producer is not None and producer.op_type == "Slice":
        starts, ends, axes = (_integers(each) for each in producer.inputs[1:4])
        if len(starts) != 1 or len(ends) != 1 or axes != [0] or ends[0] != starts[0] + 1:
            return plain
        column, value = starts[0], producer.inputs[0] or value
        producer = value.producer()
    if producer is None or producer.op_type != "Einsum" or _attribute(producer, "equation") != EMBEDDED_NUMBERS:
        return plain
    numbers, vectors = producer.inputs[0], _constant(producer.inputs[1])
    if numbers is None or vectors is None or not 0 <= column < len(vectors):
        return plain
    return Part(numbers, plain.width, column=column, vector=vectors[column])


def _is_linear(node: ir.Node) -> bool:
    """Whether a Gemm is `x W^T + b` with nothing around it."""
    usual: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    given = {"transB": 0} | {name: attribute.value for name, attribute in node.attributes.items()}
    return {**usual, **given} == usual


def _attribute(node: ir.Node, name: str) -> object:
    return node.attributes[name].value if name in node.attributes else None


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _integers(value: ir.Value | None) -> list[int]:
    found = _constant(value)
    return [] if found is None else [int(each) for each in found.ravel()]


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else value.shape.rank()


def _width(value: ir.Value) -> int:
    """Columns of a matrix; 0 where they are not known."""
    last = 0 if value.shape is None or value.shape.rank() != 2 else value.shape[1]
    return last if isinstance(last, int) else 0
