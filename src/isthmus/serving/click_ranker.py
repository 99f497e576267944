"""The click model of a bundle: from retrieved items to the probability that each is clicked, in one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import assert_never

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int

from isthmus.batch import RankingFeatures
from isthmus.data.dataset import Column, Dataset, Events
from isthmus.data.features import ALL_SIDES, FeatureReader, ranking_sizes, table_sizes
from isthmus.domains import DomainSlices
from isthmus.models.cdanet import AugmentationNetwork, CDAnet
from isthmus.models.explanation import by_row, parts_of_ranker
from isthmus.models.ranker import new_ranker
from isthmus.serving.bundle_files import RankingRecord, load_tensors, load_weights
from isthmus.serving.engines import EagerRowScorer, OnnxRowScorer, RowScorer
from isthmus.serving.export import exported
from isthmus.serving.serve_settings import Engine
from isthmus.serving.view import UNSEEN, ContextValue, Names, View


@dataclass(frozen=True)
class RankRequest:
    """What a click model scores: items of one user in one domain.

    Attributes:
        item_row: in the click model's own data; 0 where it does not know the item.
        stored, taken: whether the bundle's history of the user counts, and what came after it (item, domain).
        retrieval_score: of each item; not a number where there is none.
    """

    domain: str
    user: str | None
    stored: bool
    taken: Sequence[tuple[str, str]]
    item_row: Int[np.ndarray, " item"]
    retrieval_score: Float[np.ndarray, " item"]
    context: Mapping[str, ContextValue]


@dataclass(frozen=True)
class Ranked:
    """Probability and logit of each item, which items the model knows, and, where asked for, what its gates say.

    Attributes:
        gates: of each item, how much CDAnet's gate lets of each other domain through.
        parts: of each item, the weight of each part of the network.
    """

    probability: Float[np.ndarray, " item"]
    logit: Float[np.ndarray, " item"]
    is_known: Bool[np.ndarray, " item"]
    gates: tuple[dict[str, float], ...] | None
    parts: tuple[dict[str, float], ...] | None


class ClickRanker:
    """Scores items by the click model; everything is found by name, so its dataset may be another than retrieval's."""

    def __init__(self, folder: Path, record: RankingRecord, dataset: Dataset, engine: Engine) -> None:
        fields = record.settings.fields
        self.view = View(dataset, fields, by_time=True)
        self.item_reader = FeatureReader(dataset, "item", fields)
        self.row_reader = FeatureReader(dataset, "row", fields)
        self.domains, self.score_field = record.domains, record.score_field
        self.log_kept_shares = tuple(log(share) for share in record.kept_shares)
        self.model = new_ranker(
            record.settings,
            domain_names=dataset.schema.domain_names,
            sizes=ranking_sizes(dataset, fields),
            table_rows=table_sizes(dataset, fields, ALL_SIDES),
            targets=record.targets,
        )
        load_weights(folder / "ranking" / "ranker.safetensors", self.model)
        self.scorer: RowScorer
        match engine:
            case "eager":
                self.scorer = EagerRowScorer(self.model, num_domains=dataset.num_domains)
            case "onnx":
                self.scorer = OnnxRowScorer(exported(folder / "ranking", "ranker", dataset.num_domains))
            case other:
                assert_never(other)
        tables = load_tensors(folder / "ranking" / "statistics.safetensors")
        self.statistics = [
            (field, tables[field.name].numpy()) for field in self.row_reader.fields.numbers if field.kind == "statistic"
        ]

    def rows_of(self, names: Names) -> Int[np.ndarray, " row"]:
        """The row here of each row of another vocabulary of items."""
        if names.texts.equals(self.view.items.texts):
            return np.arange(len(names.texts) + 1)
        place = pc.index_in(names.texts, value_set=self.view.items.texts)
        return np.concatenate([[0], pc.fill_null(place, -1).to_numpy().astype(np.int64) + 1])

    def user_statistics(self, domain: str, user: str | None) -> dict[str, float]:
        """What training rows say of a user in a domain, standardised, by the name of the statistic."""
        number = self.view.names.index(domain)
        of_user = [(field, table) for field, table in self.statistics if field.of == "user"]
        row = UNSEEN if user is None or not of_user else self.view.users.row(user)
        return {field.name: float(table[number, row]) for field, table in of_user}

    @torch.inference_mode()
    def rank(self, request: RankRequest, *, with_gates: bool = False) -> Ranked:
        """Score the request's items, if any; one that the model does not know is scored as an unseen one."""
        view = self.view
        domain = view.names.index(request.domain)
        user_row = UNSEEN if request.user is None else view.users.row(request.user)
        item_row = request.item_row
        features = self._features(request, domain, user_row, item_row)
        logit = self.scorer(features, domain)
        gates = parts = None
        if with_gates:
            slices = DomainSlices.single(domain, len(item_row), len(view.names))
            gates = self._gates(features, slices, domain)
            parts = parts_of_ranker(self.model, features, slices, domain)
        corrected = logit.double() + self.log_kept_shares[domain]  # as `corrected_for_sampling`
        return Ranked(corrected.sigmoid().numpy(), corrected.float().numpy(), item_row > 0, gates, by_row(parts))

    def _features(
        self, request: RankRequest, domain: int, user_row: int, item_row: Int[np.ndarray, " item"]
    ) -> RankingFeatures:
        view, num_items = self.view, len(item_row)
        taken = view.taken(request.taken)
        if request.stored:
            taken = view.stored(user_row).then(taken)
        user = view.user_features(user_row, domain, taken, view.context(request.context))
        rows = replace(
            view.context(request.context, num_items),
            user_row=np.full(num_items, user_row, dtype=np.int64),
            item_row=item_row,
            domain=np.full(num_items, domain, dtype=np.int64),
        )
        rows = replace(rows, context={**rows.context, **self._row_columns(request, domain, rows)})
        row = self.row_reader.read(rows.user_row, rows.domain, events=rows, event_rows=np.arange(num_items))
        return RankingFeatures(user, self.item_reader.read(item_row, rows.domain), row)

    def _row_columns(self, request: RankRequest, domain: int, rows: Events) -> dict[str, Column]:
        """Statistics as training labels have them in the end, and retrieval's score, standardised."""
        columns: dict[str, Column] = {}
        for field, table in self.statistics:
            assert field.of is not None
            columns[field.name] = table[domain][self.view.dataset.keys(rows, field.of)]
        if self.score_field is not None:
            spread = self.view.spreads[self.score_field]
            columns[self.score_field] = spread.standardise(request.retrieval_score.astype(np.float64))
        return columns

    def _gates(
        self, features: RankingFeatures, slices: DomainSlices, domain: int
    ) -> tuple[dict[str, float], ...] | None:
        """Of each item, how much of the row's translation into every other domain CDAnet's second stage sees."""
        if not isinstance(self.model, CDAnet) or domain not in self.model.targets:
            return None
        network = self.model.augmentations[self.model.targets.index(domain)]
        assert isinstance(network, AugmentationNetwork)
        if network.gate is None:
            return None
        weights = network.gate_weights(network.extractor(network.extractor_input(features, slices), slices))
        others = [name for number, name in enumerate(self.view.names) if number != domain]
        return tuple(dict(zip(others, row, strict=True)) for row in weights.tolist())
