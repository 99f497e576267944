"""Intervals of the tables of click models: a user is drawn with all his rows, of every target and split."""

import numpy as np
import torch

from isthmus.data.dataset import Dataset
from isthmus.evaluation.ranking import RankingResult
from isthmus.experiments.cdanet_table_2 import in_words, one_number_a_user
from isthmus.experiments.ranking_grid import Problem, Results

ROWS = 300


def judged(seed: int, num_users: int) -> RankingResult:
    """Rows of one target, scored a little better with an odd seed than with an even one."""
    rng = np.random.default_rng(7)
    label, user = rng.integers(0, 2, ROWS), rng.integers(1, num_users + 1, ROWS)
    logit = np.random.default_rng(seed).normal(size=ROWS) + (0.5 + seed % 2) * label
    number = {"domain": np.zeros(ROWS, int), "user_row": user, "item_row": user, "label": label}
    columns = {**number, "user_rows": user, "item_rows": user}
    return RankingResult(
        **{name: torch.from_numpy(column) for name, column in columns.items()}, logit=torch.from_numpy(logit)
    )


def results_of(problems: list[Problem], num_users: int) -> Results:
    return {
        (method, problem.name, target): [judged(seed, num_users), judged(seed + 2, num_users)]
        for method, seed in (("ours", 1), ("control", 2))
        for problem in problems
        for target in problem.targets
    }


def test_the_same_rows_again_tell_no_more(labelled: Dataset) -> None:
    """Of another target, or of another split of the same users: drawn apart from the first they would."""
    num_users = 20
    once = [Problem("a", labelled.path, ("shop",))]
    twice = [Problem("a", labelled.path, ("shop", "news")), Problem("b", labelled.path, ("shop",))]
    results = results_of(twice, num_users)
    assert in_words("ours", "control", once, results) == in_words("ours", "control", twice, results)


def test_users_are_the_same_where_their_ids_are(labelled: Dataset) -> None:
    known = len(labelled.vocabulary("user"))
    users: dict[str, int] = {}
    here, there = Problem("a", labelled.path, ("shop",)), Problem("b", labelled.path, ("shop",))
    first = one_number_a_user(torch.tensor([2, 1, 2, known + 1]), here, users).tolist()
    again = one_number_a_user(torch.tensor([known + 1, 1, 2]), there, users).tolist()
    assert first[0] == first[2] == again[2]
    assert first[1] == again[1]
    assert len({*first, again[0]}) == 4  # whom training does not know is somebody else elsewhere
