"""The user's side of a two-tower model alone, which is all that serving runs once items lie ready as vectors."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.batch import Features, FeatureSizes
from isthmus.domains import DomainSlices
from isthmus.layers.embedding import new_table
from isthmus.layers.interest_adaptation import GlobalSEAdaptation, SEAdaptation, VanillaAttention
from isthmus.models.two_tower import Tower, TwoTowerSettings, new_tower


def new_user_tower(
    settings: TwoTowerSettings, sizes: FeatureSizes, table_rows: Mapping[str, int], num_domains: int
) -> Tower:
    """A tower of the form that `TwoTower.user_tower` has, its tables zero.

    Args:
        table_rows: rows of each embedding table that the user's fields use.
    """
    copies = num_domains if settings.tables_by_domain else 1
    tables = {
        name: new_table(rows, settings.embedding_dim, std=0.0, num_domains=copies) for name, rows in table_rows.items()
    }
    return new_tower(settings, sizes, tables, num_domains, settings.dropout)


def field_weights(tower: Tower, features: Features, domain_slices: DomainSlices) -> Float[Tensor, "batch field"] | None:
    """How much the adaptation layer lets of each field through, the domain indicator last where there is one.

    None where the tower has no attention in front of its backbone.
    """
    adaptation: nn.Module | None = tower.adaptation
    if not isinstance(adaptation, VanillaAttention | SEAdaptation | GlobalSEAdaptation):
        return None
    fields: Tensor = tower.embedding(features, domain_slices)
    if tower.indicator is not None:
        own = [tower.indicator(domain).expand(rows.stop - rows.start, 1, -1) for domain, rows in domain_slices]
        fields = torch.cat([fields, torch.cat(own)], dim=1)
    return adaptation.weights(fields, domain_slices)
