"""What computes the two networks of a request: PyTorch as it is, or ONNX Runtime on the bundle's copies."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.batch import Features, RankingFeatures
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.models.two_tower import Tower
from isthmus.serving.graph_inputs import ranking_inputs, user_inputs


class UserEncoder(Protocol):
    """From features of users in one domain to their vectors."""

    def __call__(self, features: Features, domain: int) -> Float[Tensor, "batch dim"]: ...


class RowScorer(Protocol):
    """From features of rows of one domain, the user's given once, to their logits."""

    def __call__(self, features: RankingFeatures, domain: int) -> Float[Tensor, " row"]: ...


class EagerUserEncoder:
    """The tower by PyTorch; gives vectors as `TwoTower.encode_user` does."""

    def __init__(self, tower: Tower, *, num_domains: int, has_bias: bool) -> None:
        self.tower, self.num_domains, self.has_bias = tower, num_domains, has_bias

    def __call__(self, features: Features, domain: int) -> Float[Tensor, "batch dim"]:
        vector: Tensor = self.tower(features, DomainSlices.single(domain, features.num_rows, self.num_domains))
        return torch.cat([vector, vector.new_ones(vector.shape[0], 1)], dim=1) if self.has_bias else vector


class EagerRowScorer:
    """The click model by PyTorch."""

    def __init__(self, model: nn.Module, *, num_domains: int) -> None:
        self.model, self.num_domains = model, num_domains

    def __call__(self, features: RankingFeatures, domain: int) -> Float[Tensor, " row"]:
        if not features.num_rows:  # of which a model could not tell what domain the user's one row is of
            return features.item.number.new_empty(0)
        logit: Tensor = self.model(features, DomainSlices.single(domain, features.num_rows, self.num_domains))
        return logit


class OnnxUserEncoder:
    """The tower's copies, one a domain."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        self._graphs = {domain: open_graph(file) for domain, file in files.items()}

    def __call__(self, features: Features, domain: int) -> Float[Tensor, "batch dim"]:
        return self._graphs[domain](user_inputs(features))


class OnnxRowScorer:
    """The click model's copies, one a domain."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        self._graphs = {domain: open_graph(file) for domain, file in files.items()}

    def __call__(self, features: RankingFeatures, domain: int) -> Float[Tensor, " row"]:
        if not features.num_rows:  # which a graph does not take; see `isthmus.serving.export.RANKER_ROWS`
            return features.item.number.new_empty(0)
        return self._graphs[domain](ranking_inputs(features))


def open_graph(file: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function that runs a graph on one thread; tables that it shares with the weights beside it are memory-mapped.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot open the file.
    """
    try:
        import onnxruntime  # only where it computes: it is an extra, and opening it takes time
    except ImportError as error:
        raise InputError("engine 'onnx' needs onnxruntime: pip install 'isthmus[serve]', or choose 'eager'") from error
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        raise InputError(f"{file}: ONNX Runtime cannot open it ({error}); make the bundle again") from error
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        (output,) = session.run(None, {name: inputs[name].numpy() for name in names})
        return torch.from_numpy(output)

    return run
