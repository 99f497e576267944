"""The rows of CDAnet's tables on logs of purchases alone: every method reads histories, and products of its fields."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from isthmus.api import RankingRun
from isthmus.evaluation.ranking import RankingResult
from isthmus.experiments.cdanet_rows import (
    CDANET,
    CONTROL,
    FINE_TUNE,
    JOINT,
    MAIN,
    SIMPLE,
    SINGLE,
    WEIGHTS,
    all_rows,
    reading,
)
from isthmus.experiments.ranking_grid import ReferenceRow, Row
from isthmus.models.cdanet import CDAnetSettings

Pair = Literal["grocery_kitchen", "movie_book", "kg_books_movies"]
OWN_FIELDS = ("history", "item_id", "words")
BOTH_FIELDS = (*OWN_FIELDS, "other_history")
LITERAL_FIELDS = ("user_id", "item_id", "words")
OWN, BOTH = "MLP, own history", "MLP, own and the source's history"
JOINT_OWN = "MLP on both domains, own histories"
ANOTHER_GROUP = "histories of another user"
KNN, TEXT_KNN = "item-kNN, own domain", "text-kNN, own domain"
PERMUTATION_SEED = 0
QUICK_METHODS = (OWN, BOTH, JOINT_OWN, "MMoE", FINE_TUNE, MAIN)
CONTROLLED, QUICK_CONTROLLED = (BOTH, "MMoE", FINE_TUNE, MAIN), (BOTH,)
LITERAL_METHODS = ("MLP", "MMoE", FINE_TUNE, MAIN)

# Found by hand on validation rows of grocery and kitchen; searches are around them.
RANKING = {"embedding_dim": 64, "initial_std": 0.05, "dropout": 0.3, "products": True}
# A patience of 2 ended rows before their products had grown: validation AUC wavers about .5 for the first epochs.
TRAINING: dict[str, Any] = {"learning_rate": 2e-3, "weight_decay": 0.1, "unseen_items": 0.15, "patience": 5}
# Of what CDAnet's second stage carries over from the first. By validation rows of the control and of CDAnet+MMoE: in
# grocery and kitchen any fine-tuning of it costs AUC within an epoch, on kg_books_movies it brings some; on movie_book
# it was not tried.
LATER_RATE_FACTOR: dict[Pair, float] = {"grocery_kitchen": 0.0, "movie_book": 0.2, "kg_books_movies": 0.2}
LATER_STAGES = {"training.later_rate_factor": {"values": [0.0, 0.05, 0.2]}}
SEARCH: dict[str, Any] = {
    "training.learning_rate": {"low": 7e-4, "high": 4e-3, "log": True},
    "training.network_learning_rate": {"low": 2e-4, "high": 1e-3, "log": True},
    "training.unseen_items": {"values": [0.1, 0.15, 0.25]},
}
FIELDS = {"ranking.fields": {"values": [list(OWN_FIELDS), list(BOTH_FIELDS)]}}
DROPOUT = {"ranking.dropout": {"values": [0.2, 0.3, 0.4]}}


def pair_rows(pair: Pair) -> list[Row]:
    """Every method; the search says whether it reads the source's history too, save where the row's name does."""
    rows = [adapted(row, pair) for row in all_rows(BOTH_FIELDS)]
    single = next(row for row in rows if row.is_single)
    own = with_fields(single, OWN_FIELDS, OWN)
    both = with_fields(single, BOTH_FIELDS, BOTH)
    joint = replace(own, method=JOINT_OWN, group=JOINT, is_single=False)
    others = [replace(row, search={**row.search, **FIELDS}) for row in rows if not row.is_single]
    return [own, both, joint, *others]


def adapted(row: Row, pair: Pair) -> Row:
    """A row with what histories need: wider vectors, products, rows of unknown items, and a search around these."""
    ranking = row.settings.ranking
    known = {name: value for name, value in RANKING.items() if name in type(ranking).model_fields}
    training, search = dict(TRAINING), SEARCH | (DROPOUT if "dropout" in known else {})
    if isinstance(ranking, CDAnetSettings):
        training["later_rate_factor"] = LATER_RATE_FACTOR[pair]
        search = search | LATER_STAGES | (WEIGHTS if ranking.translator else {})
    settings = row.settings.model_copy(
        update={
            "ranking": ranking.model_copy(update=known),
            "training": row.settings.training.model_copy(update=training),
        }
    )
    return Row(row.method, row.group, settings, row.is_single, search)


def with_fields(row: Row, fields: tuple[str, ...], method: str) -> Row:
    """A row that reads other fields, under another name."""
    return row.changed(lambda settings: reading(settings, fields), method=method)


def literal_rows(rows: Sequence[Row]) -> list[Row]:
    """The paper's fields, ids and words, with the settings that were found on histories."""
    chosen = [replace(row, method="MLP") if row.method == OWN else row for row in rows]
    return [with_fields(row, LITERAL_FIELDS, row.method) for row in chosen if row.method in LITERAL_METHODS]


def another_users(method: str) -> str:
    """The name of a method's row where a history is that of another user."""
    return f"{method}; another user's"


def with_another_users_own_history(run: RankingRun) -> RankingResult:
    """A run's test rows, each scored with the own-domain history of another user who has one, up to the row's time.

    Nobody keeps his own history, where two users or more of a domain have one; whose rows they are stays as it is.
    """
    dataset = run.dataset
    assert dataset.impressions is not None
    test, train = dataset.impressions["test"], dataset.events["train"]
    user, domain = np.array(test.user_row), np.asarray(test.domain)
    rng = np.random.default_rng(PERMUTATION_SEED)
    for number in run.trained_domains:
        order = rng.permutation(np.unique(train.user_row[train.domain == number]))
        other = np.arange(dataset.num_users)
        other[order] = np.roll(order, -1)
        user[domain == number] = other[user[domain == number]]
    swapped = replace(test, user_row=user, user_number=np.asarray(test.who))
    return replace(run, dataset=replace(dataset, impressions={**dataset.impressions, "test": swapped})).evaluate("test")


def references(*, has_clock: bool) -> list[ReferenceRow]:
    """What needs no network: popularity, item-kNN, and text-kNN, for networks read the items' titles too."""
    found = [ReferenceRow("popularity", SIMPLE, "popularity")]
    if has_clock:
        found.append(ReferenceRow("popularity at the time", SIMPLE, "popularity at the time"))
    return [
        *found,
        ReferenceRow(KNN, SIMPLE, "item-kNN, own domain"),
        ReferenceRow("item-kNN, all domains", SIMPLE, "item-kNN, all domains"),
        ReferenceRow(TEXT_KNN, SIMPLE, "text-kNN, own domain"),
        ReferenceRow("text-kNN, all domains", SIMPLE, "text-kNN, all domains"),
    ]


GROUPS = (SIMPLE, SINGLE, ANOTHER_GROUP, JOINT, CONTROL, CDANET)
