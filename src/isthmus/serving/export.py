"""ONNX copies of the user tower and the click model, one graph a domain, each compared with its model when made.

A request is of one domain, so a graph is traced (by `torch.export`) as that domain's rows run: it holds no routing and
only the domain's own networks. The number of rows is open; a click model takes one row of the user for all items.
Weights of `SHARED_BYTES` and more, the tables above all, are not copied: the graph points into the safetensors file
beside it, which every graph and process maps once.
"""

import json
import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import nan
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.errors import InputError
from isthmus.models.ddtcdr import fixed_maps
from isthmus.models.two_tower import Tower
from isthmus.serving.engines import EagerRowScorer, EagerUserEncoder, open_graph
from isthmus.serving.graph_inputs import ranking_features, ranking_inputs, user_features, user_inputs

TOLERANCE = 1e-4  # of |copy - model| / (1 + |model|): single precision summed in another order gives about 1e-6
SHARED_BYTES = 1 << 16
USER_ROWS = (0, 1, 2, 37)  # that a copy of the user tower is compared on
# Of a click model's copy 0 is left out: where fields are multiplied ONNX Runtime divides by the number of rows, which
# ends the process. `OnnxRowScorer` answers no rows without the graph.
RANKER_ROWS = (1, 2, 37)
TRACED_ROWS = 3
LONGEST_LIST = 6


@dataclass(frozen=True)
class TableRows:
    """How many rows each field's table has in a domain, to draw values that a model may be asked for."""

    categorical: tuple[int, ...]
    lists: tuple[int, ...]

    @classmethod
    def of(cls, sizes: FeatureSizes, rows: Mapping[str, int]) -> "TableRows":
        return cls(tuple(rows[name] for name in sizes.categorical), tuple(rows[name] for name in sizes.bags))


def export_user_tower(
    tower: Tower, sizes: FeatureSizes, rows: Mapping[str, int], *, domains: Sequence[str], has_bias: bool, folder: Path
) -> None:
    """Write `user-N.onnx` of each domain number N beside `user.safetensors`.

    Args:
        rows: of each table, in one domain.

    Raises:
        InputError: the packages are missing, or a copy's vectors are not the tower's.
    """
    model = EagerUserEncoder(tower.eval(), num_domains=len(domains), has_bias=has_bias)
    table_rows = TableRows.of(sizes, rows)

    def draw(num_rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return user_inputs(draw_features(sizes, table_rows, num_rows, generator))

    for number, name in enumerate(domains):

        def run(inputs: Mapping[str, Tensor], number: int = number) -> Tensor:
            return model(user_features(inputs, sizes), number)

        _export(_Graph(run, tower), draw, folder / f"user-{number}.onnx", "user.safetensors", f"user tower of {name!r}")


def export_ranker(
    model: nn.Module,
    sizes: RankingSizes,
    rows: Mapping[str, int],
    *,
    domains: Sequence[str],
    chosen: Sequence[str],
    folder: Path,
    folded: bool = True,
) -> None:
    """Write `ranker-N.onnx` of each chosen domain beside `ranker.safetensors`.

    Args:
        rows: of each table, in one domain.
        domains: all that the model has, in the order of their numbers.
        folded: see `isthmus.serving.folding`; without it a graph multiplies as the model does.

    Raises:
        InputError: the packages are missing, or a copy's logits are not the model's.
    """
    scorer = EagerRowScorer(model.eval(), num_domains=len(domains))
    sides = [(side, TableRows.of(side, rows)) for side in (sizes.user, sizes.item, sizes.row)]

    def draw(num_rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        counts = (1, num_rows, num_rows)
        drawn = [draw_features(*side, count, generator) for side, count in zip(sides, counts, strict=True)]
        return ranking_inputs(RankingFeatures(*drawn))

    for name in chosen:
        number = domains.index(name)

        def run(inputs: Mapping[str, Tensor], number: int = number) -> Tensor:
            return scorer(ranking_features(inputs, sizes), number)

        file = folder / f"ranker-{number}.onnx"
        with fixed_maps(model):
            _export(_Graph(run, model), draw, file, "ranker.safetensors", f"click model of {name!r}", folded=folded)


def exported(folder: Path, name: str, num_domains: int) -> dict[int, Path]:
    """The copies that a bundle has, by domain number; `name` is `user` or `ranker`."""
    files = {number: folder / f"{name}-{number}.onnx" for number in range(num_domains)}
    return {number: file for number, file in files.items() if file.is_file()}


def draw_features(sizes: FeatureSizes, rows: TableRows, num_rows: int, generator: torch.Generator) -> Features:
    """Random rows that a model may be asked for; the first one's lists are empty, save where rows are traced or one."""

    def below(limit: int, count: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator)

    columns = [below(limit, num_rows) for limit in rows.categorical]
    bags = []
    for limit in rows.lists:
        lengths = 2 + below(LONGEST_LIST, num_rows)
        if num_rows > TRACED_ROWS:
            lengths[0] = 0
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        bags.append(Bag(below(limit, int(offsets[-1])), offsets))
    text = tuple(torch.randn(num_rows, dim, generator=generator) for dim in sizes.text_dims)
    categorical = torch.stack(columns, dim=1) if columns else torch.empty(num_rows, 0, dtype=torch.int64)
    return Features(categorical, tuple(bags), torch.randn(num_rows, sizes.num_numbers, generator=generator), text)


def require_parity(
    model: Callable[[Mapping[str, Tensor]], Tensor],
    copy: Callable[[Mapping[str, Tensor]], Tensor],
    draw: Callable[[int, torch.Generator], dict[str, Tensor]],
    name: str,
    num_rows: Sequence[int] = USER_ROWS,
) -> float:
    """The largest difference of a copy from its model, over random inputs of several sizes.

    Args:
        num_rows: of each input.

    Raises:
        InputError: it is above `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for count in num_rows:
        inputs = draw(count, generator)
        with torch.inference_mode():
            expected, found = model(inputs), copy(inputs)
        differences.append(largest_difference(expected, found))
    largest = float(torch.tensor(differences).max())  # unlike Python's, not a number where one is not
    if not largest <= TOLERANCE:
        raise InputError(
            f"{name}: its ONNX copy differs from the model by up to {largest:.3g}, more than {TOLERANCE:.0e}; "
            "bundle without copies (--no-onnx)"
        )
    return largest


def largest_difference(expected: Float[Tensor, "..."], found: Float[Tensor, "..."]) -> float:
    """The largest of |found - expected| / (1 + |expected|): 0 of nothing; not a number where either is not, or where
    their shapes differ.
    """
    if found.shape != expected.shape:
        return nan
    if not found.numel():
        return 0.0
    return float(((found - expected).abs() / (1 + expected.abs())).max())


class _Graph(nn.Module):
    """What is traced: a function of named tensors, and the module whose weights it reads."""

    def __init__(self, run: Callable[[Mapping[str, Tensor]], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model, self.run = model, run
        self.names: tuple[str, ...] = ()

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return self.run(dict(zip(self.names, tensors, strict=True)))


def _export(
    graph: _Graph,
    draw: Callable[[int, torch.Generator], dict[str, Tensor]],
    file: Path,
    weights: str,
    name: str,
    *,
    folded: bool = False,
) -> None:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  # which torch.onnx asks for by itself, with a longer message

        from isthmus.serving.folding import fold_first_layers
    except ImportError as error:
        raise InputError(
            f"{name}: copies need onnx and onnxscript: pip install 'isthmus[serve]', or bundle with --no-onnx"
        ) from error
    inputs = draw(TRACED_ROWS, torch.Generator().manual_seed(1))  # none with a length of 0 or 1, which would be fixed
    graph.names = tuple(inputs)
    is_one_user = inputs["user_categorical"].shape[0] == 1

    def is_open(key: str) -> bool:
        is_values = "_list_" in key and not key.endswith("_offsets")
        return is_values or not (is_one_user and key.startswith("user_"))

    dynamic = tuple({0: torch.export.Dim.DYNAMIC} if is_open(key) else {} for key in inputs)
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (tuple(inputs.values()),),
            dynamo=True,
            input_names=list(inputs),
            output_names=["output"],
            dynamic_shapes=(dynamic,),
            external_data=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in the source it came from, with the paths of this machine
    if folded:
        fold_first_layers(program.model)
    _share_weights(program.model, file.parent / weights)
    onnx_ir.save(program.model, file)
    require_parity(graph.run, open_graph(file), draw, name, RANKER_ROWS if is_one_user else USER_ROWS)


def _share_weights(model: Any, file: Path) -> None:
    """Let a graph's large weights be read from a safetensors file in the folder where the graph will lie."""
    import onnx_ir

    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    aliases = json.loads(header.get("__metadata__", {}).get("aliases", "{}"))
    for key, value in list(model.graph.initializers.items()):
        key = key.removeprefix("model.")
        record = header.get(aliases.get(key, key))
        tensor = value.const_value
        if record is None or tensor.nbytes < SHARED_BYTES or list(tensor.shape.numpy()) != record["shape"]:
            continue
        start, end = record["data_offsets"]
        value.const_value = onnx_ir.ExternalTensor(
            location=file.name,
            offset=8 + length + start,
            length=end - start,
            dtype=tensor.dtype,
            shape=tensor.shape,
            name=value.name,
            base_dir=file.parent,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of its own steps; its errors are raised.

    Nor are shapes checked meanwhile, where they are at all: what is traced has numbers of rows that are symbols.
    """
    before, was_disabled = logging.root.manager.disable, jaxtyping.config.jaxtyping_disable
    logging.disable(logging.WARNING)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        jaxtyping.config.update("jaxtyping_disable", was_disabled)
