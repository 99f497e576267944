"""What a service is asked and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from isthmus.errors import InputError
from isthmus.serving.attributes import Filter, Value
from isthmus.serving.view import ContextValue

Basis = Literal["user_history", "recent_events", "given_history", "popular"]
Order = Literal["click_probability", "retrieval_score", "popularity"]


class UnknownItemError(InputError):
    """An item that the domain does not show."""


@runtime_checkable
class RecentEvents(Protocol):
    """What users did since the bundle was made."""

    def recent(self, user: str) -> Sequence[tuple[str, str]]:
        """Items and domains, the latest last."""
        ...

    def is_forgotten(self, user: str) -> bool:
        """Whether nothing that the bundle knows of the user may be used."""
        ...


class NoEvents:
    """A service without a store of recent events."""

    def recent(self, user: str) -> Sequence[tuple[str, str]]:
        return ()

    def is_forgotten(self, user: str) -> bool:
        return False


@runtime_checkable
class Observer(Protocol):
    """Hears what each answered request was like; see `drift`."""

    def observe(self, domain: str, values: Mapping[str, float | int | str | None]) -> None: ...


@dataclass(frozen=True)
class RecommendRequest:
    """The k best items of a domain, for a user or for a history of (item, domain), the latest last.

    Attributes:
        context: values of context fields by name; what is not given stands at its unseen value, a number at its mean.
        exclude: items that are not to be answered.
        filters: conditions on item fields, all of which an answered item fulfils.
        explain: whether the answer has the weights of fields and of other domains, where the models have such.
        ranked: whether the click model orders the list, where the bundle has one for the domain.
    """

    domain: str
    user: str | None = None
    history: tuple[tuple[str, str], ...] | None = None
    k: int = 10
    context: Mapping[str, ContextValue] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    explain: bool = False
    ranked: bool = True


@dataclass(frozen=True)
class RecommendedItem:
    """One item.

    Attributes:
        score: what the list is in order of: see `Recommendation.ordered_by`.
        retrieval_score, retrieval_rank: what retrieval says, and its place there from 1; None of a popular item.
        other_domains: with `explain`, how much the click model takes from each other domain.
        part_weights: with `explain`, how the click model's gates weigh the parts of its network for this item.
    """

    item: str
    title: str | None
    score: float
    attributes: Mapping[str, Value]
    retrieval_score: float | None = None
    retrieval_rank: int | None = None
    other_domains: Mapping[str, float] | None = None
    part_weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer to a request.

    Attributes:
        domain: whose items these are: the asked one, or the fallback that the schema declares.
        items: best first; fewer than k only where the domain has no more that fulfil the filters.
        basis: what it rests on; `popular` where nothing is known of the user here.
        ordered_by: what `score` is: the click model's probability, retrieval's score, or a share of the positives.
        num_matching: items of the domain that may be answered: not taken, not excluded, through the filters.
        unknown_items: items of the given history that retrieval does not know, and that were left out.
        field_weights: with `explain`, how much retrieval lets of each user field through.
        part_weights: with `explain`, how the gates of retrieval's user tower weigh the parts of its network.
        bundle: version of the bundle.
        timings_ms: of each stage, and `total`.
        request: the request's id, which feedback names.
        experiment, variant: what the user takes part in; None: nothing.
    """

    domain: str
    items: tuple[RecommendedItem, ...]
    basis: Basis
    ordered_by: Order
    num_matching: int
    unknown_items: tuple[str, ...]
    field_weights: Mapping[str, float] | None
    bundle: str
    timings_ms: Mapping[str, float]
    request: str | None = None
    experiment: str | None = None
    variant: str | None = None
    part_weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """Items to score by the click model for a user, or for a history, in a domain."""

    domain: str
    items: tuple[str, ...]
    user: str | None = None
    history: tuple[tuple[str, str], ...] | None = None
    context: Mapping[str, ContextValue] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredItem:
    """The probability that an item is clicked; `is_known`: whether the click model has seen the item in training."""

    item: str
    probability: float
    is_known: bool


@dataclass(frozen=True)
class FoundItem:
    """An item by its id and, where there is one, its title."""

    item: str
    title: str | None


@dataclass(frozen=True)
class SimilarItem:
    """An item and the cosine of its vector with the asked one's."""

    item: str
    title: str | None
    similarity: float
    attributes: Mapping[str, Value]
