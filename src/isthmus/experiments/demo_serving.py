"""The end of the demo: both runs in one bundle, one request answered from it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from isthmus.bundling import bundle
from isthmus.data.dataset import Dataset
from isthmus.experiments.demo_ranking import NUM_RETRIEVED
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import open_service

NUM_ASKED = 3


def answer_from_bundle(dataset: Dataset, retrieval: Path, ranking: Path, out: Path) -> None:
    """Make the bundle `out` of two runs, answer a request from it, and print both."""
    made = bundle(retrieval, out, ranking=ranking, score_field="score", num_candidates=NUM_RETRIEVED)
    size = sum(record.num_bytes for record in made.files.values())
    print(f"\nserving: bundle {made.version} of both runs, {size / 1e6:.1f} MB in {out}")
    service = open_service(out)
    domain = dataset.schema.domain_names[0]
    user = dataset.vocabulary("user")[first_user(dataset, 0) - 1]
    answer = asdict(service.recommend(RecommendRequest(domain, user=user, k=NUM_ASKED)))
    print(f"POST /v1/recommend {json.dumps({'domain': domain, 'user': user, 'k': NUM_ASKED})}")
    print(json.dumps(answer, indent=1, ensure_ascii=False))
    print(f"\na page to look at: make demo SERVE=1, or .venv/bin/isthmus serve {out}")


def first_user(dataset: Dataset, domain: int) -> int:
    """The row of the first user who has taken something in the domain."""
    own = np.flatnonzero(np.asarray(dataset.history.domain) == domain)
    return int(np.searchsorted(dataset.history.offsets, own[0], side="right")) - 1
