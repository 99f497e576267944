"""What requests are like for users as training had them: answered by the bundle itself, as served requests are."""

import numpy as np

from isthmus.data.dataset import Dataset, Events
from isthmus.serving.drift import Recorder, Reference
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import Service


def measured(service: Service, retrieval: Dataset, ranking: Dataset | None, *, num_rows: int, seed: int) -> Reference:
    """The distributions of all signals over some training rows of each domain.

    Args:
        retrieval, ranking: the datasets that the bundle's models were trained on, with their rows. A domain that is
            ranked has those of `ranking`, which are what was shown; else the positives of `retrieval`.
        num_rows: of a domain, at most.
    """
    recorder = Recorder()
    service.drift = recorder
    rng = np.random.default_rng(seed)
    for domain in service.domains:
        dataset, view = retrieval, service.view
        if service.ranker is not None and ranking is not None and service.is_ranked(domain):
            dataset, view = ranking, service.ranker.view
        rows = dataset.events["train"] if dataset.impressions is None else dataset.impressions["train"]
        for row in _some(rows, dataset, domain, num_rows, rng):
            known = view.context_of(rows, row)
            context = {name: value for name, value in known.items() if name in service.context_names}
            user_row = int(rows.user_row[row])
            user = view.users.text(user_row) if user_row else None
            service.recommend(RecommendRequest(domain, user=user, context=context))
    service.drift = None
    return recorder.reference()


def _some(rows: Events, dataset: Dataset, domain: str, num_rows: int, rng: np.random.Generator) -> list[int]:
    bounds = rows.domain_bounds(dataset.num_domains)
    number = dataset.schema.domain_names.index(domain)
    first, last = bounds[number], bounds[number + 1]
    chosen: list[int] = (first + rng.permutation(last - first)[:num_rows]).tolist()
    return chosen
