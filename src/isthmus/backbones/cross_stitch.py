"""Cross-Stitch: a network for each domain, whose layers exchange their features by learned weights."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NormFactory
from isthmus.layers.mlp import DenseLayer
from isthmus.layers.routing import by_domain

OWN_START = 0.9


class CrossStitchUnit(nn.Module):
    """What each network takes of every network's features: one weight for each pair of networks.

    Starts near the identity, 0.9 for a network's own features and 0.1 shared equally among the others (1 where there
    is one network), so that the networks begin as themselves.

    Source: Misra et al. 2016, eq. 1.
    """

    def __init__(self, num_networks: int) -> None:
        super().__init__()
        start = torch.full((num_networks, num_networks), (1 - OWN_START) / max(num_networks - 1, 1))
        start.fill_diagonal_(OWN_START if num_networks > 1 else 1.0)
        self.own_weights = nn.ParameterList(nn.Parameter(row.clone()) for row in start)

    def forward(self, network: int, features: Float[Tensor, "network batch dim"]) -> Float[Tensor, "batch dim"]:
        """What `network` goes on with."""
        return torch.einsum("n,nbd->bd", self.own_weights[network], features)


class CrossStitchBackbone(nn.Module):
    """Every row runs through all D networks; its domain's network gives its output.

    So the cost of a row grows with the number of domains, alone among the backbones here: it is what the method
    demands. For the same reason no network belongs to one domain: only the last stitch and the output layer do. A
    network's norm sees the rows of all domains, as any shared layer's does: with a shared norm they mix, with
    domain-specific normalisation each network normalises each domain by that domain's rows.

    Args:
        hidden_dims: widths of each network's layers, a stitch behind every one.
        norm: makes the norm of a layer, which sees the rows of all domains.
        zero_start: the output layers start at 0.
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
        if not hidden_dims:
            raise ValueError("cross-stitch needs one hidden layer or more, got hidden_dims=()")
        self.out_dim = out_dim
        self.hidden_dim = hidden_dims[-1]
        self.layers = nn.ModuleList(
            nn.ModuleList(DenseLayer(n, m, norm, dropout) for _ in range(num_domains))
            for n, m in pairwise((in_dim, *hidden_dims))
        )
        self.stitches = nn.ModuleList(CrossStitchUnit(num_domains) for _ in hidden_dims)
        self.output = DomainLinear(num_domains, self.hidden_dim, out_dim, zero_start=zero_start)

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        num_networks = domain_slices.num_domains
        inputs = [x] * num_networks
        features = x[None]
        for depth, networks in enumerate(self.layers):
            assert isinstance(networks, nn.ModuleList)
            if depth > 0:
                stitch = self.stitches[depth - 1]
                inputs = [stitch(network, features) for network in range(num_networks)]
            features = torch.stack([network(y, domain_slices) for network, y in zip(networks, inputs, strict=True)])

        def own(domain: int, *rows: Tensor) -> Tensor:
            y: Tensor = self.stitches[-1](domain, torch.stack(rows))
            return y

        mixed = by_domain(own, domain_slices, *features, width=(self.hidden_dim,))
        y: Tensor = self.output(mixed, domain_slices)
        return y
