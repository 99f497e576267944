"""From a user in a domain to the best items that this domain may show."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from isthmus.batch import Bag, Features
from isthmus.data.dataset import Column, Dataset, Events, Lists
from isthmus.data.features import FeatureReader, Histories, HistoryReader, Rows, to_bag
from isthmus.domains import DomainSlices
from isthmus.errors import InputError, did_you_mean
from isthmus.evaluation.retrieval import encode_items
from isthmus.files import new_file
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.schema import FieldSpec
from isthmus.serving.index_settings import AnyIndexSettings
from isthmus.serving.indexes import BuiltIndex, build_index

Basis = Literal["user history", "given history", "popular items of the domain"]
COLUMNS = pa.schema(
    [
        ("user", pa.string()),
        ("domain", pa.string()),
        ("rank", pa.int32()),
        ("item", pa.string()),
        ("score", pa.float32()),
    ]
)
UNSEEN = 0  # the row of every user and item that training does not know


@dataclass(frozen=True)
class RecommendedItem:
    """An item, its readable name where the dataset has one, and its score.

    Attributes:
        score: the model's inner product; of a popular item its share of the domain's training positives.
    """

    item: str
    title: str | None
    score: float


@dataclass(frozen=True)
class Recommendations:
    """The answer to one request.

    Attributes:
        domain: whose items these are: the asked one, or the fallback that the schema declares for unknown names.
        items: best first; fewer than asked only where the domain has no more that the user has not taken.
        basis: what they rest on.
        unknown_items: items of the given history that training does not know, which were left out.
    """

    domain: str
    items: tuple[RecommendedItem, ...]
    basis: Basis
    unknown_items: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Recommender:
    """Answers requests from one index a domain, which the domain's first request builds.

    A user's known positives are those of training and validation. What the user has taken in the domain, or the given
    history, is left out inside the search. Context fields, whose values come with a request, stand at their unseen
    value, a number at its mean.
    """

    def __init__(
        self, model: TwoTower, settings: TwoTowerSettings, dataset: Dataset, index_settings: AnyIndexSettings
    ) -> None:
        self.model = model.eval()
        self.dataset = dataset
        self.index_settings = index_settings
        self.user_reader = FeatureReader(dataset, "user", settings.fields)
        self.item_reader = FeatureReader(dataset, "item", settings.fields)
        self.history = HistoryReader(dataset)
        self.titles = dataset.titles()
        self._indexes: dict[int, BuiltIndex] = {}

    def recommend(
        self, domain: str, *, user: str | None = None, history: Sequence[str] | None = None, k: int = 10
    ) -> Recommendations:
        """The k best items of a domain for a known user, or for a history of item ids, the latest last.

        A user whom the model knows nothing of here, like a request with neither, gets the domain's most popular items.

        Raises:
            InputError: the domain is unknown and the schema declares no fallback, no item of the history is known, both
                a user and a history are given, the model reads no history, or k is below 1.
        """
        if k < 1:
            raise InputError(f"k: {k} is not a number of items; give 1 or more")
        number = self._domain_number(domain)
        name = self.dataset.schema.domain_names[number]
        if history is not None:
            if user is not None:
                raise InputError("give a user or a history, not both")
            return self._for_history(number, name, history, k)
        user_row = UNSEEN if user is None else self._row_of_user.get(user, UNSEEN)
        rows = np.array([user_row])
        if user_row == UNSEEN or not self._is_usable(rows, number)[0]:
            return Recommendations(name, self._popular(number, k), "popular items of the domain")
        item_row, score = self._search(number, self._features(rows, number), self._seen(rows, number), k)
        return Recommendations(name, self._named(item_row[0], score[0]), "user history")

    def recommend_all(self, out: Path, *, k: int = 10, domain: str | None = None, block: int = 1024) -> int:
        """Write the k best items of every user whom the model knows something of, in one domain or in each.

        The Parquet file has columns user, domain, rank (from 1), item and score; it appears whole or not at all.
        Users are encoded and searched a block at a time. Users without a usable history, for whom popular items are
        all there is, have no rows.

        Returns:
            The number of rows written.
        """
        if k < 1:
            raise InputError(f"k: {k} is not a number of items; give 1 or more")
        names = self.dataset.schema.domain_names
        numbers = range(len(names)) if domain is None else [self._domain_number(domain)]
        users, items = self._texts("user"), self._item_texts
        shown = pa.array(names)
        num_rows = 0
        with new_file(out) as partial, pq.ParquetWriter(partial, COLUMNS) as writer:
            for number in numbers:
                for rows in self._usable_users(number, block):
                    found, score = self._search(number, self._features(rows, number), self._seen(rows, number), k)
                    user, place = np.nonzero(found >= 0)
                    columns = [
                        users.take(pa.array(rows[user])),
                        shown.take(pa.array(np.full(len(user), number))),
                        pa.array((place + 1).astype(np.int32)),
                        items.take(pa.array(found[user, place])),
                        pa.array(score[user, place]),
                    ]
                    writer.write_table(pa.Table.from_arrays(columns, schema=COLUMNS))
                    num_rows += len(user)
        return num_rows

    def index(self, domain: int) -> BuiltIndex:
        """The index over a domain's corpus, built at the first call."""
        if domain not in self._indexes:
            corpus = self.dataset.corpus(domain)
            vectors = encode_items(self.model, self.item_reader, domain, self.dataset.num_domains, corpus)
            item_row = torch.from_numpy(corpus).to(vectors.device)
            self._indexes[domain] = build_index(self.index_settings, vectors, item_row)
        return self._indexes[domain]

    def _for_history(self, domain: int, name: str, history: Sequence[str], k: int) -> Recommendations:
        if not any(field.kind == "history" for field in self.user_reader.fields.lists):
            raise InputError("the model reads no history (retrieval.fields); ask for a known user instead")
        rows = np.array([self._row_of_item.get(item, UNSEEN) for item in history], dtype=np.int64)
        unknown = tuple(item for item, row in zip(history, rows.tolist(), strict=True) if row == UNSEEN)
        if history and len(unknown) == len(history):
            raise InputError(f"history: no item of it is known to the model, such as {unknown[0]!r}; give other items")
        known = rows[rows != UNSEEN]
        seen = to_bag(known, np.array([0, len(known)]))
        if not len(known):
            return Recommendations(name, self._popular(domain, k), "popular items of the domain")

        def latest(field: FieldSpec) -> Bag:
            rows = known[-field.max_length :]
            return to_bag(rows, np.array([0, len(rows)]))

        features = self._features(np.array([UNSEEN]), domain, histories=latest)
        item_row, score = self._search(domain, features, seen, k)
        return Recommendations(name, self._named(item_row[0], score[0]), "given history", unknown)

    @cached_property
    def _row_of_user(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.dataset.vocabulary("user"), start=1)}

    @cached_property
    def _row_of_item(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.dataset.vocabulary("item"), start=1)}

    @cached_property
    def _item_texts(self) -> pa.Array:
        return self._texts("item")

    def _texts(self, vocabulary: str) -> pa.Array:
        """The text of every row, the unseen one's empty."""
        return pa.array(["", *self.dataset.vocabulary(vocabulary)], pa.string())

    def _domain_number(self, domain: str) -> int:
        try:
            return self.dataset.schema.domain_number(domain)
        except ValueError as error:
            raise InputError(f"{error}{did_you_mean(domain, self.dataset.schema.domain_names)}") from error

    def _features(self, user_row: Rows, domain: int, *, histories: Histories | None = None) -> Features:
        column = np.full(len(user_row), domain, dtype=np.int64)
        return self.user_reader.read(
            user_row,
            column,
            span=self.history.span(user_row, "test"),
            histories=histories,
            events=self._no_context,
            event_rows=np.zeros(len(user_row), dtype=np.int64),
        )

    @cached_property
    def _no_context(self) -> Events:
        """One event whose context is not known."""
        known, none = self.dataset.events["train"], np.zeros(1, dtype=np.int64)
        context: dict[str, Column | Lists] = {
            name: Lists(column.values[:0], np.zeros(2, dtype=np.int64))
            if isinstance(column, Lists)
            else np.zeros(1, dtype=column.dtype)
            for name, column in known.context.items()
        }
        return Events(none, none, none, None, context, None)

    def _seen(self, user_row: Rows, domain: int) -> Bag:
        """What each user is known to have taken in the domain."""
        span = self.history.span(user_row, "test")
        return to_bag(*self.history.lists(span, np.full(len(user_row), domain, dtype=np.int64)))

    def _is_usable(self, user_row: Rows, domain: int) -> NDArray[np.bool_]:
        """Whether the model has something to go by for each user: a history that it reads, or else the user itself."""
        scopes = {field.scope for field in self.user_reader.fields.lists if field.kind == "history"}
        if not scopes:
            return np.not_equal(user_row, UNSEEN)
        own = None if scopes != {"own"} else np.full(len(user_row), domain, dtype=np.int64)
        _, offsets = self.history.lists(self.history.span(user_row, "test"), own)
        return np.not_equal(user_row, UNSEEN) & np.greater(np.diff(offsets), 0)

    def _usable_users(self, domain: int, block: int) -> Iterator[Rows]:
        for start in range(UNSEEN + 1, self.dataset.num_users, block):
            rows = np.arange(start, min(start + block, self.dataset.num_users))
            usable = rows[self._is_usable(rows, domain)]
            if len(usable):
                yield usable

    @torch.inference_mode()
    def _search(self, domain: int, features: Features, seen: Bag, k: int) -> tuple[Rows, Column]:
        """Item rows and scores, best first; -1 where the corpus has no more."""
        index = self.index(domain)
        device = next(self.model.parameters()).device
        slices = DomainSlices.single(domain, features.num_rows, self.dataset.num_domains)
        vectors: Float[Tensor, "query dim"] = self.model.encode_user(features.to(device), slices)
        found = index.search(vectors, k, excluded=seen.to(device))
        return found.item_row.cpu().numpy(), found.score.cpu().numpy()

    def _popular(self, domain: int, k: int) -> tuple[RecommendedItem, ...]:
        """The items with the most training positives in the domain; of equal ones the lower row.

        They are for requests of which nothing is known in the domain, so there is nothing taken to leave out.
        """
        corpus = self.dataset.corpus(domain)
        count = np.asarray(self.dataset.item_count[domain])
        best = corpus[np.argsort(-count[corpus], kind="stable")[:k]]
        return self._named(best, count[best] / max(1, count.sum()))

    def _named(self, item_row: Rows, score: Column) -> tuple[RecommendedItem, ...]:
        texts = self._item_texts
        return tuple(
            RecommendedItem(texts[row].as_py(), None if self.titles is None else str(self.titles[row]), float(value))
            for row, value in zip(item_row.tolist(), score.tolist(), strict=True)
            if row >= 0
        )
