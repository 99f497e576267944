"""The plain click model: embedding, one backbone, a prediction tower a domain; every baseline that is a backbone."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from isthmus.backbones.settings import BackboneModule, BackboneSettings, build_backbone
from isthmus.batch import RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.domain_linear import DomainLinear
from isthmus.layers.domain_norm import NoNorm, NormFactory, SharedBatchNorm
from isthmus.layers.embedding import RankingEmbedding, new_table
from isthmus.layers.field_products import FieldProducts, side_by_side, side_by_side_dim
from isthmus.layers.mlp import DomainMLP
from isthmus.layers.routing import by_domain, has_short_spans

AUXILIARY_DIM = 16


class CTRSettings(BaseModel):
    """Settings of a click model.

    fields: names of the fields to use; None: all.
    backbone: the multi-domain network from the embedded fields to a latent vector of `latent_dim` numbers.
    tower_dims: hidden widths of each domain's prediction tower, before the logit.
    tower_by_domain: whether every domain has a tower of its own.
    tower_norm: batch normalisation inside the towers.
    indicator_logit: adds STAR's auxiliary network, on the domain's vector and the embedded fields, to the logit.
    linear: adds a first-order term, a weight a field value, that starts at zero.
    products: the backbone also reads the inner product of every pair of embedded fields.
    tables_by_domain: no two domains share an embedding.
    dropout: share of the embedded fields' and the towers' units that training leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ctr"] = "ctr"
    embedding_dim: int = Field(default=16, ge=1)
    fields: tuple[str, ...] | None = None
    backbone: BackboneSettings
    latent_dim: int = Field(default=128, ge=1)
    tower_dims: tuple[PositiveInt, ...] = (64,)
    tower_by_domain: bool = True
    tower_norm: bool = False
    indicator_logit: bool = False
    linear: bool = False
    products: bool = False
    tables_by_domain: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_std: float = Field(default=0.01, gt=0)


class PredictionTowers(nn.Module):
    """A prediction tower a domain: dense layers and a linear layer to one logit, on that domain's rows."""

    def __init__(
        self, num_domains: int, in_dim: int, hidden_dims: Sequence[int], norm: NormFactory, dropout: float
    ) -> None:
        super().__init__()
        self.hidden = DomainMLP(num_domains, in_dim, hidden_dims, norm, dropout)
        self.output = DomainLinear(num_domains, self.hidden.out_dim, 1)

    def forward(self, z: Float[Tensor, "batch dim"], domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        if has_short_spans(domain_slices):
            together: Tensor = self.output(self.hidden(z, domain_slices), domain_slices)
            return together[:, 0]

        def run(domain: int, rows: Tensor) -> Tensor:
            single = DomainSlices.single(domain, rows.shape[0], domain_slices.num_domains)
            logit: Tensor = self.output(self.hidden(rows, single), single)
            return logit

        return by_domain(run, domain_slices, z, width=(1,))[:, 0]


class FirstOrder(nn.Module):
    """A weight a value of every field, summed; starts at zero."""

    def __init__(self, sizes: RankingSizes, table_rows: Mapping[str, int], copies: int) -> None:
        super().__init__()
        weights = new_tables(table_rows, 1, std=0.0, copies=copies)
        self.embedding = RankingEmbedding(weights, sizes, 1, tables_by_domain=copies > 1)
        for name, parameter in self.embedding.named_parameters():
            if name.endswith("number_vector") or "text_maps" in name:
                nn.init.zeros_(parameter)

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        return self.of_first(None, features, domain_slices)

    def of_first(
        self, num_fields: int | None, features: RankingFeatures, domain_slices: DomainSlices
    ) -> Float[Tensor, " batch"]:
        """What the first fields alone add, of which the user's are the very first; None: all."""
        fields: Tensor = self.embedding(features, domain_slices)
        return fields[:, :num_fields].sum(dim=(1, 2))


class CTRModel(nn.Module):
    """Embedding, backbone, ReLU, prediction tower (the ReLU makes the backbone's linear output a hidden layer).

    Args:
        table_rows: rows of each embedding table.
    """

    def __init__(
        self, settings: CTRSettings, *, num_domains: int, sizes: RankingSizes, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        copies = num_domains if settings.tables_by_domain else 1
        self.num_domains = num_domains
        self.embedding = new_embedding(settings.embedding_dim, settings.initial_std, sizes, table_rows, copies)
        self.dropout = nn.Dropout(settings.dropout)
        self.products = FieldProducts(sizes.num_fields) if settings.products else None
        in_dim = side_by_side_dim(sizes.num_fields, settings.embedding_dim, self.products)
        self.backbone: BackboneModule = build_backbone(
            settings.backbone, num_domains=num_domains, in_dim=in_dim, out_dim=settings.latent_dim
        )
        self.tower_by_domain = settings.tower_by_domain
        norm: NormFactory = SharedBatchNorm if settings.tower_norm else NoNorm
        num_towers = num_domains if settings.tower_by_domain else 1
        self.towers = PredictionTowers(num_towers, settings.latent_dim, settings.tower_dims, norm, settings.dropout)
        self.first_order = FirstOrder(sizes, table_rows, copies) if settings.linear else None
        self.indicator: DomainIndicator | None = None
        self.auxiliary: PredictionTowers | None = None
        if settings.indicator_logit:
            self.indicator = DomainIndicator(num_domains, AUXILIARY_DIM)
            self.auxiliary = PredictionTowers(1, in_dim + AUXILIARY_DIM, (AUXILIARY_DIM,), NoNorm, 0.0)

    def backbone_input(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch in_dim"]:
        """What the backbone reads of each row."""
        x: Tensor = self.dropout(side_by_side(self.embedding(features, domain_slices), self.products))
        return x

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        assert domain_slices.num_domains == self.num_domains
        x = self.backbone_input(features, domain_slices)
        everything = DomainSlices((0, domain_slices.num_rows))
        z = self.backbone(x, domain_slices).relu()
        logit: Tensor = self.towers(z, domain_slices if self.tower_by_domain else everything)
        if self.first_order is not None:
            logit = logit + self.first_order(features, domain_slices)
        if self.auxiliary is not None:
            assert self.indicator is not None
            own = [
                self.indicator(domain).to(x.dtype).expand(rows.stop - rows.start, -1) for domain, rows in domain_slices
            ]
            described = torch.cat([x, torch.cat([x.new_zeros(0, AUXILIARY_DIM), *own])], dim=1)
            logit = logit + self.auxiliary(described, everything)
        return logit


def new_tables(table_rows: Mapping[str, int], dim: int, *, std: float, copies: int) -> dict[str, nn.Embedding]:
    """Embedding tables by name."""
    return {name: new_table(rows, dim, std=std, num_domains=copies) for name, rows in table_rows.items()}


def new_embedding(
    dim: int, std: float, sizes: RankingSizes, table_rows: Mapping[str, int], copies: int = 1
) -> RankingEmbedding:
    """The embedding of all that a click model reads; `copies` tables a name where no two domains share one."""
    tables = new_tables(table_rows, dim, std=std, copies=copies)
    return RankingEmbedding(tables, sizes, dim, tables_by_domain=copies > 1)
