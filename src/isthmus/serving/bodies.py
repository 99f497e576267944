"""What may be posted to the service, and how it becomes a request."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from isthmus.serving.attributes import Filter
from isthmus.serving.requests import RecommendRequest, ScoreRequest
from isthmus.serving.service import MOST_ITEMS

MOST_REQUESTS = 100
Name = Annotated[StrictStr, Field(min_length=1, max_length=500)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Single = Name | StrictInt | Number
Context = dict[Name, Single | Annotated[list[Name | StrictInt], Field(max_length=MOST_ITEMS)]]


def whole(given: object) -> object:
    """A number without a fraction as an integer, which it is in JSON and its schemas: 5.0."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


class Body(BaseModel):
    """Base of what is posted: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Take(Body):
    """An item that was taken, and the domain where; without one, the domain of the request."""

    item: Name
    domain: Name | None = None


class Range(Body):
    """A number from `min` to `max`, both included; one may be missing."""

    min: Number | None = None
    max: Number | None = None


History = Annotated[list[Name | Take], Field(max_length=MOST_ITEMS)]
Condition = Name | Annotated[list[Name], Field(min_length=1, max_length=MOST_ITEMS)] | Range


class RecommendBody(Body):
    """The k best items of a domain, for a user or for a history of items, the latest last.

    context: values of context fields. filters: of each item field a text, a list of texts of which one fits, or a range
    of a number. explain: also answer the weights of user fields and of other domains.
    """

    domain: Name
    user: Name | None = None
    history: History | None = None
    k: Annotated[StrictInt, Field(ge=1, le=MOST_ITEMS), BeforeValidator(whole)] = 10
    context: Context = {}
    exclude: Annotated[list[Name], Field(max_length=MOST_ITEMS)] = []
    filters: Annotated[dict[Name, Condition], Field(max_length=50)] = {}
    explain: StrictBool = False

    def request(self) -> RecommendRequest:
        return RecommendRequest(
            domain=self.domain,
            user=self.user,
            history=_pairs(self.history, self.domain),
            k=self.k,
            context=self.context,
            exclude=tuple(self.exclude),
            filters=tuple(_filter(name, condition) for name, condition in self.filters.items()),
            explain=self.explain,
        )


class BatchBody(Body):
    """Several requests at once, each answered as if it were alone."""

    requests: Annotated[list[RecommendBody], Field(min_length=1, max_length=MOST_REQUESTS)]


class ScoreBody(Body):
    """Items to score by the click model, for a user or for a history."""

    domain: Name
    items: Annotated[list[Name], Field(min_length=1, max_length=MOST_ITEMS)]
    user: Name | None = None
    history: History | None = None
    context: Context = {}

    def request(self) -> ScoreRequest:
        return ScoreRequest(
            domain=self.domain,
            items=tuple(self.items),
            user=self.user,
            history=_pairs(self.history, self.domain),
            context=self.context,
        )


class EventBody(Body):
    """What a user took now. `id`, where given, makes a repeated post count once."""

    user: Name
    item: Name
    domain: Name
    id: Name | None = None


class EventsBody(Body):
    """Events, the latest last."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=MOST_ITEMS)]


class ShownBody(Body):
    """What came of an item that a request was shown: a click or an order."""

    request: Name
    item: Name
    kind: Literal["click", "order"]


class FeedbackBody(Body):
    """What came of what was shown."""

    feedback: Annotated[list[ShownBody], Field(min_length=1, max_length=MOST_ITEMS)]


def _pairs(history: list[str | Take] | None, domain: str) -> tuple[tuple[str, str], ...] | None:
    if history is None:
        return None
    return tuple((e, domain) if isinstance(e, str) else (e.item, e.domain or domain) for e in history)


def _filter(name: str, condition: str | list[str] | Range) -> Filter:
    if isinstance(condition, Range):
        return Filter(name, least=condition.min, most=condition.max)
    return Filter(name, any_of=(condition,) if isinstance(condition, str) else tuple(condition))
