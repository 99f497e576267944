"""STAR: a network whose weights are a shared weight times a domain's own, and a normalisation by domain.

STAR's auxiliary network reads the domain indicator and adds to the final logit; it belongs to a ranking model, not to
the features that a backbone gives, and is not here. Departures from the paper: its layers go on to the logit, these end
in features; it normalises the embedded fields alone, this the hidden layers too.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import StarLinear
from isthmus.layers.domain_norm import NormFactory, SharedBatchNorm
from isthmus.layers.mlp import StarMLP
from isthmus.layers.routing import by_domain, has_short_spans


class StarBackbone(nn.Module):
    """Normalised input, STAR's layers with norm and ReLU, and a STAR layer without either as the output.

    Args:
        norm: makes the norm of the input and of each hidden layer; the paper's is `PartitionedNorm`.
        zero_start: the output layer's shared weight and all its biases start at 0, its factors at 1.

    Source: Sheng et al. 2021; ADI eq. 16.
    """

    def __init__(
        self,
        num_domains: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        norm: NormFactory,
        dropout: float,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.input_norm = norm(in_dim)
        self.network = StarMLP(num_domains, in_dim, hidden_dims, norm, dropout)
        self.output = StarLinear(num_domains, self.network.out_dim, out_dim, zero_start=zero_start)
        self.mixes_domains = any(isinstance(module, SharedBatchNorm) for module in self.modules())

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        if self.mixes_domains or has_short_spans(domain_slices):
            return self._pass(x, domain_slices)

        # Long spans: a domain's rows are taken apart and put together once.
        def run(domain: int, rows: Tensor) -> Tensor:
            return self._pass(rows, DomainSlices.single(domain, rows.shape[0], domain_slices.num_domains))

        return by_domain(run, domain_slices, x, width=(self.out_dim,))

    def _pass(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        features: Tensor = self.network(self.input_norm(x, domain_slices), domain_slices)
        y: Tensor = self.output(features, domain_slices)
        return y
