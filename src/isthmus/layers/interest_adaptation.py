"""ADI's domain interest adaptation layer (DIAL): reweighs the embedded fields of a row, between embedding and backbone.

The three kinds are called as `(x, domain_slices)` and keep the shape. The two attentions also give each row's weight
of each field (`weights`), the numbers of the paper's heat map. The blocks before single networks ((D+K)-SE, `4-SE` in
the paper at 3 domains and 1 shared network) are `NetworkSE`, handed to the backbone.
"""

from typing import Literal, Protocol, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain

SEOutput = Literal["sigmoid", "linear"]


class Adaptation(Protocol):
    """A layer that reweighs embedded fields."""

    def __call__(
        self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch field dim"]: ...


class LinearAdaptation(nn.Module):
    """Each domain's own scale and shift of every number of every field; starts as the identity.

    Source: ADI eq. 21-22 (LT).
    """

    def __init__(self, num_domains: int, num_fields: int, dim: int) -> None:
        super().__init__()
        shape = (num_fields, dim)
        self.shape = shape
        self.own_scales = nn.ParameterList(nn.Parameter(torch.ones(shape)) for _ in range(num_domains))
        self.own_shifts = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in range(num_domains))

    def forward(
        self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch field dim"]:
        def run(domain: int, rows: Tensor) -> Tensor:
            y: Tensor = self.own_scales[domain] * rows + self.own_shifts[domain]
            return y

        return by_domain(run, domain_slices, x, width=self.shape)


class VanillaAttention(nn.Module):
    """A field's weight is the sigmoid of its product with a learned query of its domain.

    The queries start at 0: every field first weighs one half.

    Source: ADI eq. 23-24 (VA).
    """

    def __init__(self, num_domains: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.own_queries = nn.ParameterList(nn.Parameter(torch.zeros(num_fields, dim)) for _ in range(num_domains))

    def weights(self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch field"]:
        """Each row's weight of each field, in 0..1."""

        def run(domain: int, rows: Tensor) -> Tensor:
            return torch.einsum("bfd,fd->bf", rows, self.own_queries[domain]).sigmoid()

        return by_domain(run, domain_slices, x, width=(self.num_fields,))

    def forward(
        self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch field dim"]:
        return self.weights(x, domain_slices)[:, :, None] * x


class SEBlock(nn.Module):
    """Weights of a row's fields, from the fields' means: squeeze, linear, ReLU, linear, and a sigmoid.

    Args:
        hidden_dim: width between the two linear layers.
        output: "sigmoid", the usual gate, or "linear": no sigmoid, as ADI eq. 25 is written.

    Source: ADI eq. 25; Hu et al. 2018 (SENet).
    """

    def __init__(self, num_fields: int, hidden_dim: int, output: SEOutput = "sigmoid") -> None:
        super().__init__()
        self.squeeze = nn.Linear(num_fields, hidden_dim)
        self.excite = nn.Linear(hidden_dim, num_fields)
        self.output = output

    def forward(self, x: Float[Tensor, "batch field dim"]) -> Float[Tensor, "batch field"]:
        logits: Tensor = self.excite(self.squeeze(x.mean(dim=2)).relu())
        match self.output:
            case "sigmoid":
                return logits.sigmoid()
            case "linear":
                return logits
            case other:
                assert_never(other)


class SEAdaptation(nn.Module):
    """A squeeze-and-excitation block for each domain: the paper's best, D-SE. Arguments as for `SEBlock`.

    Source: ADI eq. 25-26.
    """

    def __init__(self, num_domains: int, num_fields: int, hidden_dim: int, output: SEOutput = "sigmoid") -> None:
        super().__init__()
        self.num_fields = num_fields
        self.own_blocks = nn.ModuleList(SEBlock(num_fields, hidden_dim, output) for _ in range(num_domains))

    def weights(self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch field"]:
        """Each row's weight of each field; in 0..1 with the sigmoid."""

        def run(domain: int, rows: Tensor) -> Tensor:
            weights: Tensor = self.own_blocks[domain](rows)
            return weights

        return by_domain(run, domain_slices, x, width=(self.num_fields,))

    def forward(
        self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch field dim"]:
        return self.weights(x, domain_slices)[:, :, None] * x


class GlobalSEAdaptation(nn.Module):
    """One squeeze-and-excitation block for all domains: 1-SE. Arguments as for `SEBlock`.

    Source: ADI eq. 25-26, Table 8.
    """

    def __init__(self, num_fields: int, hidden_dim: int, output: SEOutput = "sigmoid") -> None:
        super().__init__()
        self.block = SEBlock(num_fields, hidden_dim, output)

    def weights(self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch field"]:
        """Each row's weight of each field; in 0..1 with the sigmoid."""
        assert x.shape[0] == domain_slices.num_rows
        weights: Tensor = self.block(x)
        return weights

    def forward(
        self, x: Float[Tensor, "batch field dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch field dim"]:
        return self.weights(x, domain_slices)[:, :, None] * x


class NetworkSE(nn.Module):
    """A squeeze-and-excitation block before one network, on fields that already lie side by side.

    `x` is field by field: numbers `i * dim` to `(i + 1) * dim` are field i. Arguments as for `SEBlock`.

    Source: ADI eq. 25-26, Figure 4 and Table 8 (4-SE).
    """

    def __init__(self, num_fields: int, hidden_dim: int, output: SEOutput = "sigmoid") -> None:
        super().__init__()
        self.num_fields = num_fields
        self.block = SEBlock(num_fields, hidden_dim, output)

    def forward(self, x: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch in_dim"]:
        fields = x.reshape(x.shape[0], self.num_fields, x.shape[1] // self.num_fields)
        weights: Tensor = self.block(fields)
        return (weights[:, :, None] * fields).flatten(start_dim=1)
