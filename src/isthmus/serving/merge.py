"""One answer of several: of the shards of a corpus that is too large for one server."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from isthmus.errors import InputError
from isthmus.serving.requests import Recommendation, RecommendedItem

ANSWER = TypeAdapter(Recommendation)


def read_answer(body: bytes) -> Recommendation:
    """What `POST /v1/recommend` answered.

    Raises:
        InputError: it is no recommendation, an error perhaps.
    """
    try:
        return ANSWER.validate_json(body)
    except ValidationError as error:
        raise InputError(f"not an answer of /v1/recommend: {body[:200]!r}") from error


def merge(answers: Sequence[Recommendation], k: int, num_candidates: int = 1) -> Recommendation:
    """The k best items of what every shard of a corpus answered to one request.

    Where the click model orders, the shards together bring more candidates than one server would take: of these the
    best by retrieval are kept, as many as one server hands to it, and then ordered. With exact search the list is that
    of the unsharded bundle if each shard was asked for `max(k, num_candidates)` items; of equal ones the lower id.

    Args:
        num_candidates: of `GET /v1/domains`; without a click model it says nothing.

    Returns:
        The first answer with the merged list: `bundle` names all versions, `timings_ms` has the longest of each stage,
        and `request` is None, for no server has shown this list.

    Raises:
        InputError: there is no answer, or they are of different requests: another domain, basis, order or variant.
    """
    if not answers:
        raise InputError("answers: none given; give that of every shard")
    first = answers[0]
    for other in answers[1:]:
        for name, one, two in (
            ("domain", first.domain, other.domain),
            ("basis", first.basis, other.basis),
            ("ordered_by", first.ordered_by, other.ordered_by),
            ("variant", first.variant, other.variant),
        ):
            if one != two:
                raise InputError(f"answers: {name} is {one!r} of one and {two!r} of another; give those of one request")
    items = [item for answer in answers for item in answer.items]
    if first.ordered_by == "popularity":
        best = sorted(items, key=lambda item: (-item.score, item.item))[:k]
    else:
        retrieved = sorted(items, key=_place_in_retrieval)
        ranked = [replace(item, retrieval_rank=rank) for rank, item in enumerate(retrieved, start=1)]
        count = max(k, num_candidates) if first.ordered_by == "click_probability" else k
        best = sorted(ranked[:count], key=lambda item: -item.score)[:k]  # of equal ones retrieval's order stands
    stages = {stage for answer in answers for stage in answer.timings_ms}
    return replace(
        first,
        items=tuple(best),
        num_matching=sum(answer.num_matching for answer in answers),
        bundle=" ".join(answer.bundle for answer in answers),
        timings_ms={stage: max(answer.timings_ms.get(stage, 0.0) for answer in answers) for stage in sorted(stages)},
        request=None,
    )


def _place_in_retrieval(item: RecommendedItem) -> tuple[float, str]:
    assert item.retrieval_score is not None  # which only popular items lack
    return -item.retrieval_score, item.item
