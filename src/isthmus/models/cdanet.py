"""CDAnet: a translation network over all domains, then an augmentation network for each target (CDAnet eq. 1-9).

For two domains it is the paper's. For D domains a latent vector is translated into the space of every other domain,
and what the paper has once is the mean over the others.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from isthmus.backbones.settings import BackboneModule, BackboneSettings, build_backbone
from isthmus.batch import RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm
from isthmus.layers.embedding import RankingEmbedding
from isthmus.layers.field_products import FieldProducts, side_by_side, side_by_side_dim
from isthmus.layers.routing import by_domain
from isthmus.layers.translator import Translator
from isthmus.models.ctr import FirstOrder, PredictionTowers, new_embedding

OPEN_GATE = 2.0  # a sigmoid of .88: the gate starts by letting what is translated through


class CDAnetSettings(BaseModel):
    """Settings of CDAnet.

    fields: names of the fields to use; None: all.
    extractor: the feature extractor of all domains, from the embedded fields to `latent_dim` numbers.
    own_extractors: domains, by name, whose rows pass an extractor of their own instead.
    tower_dims: hidden widths of the prediction towers, before the logit.
    translator: False is the control without one: the same two stages, with nothing translated.
    alpha, beta: weights of the cross-supervision and of the orthogonality (eq. 7).
    others_per_step: into how many other domains, drawn anew, a step of the first stage translates each domain's rows;
        None: all, whose number a row's cost grows with. The mean over those drawn stands for the mean over all.
    gate: `sigmoid` lets each row say how much of each translated vector its augmentation sees.
    stages: `translation` alone is scored by its own towers; `augmentation` alone starts from random numbers.
    targets: domains that get an augmentation network; None: all that are trained on.
    linear: adds a first-order term, a weight a field value, that starts at zero.
    products: the extractor also reads the inner product of every pair of embedded fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cdanet"] = "cdanet"
    embedding_dim: int = Field(default=16, ge=1)
    fields: tuple[str, ...] | None = None
    extractor: BackboneSettings
    own_extractors: dict[str, BackboneSettings] = {}
    latent_dim: int = Field(default=128, ge=1)
    tower_dims: tuple[PositiveInt, ...] = (64,)
    translator: bool = True
    alpha: float = Field(default=0.01, ge=0)
    beta: float = Field(default=0.1, ge=0)
    others_per_step: PositiveInt | None = None
    gate: Literal["none", "sigmoid"] = "none"
    stages: Literal["both", "translation", "augmentation"] = "both"
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    linear: bool = False
    products: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_std: float = Field(default=0.01, gt=0)


@dataclass(frozen=True)
class Translation:
    """What the first stage says of a batch's rows; a row's other domains are in ascending order, its own left out.

    Of many domains they may be some that were drawn, as many for every row.

    Attributes:
        logit: by the row's own tower (eq. 6).
        cross_logit: by each other domain's tower, of the row translated into that domain's space (eq. 3, 4).
        cycle_error: squared distance of the row from where its way there and back leads (eq. 5).
    """

    logit: Float[Tensor, " batch"]
    cross_logit: Float[Tensor, "batch other"]
    cycle_error: Float[Tensor, "batch other"]


@dataclass(frozen=True)
class Augmentation:
    """What the second stage says of a target's rows: logits (eq. 9), and the target's half of eq. 5."""

    logit: Float[Tensor, " batch"]
    cycle_error: Float[Tensor, "batch other"]


class Extractor(nn.Module):
    """Embedded fields to latent vectors: one backbone for all domains, or a domain's own in its place (eq. 2)."""

    def __init__(self, shared: BackboneModule, own: Mapping[int, BackboneModule], out_dim: int) -> None:
        super().__init__()
        self.shared = shared
        self.own_domains = tuple(own)
        self.own_extractors = nn.ModuleList(own.values())
        self.out_dim = out_dim

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        if not self.own_domains:
            latent: Tensor = self.shared(x, domain_slices).relu()
            return latent
        # A domain's own extractor takes its rows away from the shared one, so that neither sees the other's.
        counts = [0 if d in self.own_domains else count for d, count in enumerate(domain_slices.counts)]
        shared_rows = [x[rows] for d, rows in domain_slices if d not in self.own_domains]
        shared: Tensor = self.shared(torch.cat([x[:0], *shared_rows]), DomainSlices.from_counts(counts))
        shared_slices = DomainSlices.from_counts(counts)

        def run(domain: int, rows: Tensor) -> Tensor:
            if domain not in self.own_domains:
                return shared[shared_slices[domain]]
            single = DomainSlices.single(domain, rows.shape[0], domain_slices.num_domains)
            own: Tensor = self.own_extractors[self.own_domains.index(domain)](rows, single)
            return own

        latent = by_domain(run, domain_slices, x, width=(self.out_dim,))
        return latent.relu()

    def backbone_of(self, domain: int) -> BackboneModule:
        """What one domain's rows pass."""
        passed = self.own_extractors[self.own_domains.index(domain)] if domain in self.own_domains else self.shared
        return cast(BackboneModule, passed)

    def copy_for(self, domain: int) -> "Extractor":
        """A copy of what one domain's rows pass, without the extractors that they do not."""
        return Extractor(deepcopy(self.backbone_of(domain)), {}, self.out_dim)


class TranslationNetwork(nn.Module):
    """Stage 1: embedding, extractor, a translator for every ordered pair of domains, a prediction tower a domain.

    Args:
        domain_names: what `own_extractors` names domains by, in the order of their numbers.
        table_rows: rows of each embedding table.
    """

    def __init__(
        self,
        settings: CDAnetSettings,
        *,
        domain_names: Sequence[str],
        sizes: RankingSizes,
        table_rows: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.num_domains = num_domains = len(domain_names)
        self.embedding: RankingEmbedding = new_embedding(
            settings.embedding_dim, settings.initial_std, sizes, table_rows
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.products = FieldProducts(sizes.num_fields) if settings.products else None
        in_dim = side_by_side_dim(sizes.num_fields, settings.embedding_dim, self.products)
        dim = settings.latent_dim

        def new_extractor(extractor: BackboneSettings) -> BackboneModule:
            return build_backbone(extractor, num_domains=num_domains, in_dim=in_dim, out_dim=dim)

        own = {domain_names.index(name): new_extractor(one) for name, one in settings.own_extractors.items()}
        self.extractor = Extractor(new_extractor(settings.extractor), own, dim)
        self.translators = nn.ModuleList(
            nn.ModuleList(Translator(dim) for _ in range(num_domains - 1 if settings.translator else 0))
            for _ in range(num_domains)
        )
        self.towers = PredictionTowers(num_domains, dim, settings.tower_dims, NoNorm, settings.dropout)
        self.first_order = FirstOrder(sizes, table_rows, 1) if settings.linear else None

    def others(self, domain: int) -> list[int]:
        """The domains that rows of `domain` are translated into."""
        return [d for d in range(self.num_domains) if d != domain] if self.settings.translator else []

    def translators_of(self, domain: int) -> list[Translator]:
        """The translators out of a domain, in the order of `others`."""
        own = self.translators[domain]
        assert isinstance(own, nn.ModuleList)
        return [translator for translator in own if isinstance(translator, Translator)]

    def extractor_input(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch in_dim"]:
        """The embedded fields of each row (eq. 1)."""
        x: Tensor = self.dropout(side_by_side(self.embedding(features, domain_slices), self.products))
        return x

    def latent(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch dim"]:
        """z of each row (eq. 1, 2)."""
        assert domain_slices.num_domains == self.num_domains
        z: Tensor = self.extractor(self.extractor_input(features, domain_slices), domain_slices)
        return z

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        logit: Tensor = self.towers(self.latent(features, domain_slices), domain_slices)
        return logit if self.first_order is None else logit + self.first_order(features, domain_slices)

    def translate(self, features: RankingFeatures, domain_slices: DomainSlices) -> Translation:
        """The rows in their own and in all other domains' spaces (eq. 3-6)."""
        z = self.latent(features, domain_slices)
        num_all = len(self.others(0))
        num_drawn = min(num_all, self.settings.others_per_step or num_all) if self.training else num_all

        def run(domain: int, rows: Tensor) -> Tensor:
            columns = [self.towers(rows, DomainSlices.single(domain, rows.shape[0], self.num_domains))]
            others, translators = self.others(domain), self.translators_of(domain)
            # From the global generator, which checkpoints keep: a stopped stage goes on to draw what it would have.
            drawn = range(num_all) if num_drawn == num_all else torch.randperm(num_all)[:num_drawn].sort()[0].tolist()
            for place in drawn:
                translated = translators[place](rows)
                single = DomainSlices.single(others[place], rows.shape[0], self.num_domains)
                columns += [self.towers(translated, single), translators[place].cycle_error(rows, translated)]
            return torch.stack(columns, dim=1)

        every = by_domain(run, domain_slices, z, width=(1 + 2 * num_drawn,))
        logit, cross_logit = every[:, 0], every[:, 1::2]
        if self.first_order is not None:
            first_order = self.first_order(features, domain_slices)
            logit, cross_logit = logit + first_order, cross_logit + first_order[:, None]
        return Translation(logit, cross_logit, every[:, 2::2])


class AugmentationNetwork(nn.Module):
    """Stage 2 for one target: the first stage's embedding, extractor and translators as they are, and a new tower.

    What other domains own within a shared extractor, such as their gates, is copied with it; no row of the target
    reaches it, so that it has no gradient and never moves.

    Args:
        translation: copied, so that stage 1 and other targets stay as they are.
        target: number of the domain whose rows it is for.
    """

    def __init__(self, translation: TranslationNetwork, target: int) -> None:
        super().__init__()
        settings = translation.settings
        self.target, self.num_domains = target, translation.num_domains
        self.embedding = deepcopy(translation.embedding)
        self.products = translation.products
        self.dropout = nn.Dropout(settings.dropout)
        self.extractor = translation.extractor.copy_for(target)
        self.translators = nn.ModuleList(deepcopy(translation.translators_of(target)))
        self.first_order = deepcopy(translation.first_order)
        dim, num_others = settings.latent_dim, len(self.translators)
        self.gate: nn.Linear | None = None
        if settings.gate == "sigmoid" and num_others:
            self.gate = nn.Linear(dim, num_others)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, OPEN_GATE)
        self.tower = PredictionTowers(1, dim * (1 + num_others), settings.tower_dims, NoNorm, settings.dropout)

    def carried(self) -> list[nn.Parameter]:
        """What comes from the first stage: all but the tower and the gate."""
        new = {id(p) for part in (self.tower, self.gate) if part is not None for p in part.parameters()}
        return [p for p in self.parameters() if id(p) not in new]

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        _, _, logit = self._read(features, domain_slices)
        return logit

    def extractor_input(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch in_dim"]:
        """The embedded fields of each row (eq. 8)."""
        x: Tensor = self.dropout(side_by_side(self.embedding(features, domain_slices), self.products))
        return x

    def gate_weights(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch other"]:
        """How much of each translated vector a row's augmentation sees; 1 without a gate."""
        if self.gate is None:
            return z.new_ones(z.shape[0], len(self.translators))
        weights: Tensor = self.gate(z).sigmoid()
        return weights

    def augment(self, features: RankingFeatures, domain_slices: DomainSlices) -> Augmentation:
        """The target's rows with their translations beside them, and what eq. 5 says of these (eq. 8, 9)."""
        z, translated, logit = self._read(features, domain_slices)
        errors = [own.cycle_error(z, one) for own, one in zip(self._own_translators(), translated, strict=True)]
        return Augmentation(logit, torch.stack(errors, dim=1) if errors else z[:, :0])

    def _read(self, features: RankingFeatures, domain_slices: DomainSlices) -> tuple[Tensor, list[Tensor], Tensor]:
        """z, W z by every translator, and the logit: all that scoring needs, which asks for no way back."""
        rows = domain_slices[self.target]
        assert rows.stop - rows.start == domain_slices.num_rows, "rows of another domain than the target"
        z: Tensor = self.extractor(self.extractor_input(features, domain_slices), domain_slices)
        translated = [translator(z) for translator in self._own_translators()]
        gates = self.gate_weights(z)
        seen = translated if self.gate is None else [one * gates[:, k : k + 1] for k, one in enumerate(translated)]
        augmented = torch.cat([z, *seen], dim=1)
        logit: Tensor = self.tower(augmented, DomainSlices((0, z.shape[0])))
        if self.first_order is not None:
            logit = logit + self.first_order(features, domain_slices)
        return z, translated, logit

    def _own_translators(self) -> list[Translator]:
        return [translator for translator in self.translators if isinstance(translator, Translator)]


class CDAnet(nn.Module):
    """What is saved and scored: a target's rows by its augmentation network, all others by the first stage's towers."""

    def __init__(self, translation: TranslationNetwork, augmentations: Mapping[int, AugmentationNetwork]) -> None:
        super().__init__()
        self.translation = translation
        self.targets = tuple(augmentations)
        self.augmentations = nn.ModuleList(augmentations.values())

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]:
        parts = []
        present = list(domain_slices)
        for domain, rows in present:
            own = features
            if len(present) > 1:
                own = features.take(torch.arange(rows.start, rows.stop, device=features.item.categorical.device))
            single = DomainSlices.single(domain, rows.stop - rows.start, domain_slices.num_domains)
            is_target = domain in self.targets
            model = self.augmentations[self.targets.index(domain)] if is_target else self.translation
            parts.append(model(own, single))
        if not parts:
            return features.user.number.new_zeros(0)
        return torch.cat(parts)
