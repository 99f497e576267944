"""KEEP: knowledge of the super-domain, frozen and plugged into the target model (Zhang et al. 2022)."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from isthmus.backbones.settings import BackboneModule, BackboneSettings, build_backbone
from isthmus.batch import RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm
from isthmus.layers.field_products import FieldProducts, side_by_side, side_by_side_dim
from isthmus.layers.mlp import MLP
from isthmus.layers.products import Linear
from isthmus.models.ctr import FirstOrder, PredictionTowers, new_embedding


class KEEPSettings(BaseModel):
    """Settings of KEEP.

    extractor_dims, knowledge_dim: of the network that makes a user's knowledge vector of the user's fields.
    backbone, latent_dim, tower_dims: of the target model.
    plug_in_dims: hidden widths of the plug-in network.
    targets: domains whose rows the target model is trained on; None: all that are trained on.
    linear: adds first-order terms, a weight a field value, that start at zero: to the logit that the extractor learns
        by, whose weights of the user are knowledge too, and frozen beside the target model's own.
    products: the target model's backbone and the extractor's tower also read the inner product of every pair of
        embedded fields; in the target model, of the user's with the knowledge plugged in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["keep"] = "keep"
    embedding_dim: int = Field(default=16, ge=1)
    fields: tuple[str, ...] | None = None
    extractor_dims: tuple[PositiveInt, ...] = (128,)
    knowledge_dim: int = Field(default=64, ge=1)
    backbone: BackboneSettings
    latent_dim: int = Field(default=128, ge=1)
    tower_dims: tuple[PositiveInt, ...] = (64,)
    plug_in_dims: tuple[PositiveInt, ...] = (64,)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    linear: bool = False
    products: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_std: float = Field(default=0.01, gt=0)


class KnowledgeExtractor(nn.Module):
    """Stage 1: a click model of the super-domain, all domains' rows as one, whose user side is the knowledge.

    Args:
        table_rows: rows of each embedding table.
    """

    def __init__(
        self, settings: KEEPSettings, *, num_domains: int, sizes: RankingSizes, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.num_domains, self.num_user_fields = num_domains, sizes.user.num_fields
        self.embedding = new_embedding(settings.embedding_dim, settings.initial_std, sizes, table_rows)
        self.dropout = nn.Dropout(settings.dropout)
        dim = settings.embedding_dim
        self.interest = MLP(sizes.user.num_fields * dim, settings.extractor_dims, NoNorm, settings.dropout)
        self.output = Linear(self.interest.out_dim, settings.knowledge_dim)
        self.products = FieldProducts(sizes.num_fields) if settings.products else None
        rest = side_by_side_dim(sizes.num_fields, dim, self.products) - sizes.user.num_fields * dim
        self.tower = PredictionTowers(1, settings.knowledge_dim + rest, settings.tower_dims, NoNorm, settings.dropout)
        self.first_order = FirstOrder(sizes, table_rows, 1) if settings.linear else None

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        fields = self.dropout(self.embedding(features, domain_slices))
        knowledge = self._of_user(fields, domain_slices)
        everything = DomainSlices((0, domain_slices.num_rows))
        rest = fields[:, self.num_user_fields :].flatten(start_dim=1)
        products = [] if self.products is None else [self.products(fields)]
        logit: Tensor = self.tower(torch.cat([knowledge, rest, *products], dim=1), everything)
        return logit if self.first_order is None else logit + self.first_order(features, domain_slices)

    def knowledge(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch knowledge"]:
        """What the super-domain knows of each row's user, from the user's fields alone."""
        return self._of_user(self.embedding(features, domain_slices), domain_slices)

    def first_order_of_user(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        """What the first-order weights of the user's fields add to the logit."""
        assert self.first_order is not None
        return self.first_order.of_first(self.num_user_fields, features, domain_slices)

    def _of_user(self, fields: Tensor, domain_slices: DomainSlices) -> Tensor:
        user = fields[:, : self.num_user_fields].flatten(start_dim=1)
        knowledge: Tensor = self.output(self.interest(user, domain_slices))
        return knowledge


class PlugInModel(nn.Module):
    """Stage 2: the target model, whose user representation takes the frozen knowledge in through a gated residual.

    user + sigmoid(G [user, knowledge]) * P(knowledge); P's last layer starts at zero, so that training starts from the
    base model. Departures from the paper: its plug-in network stands on the last layer of a production model; its
    knowledge is of an extractor with attention to the item and of several kinds of feedback, not of clicks alone.

    Args:
        extractor: copied and frozen: no gradient, always in evaluation mode.
        table_rows: rows of each embedding table.
    """

    def __init__(
        self,
        settings: KEEPSettings,
        extractor: KnowledgeExtractor,
        *,
        num_domains: int,
        sizes: RankingSizes,
        table_rows: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.num_user_fields = sizes.user.num_fields
        self.extractor = deepcopy(extractor).requires_grad_(False)
        self.embedding = new_embedding(settings.embedding_dim, settings.initial_std, sizes, table_rows)
        self.dropout = nn.Dropout(settings.dropout)
        user_dim = sizes.user.num_fields * settings.embedding_dim
        self.plug_in = MLP(settings.knowledge_dim, settings.plug_in_dims, NoNorm, settings.dropout)
        self.projection = Linear(self.plug_in.out_dim, user_dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.gate = Linear(user_dim + settings.knowledge_dim, user_dim)
        self.products = FieldProducts(sizes.num_fields) if settings.products else None
        self.backbone: BackboneModule = build_backbone(
            settings.backbone,
            num_domains=num_domains,
            in_dim=side_by_side_dim(sizes.num_fields, settings.embedding_dim, self.products),
            out_dim=settings.latent_dim,
        )
        self.towers = PredictionTowers(num_domains, settings.latent_dim, settings.tower_dims, NoNorm, settings.dropout)
        self.first_order = FirstOrder(sizes, table_rows, 1) if settings.linear else None

    def train(self, mode: bool = True) -> "PlugInModel":
        """As of every module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        self.extractor.eval()
        return self

    def backbone_input(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch in_dim"]:
        """The embedded fields of each row, the user's with what is known of the user plugged in."""
        with torch.no_grad():
            knowledge = self.extractor.knowledge(features, domain_slices)
        fields = self.dropout(self.embedding(features, domain_slices))
        user = fields[:, : self.num_user_fields].flatten(start_dim=1)
        rest = fields[:, self.num_user_fields :].flatten(start_dim=1)
        gate = self.gate(torch.cat([user, knowledge], dim=1)).sigmoid()
        user = user + gate * self.projection(self.plug_in(knowledge, domain_slices))
        informed = torch.cat([user, rest], dim=1).view_as(fields)
        return side_by_side(informed, self.products)

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        z = self.backbone(self.backbone_input(features, domain_slices), domain_slices).relu()
        logit: Tensor = self.towers(z, domain_slices)
        if self.first_order is None:
            return logit
        with torch.no_grad():
            known = self.extractor.first_order_of_user(features, domain_slices)
        own: Tensor = self.first_order(features, domain_slices)
        return logit + known + own
