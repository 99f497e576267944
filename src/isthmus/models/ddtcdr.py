"""DDTCDR: dual transfer between domains through an orthogonal map of users' latent vectors (Li and Tuzhilin 2020)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from isthmus.batch import RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NoNorm
from isthmus.layers.field_products import FieldProducts
from isthmus.layers.mlp import DomainMLP
from isthmus.layers.products import linear
from isthmus.layers.routing import by_domain
from isthmus.models.ctr import FirstOrder, PredictionTowers, new_embedding


class DDTCDRSettings(BaseModel):
    """Settings of DDTCDR.

    hidden_dims, latent_dim: of each domain's user network and item network.
    alpha: weight of the other domains' towers in a prediction.
    linear: adds a first-order term, a weight a field value, that starts at zero.
    products: the towers also read the inner product of every pair of embedded fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ddtcdr"] = "ddtcdr"
    embedding_dim: int = Field(default=16, ge=1)
    fields: tuple[str, ...] | None = None
    hidden_dims: tuple[PositiveInt, ...] = (128,)
    latent_dim: int = Field(default=128, ge=1)
    tower_dims: tuple[PositiveInt, ...] = (64,)
    alpha: float = Field(default=0.03, ge=0, lt=1)
    linear: bool = False
    products: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_std: float = Field(default=0.01, gt=0)


class OrthogonalMap(nn.Module):
    """A square matrix that stays orthogonal whatever a step does: the exponential of a skew-symmetric one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.empty(dim, dim).normal_(std=dim**-0.5))
        self.fixed: Tensor | None = None

    def forward(self) -> Float[Tensor, "dim dim"]:
        if self.fixed is not None:
            return self.fixed
        x: Tensor = torch.linalg.matrix_exp(self.free - self.free.T)
        return x


@contextmanager
def fixed_maps(model: nn.Module) -> Iterator[None]:
    """The orthogonal maps as they are now, for a form of the model that knows no exponential of a matrix."""
    maps = [module for module in model.modules() if isinstance(module, OrthogonalMap)]
    for each in maps:
        each.fixed = each().detach()
    try:
        yield
    finally:
        for each in maps:
            each.fixed = None


class DDTCDRModel(nn.Module):
    """A user and an item network and a tower a domain; for each pair of domains one orthogonal X, X^T the way back.

    A prediction is (1 - alpha) of the own tower's and alpha of the other towers' mean on the mapped user vector, so
    that gradients of a domain's rows reach X and the other towers. Departures from the paper: X is orthogonal by
    construction rather than by a penalty; the mix is one of probabilities of a click, not of ratings; vectors of users
    and items are learned with the rest, not by autoencoders beforehand; D domains.

    Args:
        table_rows: rows of each embedding table.
    """

    def __init__(
        self, settings: DDTCDRSettings, *, num_domains: int, sizes: RankingSizes, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.num_domains, self.alpha = num_domains, settings.alpha if num_domains > 1 else 0.0
        self.embedding = new_embedding(settings.embedding_dim, settings.initial_std, sizes, table_rows)
        self.dropout = nn.Dropout(settings.dropout)
        self.num_user_fields = sizes.user.num_fields
        dim, latent = settings.embedding_dim, settings.latent_dim

        def network(num_fields: int) -> nn.ModuleList:
            hidden = DomainMLP(num_domains, num_fields * dim, settings.hidden_dims, NoNorm, settings.dropout)
            return nn.ModuleList([hidden, DomainLinear(num_domains, hidden.out_dim, latent)])

        self.user_network = network(sizes.user.num_fields)
        self.item_network = network(sizes.num_fields - sizes.user.num_fields)
        self.products = FieldProducts(sizes.num_fields) if settings.products else None
        in_dim = 2 * latent + (0 if self.products is None else self.products.num_products)
        self.towers = PredictionTowers(num_domains, in_dim, settings.tower_dims, NoNorm, settings.dropout)
        self.pairs = list(combinations(range(num_domains), 2))
        self.maps = nn.ModuleList(OrthogonalMap(latent) for _ in self.pairs)
        self.first_order = FirstOrder(sizes, table_rows, 1) if settings.linear else None

    def map_user(self, u: Float[Tensor, "batch dim"], source: int, other: int) -> Float[Tensor, "batch dim"]:
        """A user's vector of one domain in another's space: X u from the lower number to the higher, else X^T u."""
        x: Tensor = self.maps[self.pairs.index((min(source, other), max(source, other)))]()
        return linear(u, x if source < other else x.T)

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        logit = self._mixed(features, domain_slices)
        return logit if self.first_order is None else logit + self.first_order(features, domain_slices)

    def _mixed(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        """What the own tower and the others' say together."""
        fields = self.dropout(self.embedding(features, domain_slices))
        u = fields[:, : self.num_user_fields].flatten(start_dim=1)
        v = fields[:, self.num_user_fields :].flatten(start_dim=1)
        for layer in self.user_network:
            u = layer(u, domain_slices)
        for layer in self.item_network:
            v = layer(v, domain_slices)
        if self.products is not None:  # beside the item, as nothing of theirs is mapped
            v = torch.cat([v, self.products(fields)], dim=1)
        own_logit: Tensor = self.towers(torch.cat([u, v], dim=1), domain_slices)
        if not self.alpha:
            return own_logit

        def run(domain: int, own: Tensor, user: Tensor, item: Tensor) -> Tensor:
            others = [other for other in range(self.num_domains) if other != domain]
            logits = []
            for other in others:
                single = DomainSlices.single(other, user.shape[0], self.num_domains)
                logits.append(self.towers(torch.cat([self.map_user(user, domain, other), item], dim=1), single))
            weights = own.new_tensor([1 - self.alpha] + [self.alpha / len(others)] * len(others)).log()
            every = torch.stack([own, *logits], dim=1)
            # The logit of the mixed probability: log p - log(1 - p), each a sum of exponentials.
            yes = torch.logsumexp(functional.logsigmoid(every) + weights, dim=1)
            no = torch.logsumexp(functional.logsigmoid(-every) + weights, dim=1)
            return yes - no

        return by_domain(run, domain_slices, own_logit, u, v, width=())
