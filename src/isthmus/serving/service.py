"""From a request to an answer, without the web: retrieve, filter, rank, and say what the answer rests on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from jaxtyping import Int

from isthmus.batch import Features
from isthmus.data.dataset import Dataset, Lists
from isthmus.errors import InputError
from isthmus.serving.attributes import Attributes, Value
from isthmus.serving.bundle_files import Manifest, read_manifest, require_intact
from isthmus.serving.click_ranker import ClickRanker, Ranked, RankRequest
from isthmus.serving.context import require_context, require_finite
from isthmus.serving.drift import DriftMonitor, OnIndex, read_reference
from isthmus.serving.lookup import ItemSearch, beginning_with
from isthmus.serving.requests import (
    Basis,
    FoundItem,
    NoEvents,
    Observer,
    Order,
    RecentEvents,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
    ScoredItem,
    ScoreRequest,
    SimilarItem,
    UnknownItemError,
)
from isthmus.serving.retriever import Corpus, Found, Retriever
from isthmus.serving.serve_settings import Engine
from isthmus.serving.view import NOTHING, UNSEEN, ContextValue, Taken, View, domain_number

MOST_ITEMS = 1000
OF_USERS = ("categorical", "multi_valued", "sequence", "number")
Clock = Callable[[], float]


@dataclass(frozen=True)
class _Known:
    """What is known of a request's user: for retrieval as rows, for the ranker by name."""

    user: str | None
    stored: bool
    pairs: tuple[tuple[str, str], ...]
    user_row: int
    taken: Taken
    basis: Basis


class Service:
    """Answers requests from one opened bundle; nothing in it changes, so requests may run side by side.

    Args:
        events: what users did since the bundle was made.
    """

    def __init__(
        self,
        manifest: Manifest,
        retriever: Retriever,
        view: View,
        ranker: ClickRanker | None,
        *,
        events: RecentEvents | None = None,
    ) -> None:
        self.manifest, self.retriever, self.view, self.ranker = manifest, retriever, view, ranker
        self.num_candidates = 1 if manifest.ranking is None else manifest.ranking.num_candidates
        self.events: RecentEvents = NoEvents() if events is None else events
        self.attributes = Attributes(view.dataset)
        self.drift: Observer | None = None
        self._user_fields = [f for f in view.dataset.schema.fields if f.side == "user" and f.kind in OF_USERS]
        self.item_search = ItemSearch(view.items, self.attributes.titles)
        self._row_of_ranker = None if ranker is None else ranker.rows_of(view.items)
        of_ranker = {} if ranker is None else ranker.view.context_fields
        computed = set() if ranker is None else {ranker.score_field}
        self._views = [view] if ranker is None else [view, ranker.view]
        self.context_names = sorted({*view.context_fields, *of_ranker} - computed)

    @property
    def domains(self) -> tuple[str, ...]:
        return self.manifest.domains

    def is_ranked(self, domain: str) -> bool:
        """Whether the click model orders this domain's items."""
        return self.ranker is not None and domain in self.ranker.domains

    def recommend(self, request: RecommendRequest, *, clock: Clock = perf_counter) -> Recommendation:
        """The best items for a request.

        Raises:
            InputError: the domain, a filter's or a context's field is unknown or its value does not fit, k is not in
                1..1000, or both a user and a history are given.
        """
        started = clock()
        if not 1 <= request.k <= MOST_ITEMS:
            raise InputError(f"k: {request.k} is not in 1..{MOST_ITEMS}")
        require_context(request.context, self.context_names, self._views)
        domain = domain_number(self.view.dataset, request.domain)
        name = self.domains[domain]
        known = self._known(request.user, request.history, domain)
        unknown = tuple(i for i, _ in request.history or () if self.view.items.row(i) == UNSEEN)
        excluded = self._excluded(domain, known, request)
        features = self._user_features(known, domain, request.context)
        read = clock()
        ranks = request.ranked and self.is_ranked(name) and known.basis != "popular"
        if known.basis == "popular":
            found = self.retriever.popular(domain, request.k, excluded)
        else:
            vector = self.retriever.encode(features, domain)
            require_finite(bool(vector.isfinite().all()), request.context)
            count = max(request.k, self.num_candidates) if ranks else request.k
            found = self.retriever.search(vector, domain, count, excluded)
        retrieved = clock()
        num_found = len(found.item_row)
        ranked = None
        if ranks and num_found:
            assert self._row_of_ranker is not None
            rows = self._row_of_ranker[found.item_row]
            ranked = self._rank(name, known, rows, found, request.context, request.explain)
        order = np.arange(num_found) if ranked is None else np.argsort(-ranked.logit, kind="stable")
        if self.drift is not None:
            self.drift.observe(name, self._signals(domain, known, request.context, found, ranked))
        explains = request.explain and known.basis != "popular"  # which no network has a part in
        done = clock()
        answer = self._items(found, ranked, order[: request.k], domain, known)
        shown = clock()
        stages = {"read": read - started, "retrieve": retrieved - read, "rank": done - retrieved, "show": shown - done}
        return Recommendation(
            domain=name,
            items=answer,
            basis=known.basis,
            ordered_by=_order(known.basis, ranks),
            num_matching=len(self.retriever.corpora[domain].item_row) - len(excluded),
            unknown_items=unknown,
            field_weights=self.retriever.field_weights(features, domain) if explains else None,
            bundle=self.manifest.version,
            part_weights=self.retriever.part_weights(features, domain) if explains else None,
            timings_ms={n: round(1000 * s, 3) for n, s in {**stages, "total": shown - started}.items()},
        )

    def score(self, request: ScoreRequest) -> tuple[ScoredItem, ...]:
        """The click model's probability of each item, in the order asked.

        Raises:
            InputError: there is no click model for the domain, there is nothing to score, or as `recommend`.
        """
        require_context(request.context, self.context_names, self._views)
        domain = domain_number(self.view.dataset, request.domain)
        name = self.domains[domain]
        if not self.is_ranked(name):
            ranked = [one for one in self.domains if self.is_ranked(one)]
            raise InputError(
                f"domain {name!r}: the bundle has no ranker for it; it ranks {', '.join(ranked) or 'none'}"
            )
        if not 1 <= len(request.items) <= MOST_ITEMS:
            raise InputError(f"items: {len(request.items)} given; give 1 to {MOST_ITEMS}")
        known = self._known(request.user, request.history, domain)
        vector = self.retriever.encode(self._user_features(known, domain, request.context), domain)
        require_finite(bool(vector.isfinite().all()), request.context)
        rows = self.view.items.rows(request.items)
        found = Found(rows, self.retriever.scores(vector, domain, rows))
        assert self.ranker is not None
        scored = self._rank(name, known, self.ranker.view.items.rows(request.items), found, request.context, False)
        return tuple(
            ScoredItem(item, float(probability), is_known)
            for item, probability, is_known in zip(
                request.items, scored.probability, scored.is_known.tolist(), strict=True
            )
        )

    def similar(self, item: str, domain: str, k: int = 10) -> tuple[SimilarItem, ...]:
        """The items of a domain whose vectors are nearest in direction to one item's.

        Raises:
            UnknownItemError: the domain does not show the item.
            InputError: the domain is unknown, or k is not in 1..1000.
        """
        if not 1 <= k <= MOST_ITEMS:
            raise InputError(f"k: {k} is not in 1..{MOST_ITEMS}")
        number = domain_number(self.view.dataset, domain)
        place = self.retriever.corpora[number].place(self.view.items.row(item))
        if place is None:
            raise UnknownItemError(f"item {item!r}: domain {self.domains[number]!r} does not show it")
        found = self.retriever.similar(number, place, k)
        columns = (*self._shown(found.item_row, number), found.score.tolist())
        return tuple(
            SimilarItem(text, title, score, attributes) for text, title, attributes, score in zip(*columns, strict=True)
        )

    def find_items(self, text: str, domain: str, limit: int = 10) -> tuple[FoundItem, ...]:
        """Items of a domain by a part of their title or id.

        Raises:
            InputError: the domain is unknown.
        """
        number = domain_number(self.view.dataset, domain)
        return self.item_search.find(text, self.retriever.corpora[number].item_row, limit)

    def find_users(self, prefix: str, limit: int = 10) -> tuple[str, ...]:
        """Users whose id begins so; none that asked to be forgotten."""
        found = beginning_with(self.view.users, prefix, limit)
        return tuple(user for user in found if not self.events.is_forgotten(user))

    def _known(self, user: str | None, history: Sequence[tuple[str, str]] | None, domain: int) -> _Known:
        if history is not None:
            if user is not None:
                raise InputError("give a user or a history, not both")
            if not self.view.history_fields:
                raise InputError("history: the retrieval model reads no history; ask for a known user instead")
            row, stored, pairs = UNSEEN, False, self._declared(history)
        else:
            pairs = () if user is None else self._declared(self.events.recent(user))
            stored = user is not None and not self.events.is_forgotten(user)
            row = self.view.users.row(user) if user is not None and stored else UNSEEN
        later = self.view.taken(pairs)
        taken = (self.view.stored(row) if stored else NOTHING).then(later)
        basis: Basis = "user_history"
        if not self.view.knows_anything(row, taken, domain):
            basis = "popular"
        elif history is not None:
            basis = "given_history"
        elif len(later.item_row):
            basis = "recent_events"
        return _Known(user if stored else None, stored, pairs, row, taken, basis)

    def _declared(self, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """What was taken in a domain that is not declared was taken in the fallback, as it would be in the log."""
        fallback = self.view.dataset.schema.unknown_domain
        if fallback == "error":
            return tuple(pairs)
        return tuple((item, domain if domain in self.domains else fallback) for item, domain in pairs)

    def _user_features(self, known: _Known, domain: int, context: Mapping[str, ContextValue]) -> Features:
        return self.view.user_features(known.user_row, domain, known.taken, self.view.context(context))

    def _excluded(self, domain: int, known: _Known, request: RecommendRequest) -> Int[np.ndarray, " excluded"]:
        """The places in the corpus that may not be answered, ascending: what was taken in the domain is among them."""
        item_row = self.retriever.corpora[domain].item_row
        taken = known.taken.item_row[known.taken.domain == domain]
        left_out = np.concatenate([taken, self.view.items.rows(request.exclude)])
        left_out.sort()  # neighbours are then found near each other
        place = np.searchsorted(item_row, left_out).clip(max=len(item_row) - 1)
        place = place[item_row[place] == left_out]
        excluded: np.ndarray = place[np.diff(place, prepend=-1) > 0]
        if not request.filters:
            return excluded
        is_allowed = self.attributes.matching(request.filters, item_row, domain)
        is_allowed[excluded] = False
        outside: np.ndarray = np.flatnonzero(~is_allowed)
        return outside

    def _rank(
        self,
        domain: str,
        known: _Known,
        item_row: Int[np.ndarray, " item"],
        found: Found,
        context: Mapping[str, ContextValue],
        with_gates: bool,
    ) -> Ranked:
        assert self.ranker is not None
        request = RankRequest(domain, known.user, known.stored, known.pairs, item_row, found.score, context)
        ranked = self.ranker.rank(request, with_gates=with_gates)
        require_finite(bool(np.isfinite(ranked.logit).all()), context)
        return ranked

    def _items(
        self, found: Found, ranked: Ranked | None, places: Int[np.ndarray, " place"], domain: int, known: _Known
    ) -> tuple[RecommendedItem, ...]:
        """The items at some places of what was found, in that order."""
        scores = found.score if ranked is None else ranked.probability
        gates = _at(places, None if ranked is None else ranked.gates)
        parts = _at(places, None if ranked is None else ranked.parts)
        retrieved: Sequence[float | None] = found.score[places].tolist()
        ranks: Sequence[int | None] = (places + 1).tolist()
        if known.basis == "popular":
            retrieved = ranks = [None] * len(places)
        columns = (
            *self._shown(found.item_row[places], domain),
            scores[places].tolist(),
            retrieved,
            ranks,
            gates,
            parts,
        )
        return tuple(
            RecommendedItem(text, title, score, attributes, retrieval_score, rank, other_domains, part_weights)
            for text, title, attributes, score, retrieval_score, rank, other_domains, part_weights in zip(
                *columns, strict=True
            )
        )

    def _shown(
        self, item_row: Int[np.ndarray, " item"], domain: int
    ) -> tuple[Sequence[str], Sequence[str | None], Sequence[Mapping[str, Value]]]:
        """Ids, titles and attributes of items."""
        ids = [text or "" for text in self.view.items.texts_of(item_row)]
        return ids, self.attributes.titles_of(item_row), self.attributes.of_items(item_row, domain)

    def _signals(
        self,
        domain: int,
        known: _Known,
        context: Mapping[str, ContextValue],
        found: Found,
        ranked: Ranked | None,
    ) -> dict[str, float | int | str | None]:
        """What a request was like, for drift: what the models read of it, and the best scores that came of it."""
        dataset = self.view.dataset
        values: dict[str, float | int | str | None] = {"history": float(len(known.taken.item_row))}
        for field in self._user_fields:
            place = known.user_row + (domain * dataset.num_users if dataset.is_by_domain(field) else 0)
            stored = dataset.features[field.name]
            if isinstance(stored, Lists):
                values[f"user.{field.name}"] = float(stored.offsets[place + 1] - stored.offsets[place])
            else:
                value = stored[place]
                values[f"user.{field.name}"] = float(value) if field.kind == "number" else str(value)
        if self.ranker is not None and self.is_ranked(self.domains[domain]):
            statistics = self.ranker.user_statistics(self.domains[domain], known.user)
            values |= {f"user.{name}": value for name, value in statistics.items()}
        for name in self.context_names:
            given = context.get(name)
            is_list = given is not None and not isinstance(given, str | int | float)
            values[f"context.{name}"] = float(len(given)) if is_list else given  # type: ignore[arg-type, assignment]
        has_scores = known.basis != "popular" and len(found.score)
        values["retrieval_score"] = float(found.score.max()) if has_scores else None
        values["probability"] = None if ranked is None else float(ranked.probability.max())
        return values


def open_service(
    folder: Path,
    *,
    events: RecentEvents | None = None,
    check: bool = True,
    engine: Engine | None = None,
    on_drift: OnIndex | None = None,
) -> Service:
    """Open a bundle.

    Args:
        on_drift: hears how far each domain's signals have drifted, where the bundle knows what they were in training.
        engine: what computes the networks; None: `onnx` where the bundle has copies for it, else `eager`.
        check: whether every file is read and compared with its checksum first.

    Raises:
        InputError: the folder is no bundle, incomplete or damaged, or of another version, or `engine` is `onnx` and it
            has no copies.
    """
    manifest = read_manifest(folder)
    if check:
        require_intact(folder, manifest)
    record = manifest.retrieval
    has_copies = "retrieval/user-0.onnx" in manifest.files
    if engine == "onnx" and not has_copies:
        raise InputError(f"{folder}: has no ONNX copies; make it without --no-onnx, or choose engine 'eager'")
    chosen: Engine = engine or ("onnx" if has_copies else "eager")
    dataset = Dataset.open(folder / record.data)
    corpora = [Corpus.open(folder, corpus) for corpus in record.corpora]
    retriever = Retriever(folder / "retrieval", record.settings, dataset, corpora, chosen)
    view = View(dataset, record.settings.fields, by_time=False)
    ranker = None
    if manifest.ranking is not None:
        is_same = manifest.ranking.data == record.data
        of_ranker = dataset if is_same else Dataset.open(folder / manifest.ranking.data)
        ranker = ClickRanker(folder, manifest.ranking, of_ranker, chosen)
    service = Service(manifest, retriever, view, ranker, events=events)
    reference = None if on_drift is None else read_reference(folder)
    if on_drift is not None and reference is not None:
        service.drift = DriftMonitor(reference, on_drift)
    return service


def _at(
    places: Int[np.ndarray, " place"], weights: Sequence[dict[str, float]] | None
) -> Sequence[dict[str, float] | None]:
    """What stands at some places; None at each where there is nothing."""
    return [None] * len(places) if weights is None else [weights[place] for place in places]


def _order(basis: Basis, is_ranked: bool) -> Order:
    if basis == "popular":
        return "popularity"
    return "click_probability" if is_ranked else "retrieval_score"
