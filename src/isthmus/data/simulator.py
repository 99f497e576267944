"""A small log whose making is known: for demonstrations and tests, never for results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration

NAME = "simulated"
DOMAINS = ("shop", "video", "news")
NUM_CATEGORIES = 12
TASTE_DIM = 8
MEAN_EVENTS = 12
START, DAYS = 1_700_000_000, 60
USER_BLOCK = 1024


def simulate(
    out: Path,
    *,
    num_users: int = 2000,
    num_items: int = 600,
    domains: Sequence[str] = DOMAINS,
    seed: int = 0,
    num_shown: int = 0,
) -> Path:
    """Write `out`/{events.parquet, items.parquet, log.yaml}; gives the path of log.yaml.

    What is planted:
        - a user's score of an item in a domain is a taste that holds everywhere plus one of that domain alone, equally
          strong, plus the item's popularity there; positives are drawn from the softmax of the scores, without repeats;
        - an item's taste vector lies near that of its category, so the category says something of a new item;
        - a domain has its own popularity, and its users like low or high prices according to the domain's number;
        - four items in ten are in every domain, the others in one; three users in ten are in two domains, the others
          in one; the first domain has most of the traffic, the n-th a share that falls as 1 / n.

    Args:
        num_shown: impressions without a click beside each positive, of items drawn by popularity alone; above 0, the
            log has a column `clicked`, and the declaration is for ranking too.
    """
    rng = np.random.default_rng(seed)
    num_domains = len(domains)
    category = rng.integers(NUM_CATEGORIES, size=num_items)
    price = np.exp(rng.normal(3.0, 0.8, num_items)).round(2)
    item_taste = _tastes(rng, category, num_domains)
    user_taste = rng.normal(size=(num_domains + 1, num_users, TASTE_DIM))
    home = np.where(rng.random(num_items) < 0.4, -1, rng.integers(num_domains, size=num_items))
    traffic = 1 / np.arange(1, num_domains + 1)
    first = rng.choice(num_domains, size=num_users, p=traffic / traffic.sum())
    second = np.where(rng.random(num_users) < 0.3, rng.integers(num_domains, size=num_users), first)

    columns: dict[str, list[np.ndarray]] = {"user": [], "item": [], "domain": []}
    shown: list[np.ndarray] = []
    for domain in range(num_domains):
        corpus = np.flatnonzero((home == -1) | (home == domain))
        users = np.flatnonzero((first == domain) | (second == domain))
        popularity = rng.permutation(np.log(1 / np.arange(1, len(corpus) + 1) ** 0.7))
        slope = 0.5 * (2 * domain / max(1, num_domains - 1) - 1)
        bias = popularity + slope * (np.log(price[corpus]) - 3.0) / 0.8
        for start in range(0, len(users), USER_BLOCK):
            block = users[start : start + USER_BLOCK]
            score = bias + sum(
                user_taste[part, block] @ item_taste[part, corpus].T / TASTE_DIM**0.5 for part in (0, domain + 1)
            )
            user, item = _choose(score, rng)
            columns["user"].append(block[user])
            columns["item"].append(corpus[item])
            columns["domain"].append(np.full(len(user), domain))
            if num_shown:
                chance = np.exp(popularity)
                shown.append(corpus[rng.choice(len(corpus), size=(len(user), num_shown), p=chance / chance.sum())])
    user, item, domain_of_row = (np.concatenate(columns[name]) for name in ("user", "item", "domain"))
    time = START + rng.integers(DAYS * 86_400, size=len(user))
    clicked = np.ones(len(user), np.int64)
    if num_shown:
        clicked = np.repeat([1, 0], [len(user), len(user) * num_shown])
        item = np.concatenate([item, np.concatenate(shown).reshape(-1)])
        user, domain_of_row, time = (
            np.concatenate([column, np.repeat(column, num_shown)]) for column in (user, domain_of_row, time)
        )

    with new_log_folder(out, NAME) as temporary:
        order = np.lexsort((item, user, time))
        events = {
            "user_id": _ids("u", user[order]),
            "item_id": _ids("i", item[order]),
            "domain": pa.array(np.array(domains)[domain_of_row[order]]),
            "time": pa.array(time[order]),
        }
        if num_shown:
            events["clicked"] = pa.array(clicked[order])
        pq.write_table(pa.table(events), temporary / "events.parquet")
        items = {
            "item_id": _ids("i", np.arange(num_items)),
            "category": _ids("c", category),
            "price": pa.array(price),
            "title": pa.array([f"Item {number} of category {kind}" for number, kind in enumerate(category)]),
        }
        pq.write_table(pa.table(items), temporary / "items.parquet")
        write_declaration(_declaration(domains, is_labelled=num_shown > 0), temporary)
    return out / DECLARATION


def _tastes(
    rng: np.random.Generator, category: Int[np.ndarray, " item"], num_domains: int
) -> Float[np.ndarray, "part item taste"]:
    """Part 0 holds everywhere, part d + 1 in domain d."""
    centres = rng.normal(size=(num_domains + 1, NUM_CATEGORIES, TASTE_DIM))
    return 1.2 * centres[:, category] + 0.6 * rng.normal(size=(num_domains + 1, len(category), TASTE_DIM))


def _choose(
    score: Float[np.ndarray, "user item"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """For each user some different items, drawn from the softmax of its scores (Gumbel's top-k)."""
    num_chosen = np.minimum(3 + rng.poisson(MEAN_EVENTS - 3, size=len(score)), score.shape[1])
    order = np.argsort(-(score + rng.gumbel(size=score.shape)), axis=1)
    user, place = np.nonzero(np.arange(score.shape[1]) < num_chosen[:, None])
    return user, order[user, place]


def _ids(prefix: str, numbers: Int[np.ndarray, " row"]) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in numbers.tolist()])


def _declaration(domains: Sequence[str], *, is_labelled: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "time": "time",
        },
        "domains": {domain: {} for domain in domains},
        "tables": {"items": {"files": ["items.parquet"], "item": "item_id"}},
        "fields": [
            {"name": "user_id", "side": "user", "kind": "id"},
            {"name": "history", "side": "user", "kind": "history", "scope": "all", "table": "history"},
            {"name": "item_id", "side": "item", "kind": "id"},
            {"name": "category", "side": "item", "kind": "categorical", "source": "items"},
            {"name": "price", "side": "item", "kind": "number", "source": "items"},
        ],
        "split": {"by": "time", "valid": 0.1, "test": 0.1},
        "candidates": {"sampled": 99, "seed": 0},
        "title": {"name": "title", "side": "item", "kind": "categorical", "source": "items"},
    }
    if is_labelled:
        content["events"]["positive"] = {"column": "clicked"}
        content["ranking"] = {"negatives": "explicit"}
        content["fields"] += [
            {
                "name": f"{of}_{value}_{scope}",
                "side": "row",
                "kind": "statistic",
                "of": of,
                "value": value,
                "scope": scope,
            }
            for of in ("user", "item")
            for value in ("mean", "count")
            for scope in ("own", "other")
        ]
    return content
