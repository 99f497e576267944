"""The factorisation machine: a bias, first-order weights, and inner products of all pairs of fields (Rendle 2010)."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isthmus.batch import RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.models.ctr import FirstOrder, new_embedding


class FactorisationMachineSettings(BaseModel):
    """Settings of a factorisation machine; `fields` names those to use, None is all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fm"] = "fm"
    embedding_dim: int = Field(default=16, ge=1)
    fields: tuple[str, ...] | None = None
    initial_std: float = Field(default=0.01, gt=0)


class FactorisationMachine(nn.Module):
    """One for all domains, with a bias a domain; the pairs are summed by half the square of the sum less the squares.

    Args:
        table_rows: rows of each embedding table.
    """

    def __init__(
        self,
        settings: FactorisationMachineSettings,
        *,
        num_domains: int,
        sizes: RankingSizes,
        table_rows: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.embedding = new_embedding(settings.embedding_dim, settings.initial_std, sizes, table_rows)
        self.first_order = FirstOrder(sizes, table_rows, 1)
        self.own_biases = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(num_domains))

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        fields: Tensor = self.embedding(features, domain_slices)
        pairs = (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=1) / 2
        own = [self.own_biases[domain].expand(rows.stop - rows.start) for domain, rows in domain_slices]
        logit: Tensor = self.first_order(features, domain_slices) + pairs
        return logit + torch.cat([logit[:0], *own])
