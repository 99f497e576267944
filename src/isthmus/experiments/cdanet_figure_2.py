"""CDAnet Figure 2 on books and movies: Base's and CDAnet's five best for the same user, side by side.

Base is the plain click model with CDAnet's extractor (MMoE), trained on both domains and the same rows and fields: what
differs is translation and the second stage. A list is a user's held-out positives of a domain and items drawn for him
by popularity among those that he took in no split; both models order the same list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.api import RankingRun
from isthmus.data.dataset import Dataset, Events
from isthmus.data.features import RankingReader
from isthmus.data.negatives import sample_row_negatives
from isthmus.data.splits import Taken
from isthmus.domains import DomainSlices
from isthmus.evaluation.ranking import ranking_metrics
from isthmus.experiments.side_by_side import Listed, Pair, SideBySide
from isthmus.experiments.titled_runs import base_row, item_titles, main_row, prepared, trained
from isthmus.schema import SampledNegatives

NUM_DRAWN = 100
NUM_BEST = 5
NUM_SHOWN_USERS = 2  # of each domain
BLOCK = 16_384


@dataclass(frozen=True)
class Lists:
    """A list a user and domain, sorted by domain, then user; -1 past a list's end.

    Attributes:
        item_row: ascending within a list, so that ties never know which item is the positive.
        is_positive: held out; False of what was drawn and past the end.
    """

    user_row: Int[np.ndarray, " list"]
    domain: Int[np.ndarray, " list"]
    item_row: Int[np.ndarray, "list place"]
    is_positive: Bool[np.ndarray, "list place"]


def reproduce(
    data: Path, out: Path, *, num_seeds: int, quick: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Train both models, count how often each finds a held-out positive, and draw lists; gives the path of `table.md`.

    Args:
        data: the folder of the data set's own files.
        quick: one seed, two epochs.
    """
    dataset = prepared(data, out, say)
    base, main = base_row(quick=quick), main_row(with_titles=True, quick=quick)
    runs = trained([base, main], dataset, num_seeds, out, quick=quick, say=say)
    return compared(dataset, runs[base.method], runs[main.method]).write(out / "cdanet-figure-2")


def compared(dataset: Dataset, base: Sequence[RankingRun], main: Sequence[RankingRun]) -> SideBySide:
    """Both models' lists of all users, of every seed; those of the first seed are what is shown."""
    lists = held_out_lists(dataset, SampledNegatives(draw="popularity", per_positive=NUM_DRAWN))
    best = [[best_places(score_lists(run, dataset, lists), NUM_BEST) for run in runs] for runs in (base, main)]
    names = dataset.schema.domain_names
    auc = [[ranking_metrics(run.evaluate("test"), names) for run in runs] for runs in (base, main)]
    return SideBySide(
        domains=names,
        domain=torch.from_numpy(lists.domain),
        hits=(hits(lists, best[0]), hits(lists, best[1])),
        auc=tuple([{name: one[name]["auc"] for name in names} for one in of_model] for of_model in auc),
        num_differ=[
            int((differ(lists, best[0][0], best[1][0]) & (lists.domain == number)).sum())
            for number in range(len(names))
        ],
        pairs=shown(dataset, lists, best[0][0], best[1][0]),
        num_drawn=NUM_DRAWN,
    )


def held_out_lists(dataset: Dataset, settings: SampledNegatives) -> Lists:
    """A list for each user and domain with a known user's test positive of an item that training knows.

    Args:
        settings: `per_positive` items are drawn for a list, however many positives it has.
    """
    test = dataset.events["test"]
    domain, user = np.asarray(test.domain, np.int64), np.asarray(test.user_row, np.int64)
    item = np.asarray(test.item_row, np.int64)
    is_known = (user > 0) & (item > 0)
    domain, user, item = domain[is_known], user[is_known], item[is_known]
    known = taken(dataset, ("train", "valid", "test"))
    train = taken(dataset, ("train",))
    parts = []
    for number, name in enumerate(dataset.schema.domain_names):
        ours = domain == number
        users, first, count = np.unique(user[ours], return_index=True, return_counts=True)
        positives = np.split(item[ours], first[1:])
        drawn = sample_row_negatives(
            settings,
            Taken(users, item[ours][first], np.full(len(users), number), None),
            known,
            train.select(train.domain == number),
            everything=known.select(known.domain == number),
            num_items=dataset.num_items,
            rng=np.random.default_rng([settings.seed, *name.encode()]),
        )
        width = settings.per_positive + int(count.max(initial=0))
        items = np.full((len(users), width), -1, np.int64)
        items[:, : settings.per_positive] = drawn
        for row, own in enumerate(positives):
            items[row, settings.per_positive : settings.per_positive + len(own)] = own
        is_positive = (np.arange(width) >= settings.per_positive) & (items >= 0)
        order = np.argsort(np.where(items < 0, dataset.num_items, items), axis=1, kind="stable")
        parts.append((users, items[np.arange(len(users))[:, None], order], np.take_along_axis(is_positive, order, 1)))
    width = max(items.shape[1] for _, items, _ in parts)
    return Lists(
        np.concatenate([users for users, _, _ in parts]),
        np.repeat(np.arange(len(parts)), [len(users) for users, _, _ in parts]),
        np.concatenate([padded(items, width, -1) for _, items, _ in parts]),
        np.concatenate([padded(flags, width, False) for _, _, flags in parts]),
    )


def padded(values: np.ndarray, width: int, fill: int | bool) -> np.ndarray:
    """The columns, and others of one value up to a width."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=fill)


def taken(dataset: Dataset, splits: Sequence[str]) -> Taken:
    """The positives of some splits."""
    events = [one for split, one in dataset.events.items() if split in splits]
    user, item, domain = (
        np.concatenate([np.asarray(column, np.int64) for column in columns])
        for columns in zip(*((one.user_row, one.item_row, one.domain) for one in events), strict=True)
    )
    return Taken(user, item, domain, None)


@torch.inference_mode()
def score_lists(run: RankingRun, dataset: Dataset, lists: Lists) -> Float[Tensor, "list place"]:
    """The logit of every item of every list, as a test row; minus infinity past a list's end."""
    row, place = np.nonzero(lists.item_row >= 0)
    events = Events(
        user_row=lists.user_row[row],
        item_row=lists.item_row[row, place],
        domain=lists.domain[row],
        time=None,
        context={},
        candidates=None,
        fold=np.full(len(row), -1, np.int8),
    )
    reader = RankingReader(dataset, run.settings.ranking.fields)
    run.model.eval()
    scores = torch.full(lists.item_row.shape, -torch.inf)
    bounds = events.domain_bounds(dataset.num_domains)
    for domain in range(dataset.num_domains):
        for start in range(bounds[domain], bounds[domain + 1], BLOCK):
            rows = np.arange(start, min(start + BLOCK, bounds[domain + 1]))
            slices = DomainSlices.single(domain, len(rows), dataset.num_domains)
            logit = run.model(reader.read(events, rows, "test"), slices)
            scores[torch.from_numpy(row[rows]), torch.from_numpy(place[rows])] = logit
    return scores


def best_places(scores: Float[Tensor, "list place"], k: int) -> Int[np.ndarray, "list best"]:
    """The places of each list's k best, the best first; of equal scores the earlier place."""
    order: np.ndarray = scores.sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
    return order


def hits(lists: Lists, best: Sequence[Int[np.ndarray, "list best"]]) -> Float[Tensor, "seed list"]:
    """For each seed and list, 1 where a positive is among the best."""
    found = [np.take_along_axis(lists.is_positive, places, axis=1).any(axis=1) for places in best]
    return torch.from_numpy(np.stack(found)).double()


def differ(
    lists: Lists, ours: Int[np.ndarray, "list best"], theirs: Int[np.ndarray, "list best"]
) -> Bool[np.ndarray, " list"]:
    """Where the best of two models are not the same items, in whichever order."""
    items = [np.sort(np.take_along_axis(lists.item_row, places, axis=1), axis=1) for places in (ours, theirs)]
    is_other: np.ndarray = (items[0] != items[1]).any(axis=1)
    return is_other


def shown(
    dataset: Dataset, lists: Lists, base: Int[np.ndarray, "list best"], main: Int[np.ndarray, "list best"]
) -> list[Pair]:
    """Of each domain, the first users by id whose best are not the same items."""
    users, titles, pairs = dataset.vocabulary("user"), item_titles(dataset), []
    is_other = differ(lists, base, main)

    def listed(row: int, places: np.ndarray, others: np.ndarray) -> list[Listed]:
        return [
            Listed(titles[lists.item_row[row, p]], bool(lists.is_positive[row, p]), p in others)
            for p in places[row].tolist()
            if lists.item_row[row, p] >= 0
        ]

    for number, name in enumerate(dataset.schema.domain_names):
        rows = np.flatnonzero(is_other & (lists.domain == number)).tolist()
        for row in sorted(rows, key=lambda row: users[lists.user_row[row] - 1])[:NUM_SHOWN_USERS]:
            num_positives = int(lists.is_positive[row].sum())
            ours, theirs = listed(row, base, main[row]), listed(row, main, base[row])
            pairs.append(Pair(users[lists.user_row[row] - 1], name, num_positives, ours, theirs))
    return pairs
