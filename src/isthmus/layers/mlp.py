"""Stacks of dense layers: one network for all rows, one for each domain, and STAR's product of the two.

Every layer of a stack is linear, norm, ReLU, dropout, the last one included: a stack gives features. Where a plain
linear output is wanted, the caller puts a linear layer behind the stack.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import StarLinear, linear_by_span
from isthmus.layers.domain_norm import NoNorm, NormFactory, SharedBatchNorm, norm_by_span
from isthmus.layers.embedding import for_products
from isthmus.layers.products import Linear
from isthmus.layers.routing import by_domain, has_short_spans


class DenseLayer(nn.Module):
    """Linear, norm, ReLU, dropout.

    Args:
        norm: makes the layer's `Norm` from its width.
        dropout: share of the outputs set to 0 in training.
    """

    def __init__(self, in_dim: int, out_dim: int, norm: NormFactory, dropout: float) -> None:
        super().__init__()
        self.linear = Linear(in_dim, out_dim)
        self.norm = norm(out_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        y: Tensor = self.dropout(self.norm(self.linear(x), domain_slices, rectify=True))
        return y


class MLP(nn.Module):
    """Dense layers one behind the other; `out_dim` is the width of the last, or `in_dim` where there are none.

    Args:
        hidden_dims: width of each layer; empty for a network that gives its input back.
        norm: makes the `Norm` of each layer from its width.
        dropout: share of each layer's outputs set to 0 in training.
    """

    def __init__(self, in_dim: int, hidden_dims: Sequence[int], norm: NormFactory, dropout: float) -> None:
        super().__init__()
        dims = (in_dim, *hidden_dims)
        self.out_dim = dims[-1]
        self.layers = nn.ModuleList(DenseLayer(n, m, norm, dropout) for n, m in pairwise(dims))

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        for layer in self.layers:
            x = layer(x, domain_slices)
        return x


class DomainMLP(nn.Module):
    """An MLP for each domain, run on that domain's rows only; arguments as for `MLP`.

    `norm` here sees one domain's rows, so `SharedBatchNorm` makes it that domain's own.

    Source: ADI eq. 10.
    """

    def __init__(
        self, num_domains: int, in_dim: int, hidden_dims: Sequence[int], norm: NormFactory, dropout: float
    ) -> None:
        super().__init__()
        self.out_dim = (in_dim, *hidden_dims)[-1]
        self.num_layers = len(hidden_dims)
        self.own_networks = nn.ModuleList(MLP(in_dim, hidden_dims, norm, dropout) for _ in range(num_domains))
        self.norms_spans = norm is SharedBatchNorm or norm is NoNorm

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        if not self.num_layers:
            return x
        if self.norms_spans and has_short_spans(domain_slices):
            return self._by_layer(x, domain_slices)

        def run(domain: int, rows: Tensor) -> Tensor:
            # Within a domain's own network there is one domain.
            y: Tensor = self.own_networks[domain](rows, DomainSlices((0, rows.shape[0])))
            return y

        return by_domain(run, domain_slices, x, width=(self.out_dim,))

    def _by_layer(
        self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch out_dim"]:
        """All domains' rows through the first layer of each, then through the second."""
        counts = [count for count in domain_slices.counts if count]
        for depth in range(self.num_layers):
            layers = [self._layer(domain, depth) for domain, _ in domain_slices]
            y = linear_by_span(for_products(x), counts, [layer.linear for layer in layers])
            norms = [layer.norm.norm for layer in layers if isinstance(layer.norm, SharedBatchNorm)]
            y = norm_by_span(y, counts, norms, rectify=True) if norms else y.relu_()
            x = layers[0].dropout(y)
        return x

    def _layer(self, domain: int, depth: int) -> DenseLayer:
        network = self.own_networks[domain]
        assert isinstance(network, MLP)
        layer = network.layers[depth]
        assert isinstance(layer, DenseLayer)
        return layer


class StarMLP(nn.Module):
    """Dense layers whose linear parts are `StarLinear`; arguments as for `MLP`.

    Source: ADI eq. 16-17 (NETWORK-MUL); Sheng et al. 2021 (STAR).
    """

    def __init__(
        self, num_domains: int, in_dim: int, hidden_dims: Sequence[int], norm: NormFactory, dropout: float
    ) -> None:
        super().__init__()
        dims = (in_dim, *hidden_dims)
        self.out_dim = dims[-1]
        self.linears = nn.ModuleList(StarLinear(num_domains, n, m) for n, m in pairwise(dims))
        self.norms = nn.ModuleList(norm(dim) for dim in hidden_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = self.dropout(norm(linear(x, domain_slices), domain_slices, rectify=True))
        return x
