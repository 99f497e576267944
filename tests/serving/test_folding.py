"""Folded first layers: what is left of them, that they give what they gave, and what is left alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tests.every_click_model import MODELS, NAMES, SMALL, backbone, sized
from tests.tiny_ranking import TABLES, ranking_sizes
from torch import nn

from isthmus.batch import FeatureSizes, RankingFeatures, RankingSizes
from isthmus.models.ctr import CTRModel, CTRSettings
from isthmus.serving.bundle_files import save_tensors
from isthmus.serving.engines import EagerRowScorer, OnnxRowScorer
from isthmus.serving.export import TableRows, draw_features, export_ranker
from isthmus.serving.folding import Part, _numbers, fold_first_layers

DIM = 3  # of the small models' vectors


def written(model: nn.Module, folder: Path, sizes: RankingSizes | None = None, domain: int = 0) -> ir.Model:
    """The graph of one domain."""
    save_tensors(folder / "ranker.safetensors", model.state_dict())
    sizes = ranking_sizes(len(NAMES)) if sizes is None else sizes
    export_ranker(model, sizes, TABLES, domains=NAMES, chosen=NAMES[domain : domain + 1], folder=folder)
    return ir.load(folder / f"ranker-{domain}.onnx")


def weights(graph: ir.Graph, part: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that folding made."""
    return {
        name: tuple(value.const_value.shape.numpy())
        for name, value in graph.initializers.items()
        if name.endswith(f".{part}") and value.const_value is not None
    }


def drawn(num_rows: int, sizes: RankingSizes | None = None) -> RankingFeatures:
    sizes, generator = ranking_sizes(len(NAMES)) if sizes is None else sizes, torch.Generator().manual_seed(4)
    sides = ((sizes.user, 1), (sizes.item, num_rows), (sizes.row, num_rows))
    return RankingFeatures(*(draw_features(s, TableRows.of(s, TABLES), count, generator) for s, count in sides))


def differences(model: nn.Module, folder: Path, domain: int = 0, sizes: RankingSizes | None = None) -> float:
    eager = EagerRowScorer(model.eval(), num_domains=len(NAMES))
    copy = OnnxRowScorer({domain: folder / f"ranker-{domain}.onnx"})
    with torch.inference_mode():
        assert copy(drawn(0, sizes), domain).shape == eager(drawn(0, sizes), domain).shape == (0,)
        return max(
            float((copy(rows, domain) - eager(rows, domain)).abs().max())
            for rows in (drawn(count, sizes) for count in (1, 2, 50))
        )


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [
        ("cdanet mmoe", 3),
        ("cdanet ple", 3),
        ("cdanet adi", 3),
        ("cdanet dcn", 2),
        ("cdanet gate", 3),
        ("cdanet own", 3),
    ],
)
def test_a_layer_reads_the_item_and_one_column_a_number(name: str, num_layers: int, tmp_path: Path) -> None:
    model = MODELS[name]()
    graph = written(model, tmp_path).graph
    by_row, once = weights(graph, "by_row"), weights(graph, "once")
    assert len(by_row) == num_layers
    assert set(once) == {key.replace("by_row", "once") for key in by_row}
    assert {shape[1] for shape in by_row.values()} == {DIM + 2}  # item, two numbers
    assert {shape[1] for shape in once.values()} == {2 * DIM}  # user, history
    assert differences(model, tmp_path) < 1e-5


@pytest.mark.parametrize("name", ["ctr star", "ctr mmoe", "keep mmoe", "fm", "ddtcdr", "cdanet cross_stitch"])
def test_every_other_model_gives_what_it_gave(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    written(model, tmp_path)
    assert differences(model, tmp_path) < 1e-5


def test_a_field_that_the_domain_lacks_is_zero_there(tmp_path: Path) -> None:
    model = MODELS["cdanet mmoe"]()
    graph = written(model, tmp_path, domain=2).graph
    assert differences(model, tmp_path, domain=2) < 1e-5
    assert {shape[1] for shape in weights(graph, "once").values()} == {2 * DIM}


def one_sided(of: str) -> RankingSizes:
    """An item and the row's numbers, or the user's fields and an item."""
    nothing = FeatureSizes((), (), (), 0, ((),) * len(NAMES))
    sizes = ranking_sizes(len(NAMES))
    return (
        RankingSizes(nothing, sizes.item, sizes.row)
        if of == "numbers"
        else RankingSizes(sizes.user, sizes.item, nothing)
    )


@pytest.mark.parametrize(("of", "made", "width"), [("numbers", "by_row", DIM + 2), ("user", "by_row", DIM)])
def test_what_there_is_to_fold_is_folded(of: str, made: str, width: int, tmp_path: Path) -> None:
    sizes = one_sided(of)
    settings = CTRSettings(backbone=backbone("mmoe"), **SMALL)
    model = CTRModel(settings, num_domains=len(NAMES), sizes=sizes, table_rows=TABLES)
    graph = written(model, tmp_path, sizes).graph
    assert {shape[1] for shape in weights(graph, made).values()} == {width}
    assert bool(weights(graph, "once")) == (of == "user")
    assert differences(model, tmp_path, sizes=sizes) < 1e-5


def test_products_of_fields_are_read_row_by_row_beside_what_is_folded(tmp_path: Path) -> None:
    settings = CTRSettings(backbone=backbone("mmoe"), products=True, **SMALL)
    model = CTRModel(settings, num_domains=len(NAMES), **sized(len(NAMES)))
    graph = written(model, tmp_path).graph
    num_products = 5 * 4 // 2
    assert {shape[1] for shape in weights(graph, "by_row").values()} == {DIM + 2 + num_products}
    assert differences(model, tmp_path) < 1e-5


def test_the_layers_of_a_network_read_the_same_columns(tmp_path: Path) -> None:
    graph = written(MODELS["cdanet mmoe"](), tmp_path).graph
    read = [node.inputs[0] for node in graph if node.op_type == "Gemm" and str(node.inputs[1]).find("by_row") > 0]
    assert len(read) == 3  # two experts and a gate
    assert len({id(value) for value in read}) == 1


def test_a_number_that_stands_in_two_places_counts_twice() -> None:
    numbers, weight = ir.Value(name="numbers"), np.array([[1.0, 2.0]], np.float32)
    numbers.shape = ir.Shape(["n", 1])
    part = Part(numbers, 2, column=0, vector=np.array([3.0, 5.0], np.float32))
    ((_, found),) = _numbers([(part, weight), (part, 10 * weight)])
    assert found.tolist() == [[143.0]]  # (1 * 3 + 2 * 5) * 11


def a_layer(**attributes: Any) -> ir.Model:
    """A user's field and an item's side by side, and a linear layer on them."""
    user, item = ir.Value(name="user"), ir.Value(name="item")
    for value, rows in ((user, 1), (item, "n")):
        value.shape, value.dtype = ir.Shape([rows, 2]), ir.DataType.FLOAT
    shape, weight = (
        ir.Value(name=name, const_value=ir.tensor(values, name=name), shape=ir.Shape(values.shape))
        for name, values in (("shape", np.array([3, 2])), ("weight", np.ones((5, 4), np.float32)))
    )
    copied = ir.node("Expand", [user, shape])
    beside = ir.node("Concat", [copied.outputs[0], item], {"axis": 1})
    layer = ir.node("Gemm", [beside.outputs[0], weight], {"transB": 1, **attributes})
    for node, width in ((copied, 2), (beside, 4), (layer, 5)):
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(["n", width]), ir.DataType.FLOAT
    nodes = [copied, beside, layer]
    graph = ir.Graph([user, item], layer.outputs, nodes=nodes, initializers=[shape, weight], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def test_a_layer_without_a_bias_gets_one() -> None:
    model = a_layer()
    assert fold_first_layers(model) == 1
    layer = model.graph.outputs[0].producer()
    assert layer is not None
    assert layer.inputs[0] is model.graph.inputs[1]
    assert len(layer.inputs) == 3
    assert [node.op_type for node in model.graph] == ["Gemm", "Gemm"]  # what is copied, and what is joined, is gone


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 0.5}, {"transA": 1}, {"transB": 0}])
def test_a_product_of_another_form_is_left_alone(attributes: Mapping[str, Any]) -> None:
    assert fold_first_layers(a_layer(**attributes)) == 0
