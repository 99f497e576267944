"""The two-tower retrieval model of ADI: each tower embeds, adapts to the domain, and runs a multi-domain backbone."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from isthmus.backbones.settings import ADISettings, BackboneSettings, build_backbone
from isthmus.batch import Features, FeatureSizes
from isthmus.domains import DomainSlices
from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.embedding import FieldEmbedding, new_table
from isthmus.layers.interest_adaptation import (
    GlobalSEAdaptation,
    LinearAdaptation,
    NetworkSE,
    SEAdaptation,
    VanillaAttention,
)
from isthmus.layers.products import linear


class TwoTowerSettings(BaseModel):
    """What a two-tower model is made of.

    fields: the declared fields that the towers read; None: all.
    adaptation: the domain interest adaptation layer: `linear` (LT), `attention` (VA), `se`.
    se_use: of `se`: one block for all domains (`global`, 1-SE), one a domain (`domain`, D-SE), or one in front of each
        of the backbone's networks (`network`, (D+K)-SE).
    backbone: the network of each tower; None: no network, a plain history tower.
    connection: `residual` adds a network that starts at zero to the sum of the adapted fields, so that on sparse
        identifiers it can only help; `literal` is the paper's form, the network alone.
    domain_indicator: embeds the domain as one more field of both towers.
    tables_by_domain: no two domains share an embedding; with the `independent` backbone this is one model a domain.
    item_bias: a learned number an item and domain, started from log-popularity, added to the dot product.
    dropout: share of the user vector's input units that training leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_dim: int = Field(ge=1)
    fields: tuple[str, ...] | None = None
    adaptation: Literal["none", "linear", "attention", "se"] = "none"
    se_use: Literal["global", "domain", "network"] = "domain"
    backbone: BackboneSettings | None = None
    connection: Literal["residual", "literal"] = "residual"
    domain_indicator: bool = False
    tables_by_domain: bool = False
    item_bias: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_std: float = Field(default=0.01, gt=0)

    @model_validator(mode="after")
    def parts_fit(self) -> "TwoTowerSettings":
        if self.connection == "literal" and self.backbone is None:
            raise ValueError("connection: 'literal' needs a backbone; without one the towers are the 'residual' sum")
        if self.adaptation == "se" and self.se_use == "network" and not isinstance(self.backbone, ADISettings):
            raise ValueError("se_use: 'network' puts a block in front of ADI's networks; backbone.kind must be 'adi'")
        return self


class Tower(nn.Module):
    """One side: embedded fields, adapted to the domain, then the network (ADI Figure 1, left to right).

    Args:
        backbone: takes the adapted fields side by side; None: the tower is the sum of the adapted fields.
        is_residual: the network's output is added to that sum instead of standing in its place.
    """

    def __init__(
        self,
        embedding: FieldEmbedding,
        adaptation: nn.Module | None,
        backbone: nn.Module | None,
        *,
        is_residual: bool,
        indicator: DomainIndicator | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.indicator = indicator
        self.adaptation = adaptation
        self.backbone = backbone
        self.is_residual = is_residual
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features, domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        fields = self.adapted_fields(features, domain_slices)
        if self.backbone is None:
            return fields.sum(dim=1)
        latent: Tensor = self.backbone(fields.flatten(start_dim=1), domain_slices)
        return fields.sum(dim=1) + latent if self.is_residual else latent

    def adapted_fields(self, features: Features, domain_slices: DomainSlices) -> Float[Tensor, "batch field dim"]:
        """The embedded fields as the domain's adaptation lets them through."""
        fields: Tensor = self.embedding(features, domain_slices)
        if self.indicator is not None:
            own = [self.indicator(domain).expand(rows.stop - rows.start, 1, -1) for domain, rows in domain_slices]
            fields = torch.cat([fields, torch.cat([fields[:0, :1], *own])], dim=1)
        fields = self.dropout(fields)
        if self.adaptation is not None:
            fields = self.adaptation(fields, domain_slices)
        return fields


class TwoTower(nn.Module):
    """Scores f(v | u, d) as the inner product of a user vector and an item vector (ADI eq. 1-3).

    With an item bias both vectors have one more unit: 1 on the user's side, the bias of (item, domain) on the item's,
    so that the score stays an inner product and any index serves it.

    Args:
        table_rows: rows of each embedding table.
        initial_bias: what each item's bias starts from in each domain, in units of the score.
    """

    def __init__(
        self,
        settings: TwoTowerSettings,
        *,
        num_domains: int,
        user_sizes: FeatureSizes,
        item_sizes: FeatureSizes,
        table_rows: Mapping[str, int],
        initial_bias: Float[Tensor, "domain item"],
    ) -> None:
        super().__init__()
        dim = settings.embedding_dim
        copies = num_domains if settings.tables_by_domain else 1
        tables = {
            name: new_table(rows, dim, std=settings.initial_std, num_domains=copies)
            for name, rows in table_rows.items()
        }
        self.user_tower = new_tower(settings, user_sizes, tables, num_domains, settings.dropout)
        self.item_tower = new_tower(settings, item_sizes, tables, num_domains, 0.0)
        self.num_domains, self.num_items = num_domains, initial_bias.shape[1]
        self.item_bias: nn.Embedding | None = None
        if settings.item_bias:
            self.item_bias = nn.Embedding(initial_bias.numel(), 1, sparse=True)
            with torch.no_grad():
                self.item_bias.weight.copy_(initial_bias.reshape(-1, 1))
        self.out_dim = dim + settings.item_bias

    def encode_user(self, user: Features, domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        assert domain_slices.num_domains == self.num_domains
        vector: Tensor = self.user_tower(user, domain_slices)
        if self.item_bias is None:
            return vector
        return torch.cat([vector, vector.new_ones(vector.shape[0], 1)], dim=1)

    def encode_item(
        self, item: Features, item_row: Int[Tensor, " item"], domain_slices: DomainSlices
    ) -> Float[Tensor, "item dim"]:
        """Vectors of items as shown in the domain of their slice."""
        assert domain_slices.num_domains == self.num_domains
        vector: Tensor = self.item_tower(item, domain_slices)
        if self.item_bias is None:
            return vector
        bias: Tensor = self.item_bias(domain_slices.row_domain(item_row.device) * self.num_items + item_row)
        return torch.cat([vector, bias], dim=1)

    def score(self, user: Float[Tensor, "batch dim"], item: Float[Tensor, "item dim"]) -> Float[Tensor, "batch item"]:
        """Inner products of users and items of one domain."""
        return linear(user, item)


def new_tower(
    settings: TwoTowerSettings,
    sizes: FeatureSizes,
    tables: Mapping[str, nn.Embedding],
    num_domains: int,
    dropout: float,
) -> Tower:
    """The tower of one side."""
    dim = settings.embedding_dim
    num_fields = sizes.num_fields + settings.domain_indicator
    is_residual = settings.connection == "residual"
    embedding = FieldEmbedding(
        tables,
        categorical=sizes.categorical,
        bags=sizes.bags,
        num_numbers=sizes.num_numbers,
        present=sizes.present,
        dim=dim,
        tables_by_domain=settings.tables_by_domain,
        text_dims=sizes.text_dims,
    )
    backbone = None
    if settings.backbone is not None:
        backbone = build_backbone(
            settings.backbone,
            num_domains=num_domains,
            in_dim=num_fields * dim,
            out_dim=dim,
            zero_start=is_residual,
            network_adaptation=new_network_adaptation(settings, num_fields),
        )
    indicator = DomainIndicator(num_domains, dim) if settings.domain_indicator else None
    if indicator is not None:
        for vector in indicator.own_vectors:
            nn.init.normal_(vector, std=settings.initial_std)
    return Tower(
        embedding,
        new_adaptation(settings, num_domains, num_fields),
        backbone,
        is_residual=is_residual,
        indicator=indicator,
        dropout=dropout,
    )


def new_adaptation(settings: TwoTowerSettings, num_domains: int, num_fields: int) -> nn.Module | None:
    """The domain interest adaptation layer in front of the backbone; the `network` use stands inside the backbone."""
    hidden_dim = se_hidden_dim(num_fields)
    match settings.adaptation:
        case "none":
            return None
        case "linear":
            return LinearAdaptation(num_domains, num_fields, settings.embedding_dim)
        case "attention":
            return VanillaAttention(num_domains, num_fields, settings.embedding_dim)
        case "se":
            match settings.se_use:
                case "global":
                    return GlobalSEAdaptation(num_fields, hidden_dim)
                case "domain":
                    return SEAdaptation(num_domains, num_fields, hidden_dim)
                case "network":
                    return None


def new_network_adaptation(settings: TwoTowerSettings, num_fields: int) -> Callable[[], nn.Module] | None:
    """Makes the block that stands in front of each of the backbone's networks in the (D+K)-SE use."""
    if settings.adaptation != "se" or settings.se_use != "network":
        return None
    return lambda: NetworkSE(num_fields, se_hidden_dim(num_fields))


def se_hidden_dim(num_fields: int) -> int:
    """Width between the two layers of an SE block: half its fields, two at least."""
    return max(2, num_fields // 2)
