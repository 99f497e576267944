"""Which positives are for training, validation and test.

Every function takes columns of equal length and gives a split number a row: TRAIN, VALID, TEST or DROPPED.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Num

TRAIN, VALID, TEST, DROPPED = 0, 1, 2, -1


@dataclass(frozen=True)
class Taken:
    """Who took what: a row is a positive; numbers of users, items and domains, and seconds where there is a clock."""

    user: Int[np.ndarray, " row"]
    item: Int[np.ndarray, " row"]
    domain: Int[np.ndarray, " row"]
    time: Num[np.ndarray, " row"] | None

    def pair(self) -> Int[np.ndarray, " row"]:
        """A number for each (user, item, domain)."""
        if not len(self.user):
            return np.zeros(0, np.int64)
        num_items, num_domains = int(self.item.max()) + 1, int(self.domain.max()) + 1
        assert (int(self.user.max()) + 1) * num_items * num_domains < 2**63
        pair: np.ndarray = (self.user.astype(np.int64) * num_items + self.item) * num_domains + self.domain
        return pair

    def select(self, rows: Int[np.ndarray, " chosen"] | Bool[np.ndarray, " row"]) -> "Taken":
        return Taken(
            self.user[rows], self.item[rows], self.domain[rows], None if self.time is None else self.time[rows]
        )


def split_by_time(time: Num[np.ndarray, " row"], *, valid: float, test: float) -> Int[np.ndarray, " row"]:
    """One clock for all users and domains: the latest `test` share is test, the latest `valid` share before it valid.

    Rows of one moment stay together, on the later side, so that each split ends before the next begins.

    Raises:
        ValueError: too many rows share one moment for three splits.
    """
    ordered = np.sort(time)
    num_test = max(1, round(len(time) * test))
    num_valid = max(1, round(len(time) * valid))
    if num_test + num_valid >= len(time):
        raise ValueError(f"{len(time)} rows are too few for a training, a validation and a test part")
    test_from = ordered[-num_test]
    before_test = ordered[: int(np.searchsorted(ordered, test_from))]
    num_valid = max(1, num_valid)
    if len(before_test) <= num_valid or before_test[-num_valid] == before_test[0]:
        raise ValueError("too many rows share one moment to cut three parts by time")
    valid_from = before_test[-num_valid]
    return np.where(time >= test_from, TEST, np.where(time >= valid_from, VALID, TRAIN)).astype(np.int8)


def split_last_out(taken: Taken, *, seed: int) -> Int[np.ndarray, " row"]:
    """Of each user's positives in a domain the last is test and the one before it valid, if there are three or more.

    Only the first row of a (user, item, domain) counts, later ones are DROPPED: a pair cannot be both learnt and
    asked for. Without a clock the two are random ones.
    """
    split = np.full(len(taken.user), DROPPED, np.int8)
    first = _first_of_pair(taken)
    split[first] = TRAIN
    ranked, from_end, num_pairs = _rank_from_end(taken.select(first), np.random.default_rng(seed))
    enough = num_pairs >= 3
    split[first[ranked[enough & (from_end == 0)]]] = TEST
    split[first[ranked[enough & (from_end == 1)]]] = VALID
    return split


def carve_validation(
    taken: Taken, split: Int[np.ndarray, " row"], *, users: float, seed: int
) -> Int[np.ndarray, " row"]:
    """Move one training positive of a share of each domain's users to validation: the last by time, else a random one.

    Users are those with two different training items or more in the domain. Other training rows of the moved pair
    are DROPPED.
    """
    split = split.copy()
    rng = np.random.default_rng(seed)
    train = np.flatnonzero(split == TRAIN)
    pair = taken.pair()
    last = train[_first_of_pair(taken.select(train), latest=True)]
    chosen = taken.select(last)
    ranked, from_end, num_pairs = _rank_from_end(chosen, rng)
    candidates = ranked[(from_end == 0) & (num_pairs >= 2)]
    carved = []
    for domain in np.unique(chosen.domain):
        ours = candidates[chosen.domain[candidates] == domain]
        num_carved = min(len(ours), max(1, round(len(ours) * users)))
        carved.append(np.sort(rng.choice(ours, size=num_carved, replace=False)))
    rows = last[np.concatenate(carved)] if carved else np.zeros(0, np.int64)
    split[train[np.isin(pair[train], pair[rows])]] = DROPPED
    split[rows] = VALID
    return split


def split_at_random(
    taken: Taken, names: Sequence[str], *, valid: float, test: float, seed: int
) -> Int[np.ndarray, " row"]:
    """Of each domain's rows, seeded random shares are valid and test, whatever other domains there are.

    Args:
        names: of the domains; a domain's draw depends on its name and its rows alone.
    """
    split = np.full(len(taken.user), TRAIN, np.int8)
    for number, name in enumerate(names):
        ours = np.flatnonzero(taken.domain == number)
        keys = (taken.item[ours], taken.user[ours])
        ours = ours[np.lexsort(keys if taken.time is None else (taken.time[ours], *keys))]
        shuffled = np.random.default_rng([seed, *name.encode()]).permutation(ours)
        num_test, num_valid = (max(1, round(share * len(ours))) if len(ours) > 2 else 0 for share in (test, valid))
        split[shuffled[:num_test]] = TEST
        split[shuffled[num_test : num_test + num_valid]] = VALID
    return split


def split_cold_users(
    taken: Taken, *, domain: int, source: int, min_rows: int, valid: float, test: float, seed: int
) -> Int[np.ndarray, " row"]:
    """All rows in `domain` of a seeded share of users are valid or test; drawn among those with enough in `source`.

    Raises:
        ValueError: there are fewer than three such users.
    """
    num_users = int(taken.user.max(initial=0)) + 1
    in_domain = np.bincount(taken.user[taken.domain == domain], minlength=num_users)
    in_source = np.bincount(taken.user[taken.domain == source], minlength=num_users)
    eligible = np.flatnonzero((in_domain > 0) & (in_source >= min_rows))
    if len(eligible) < 3:
        raise ValueError(f"{len(eligible)} users have {min_rows} source rows or more and a row in the domain")
    drawn = np.random.default_rng(seed).permutation(eligible)
    num_test, num_valid = (max(1, round(share * len(eligible))) for share in (test, valid))
    part = np.full(num_users, TRAIN, np.int8)
    part[drawn[:num_test]] = TEST
    part[drawn[num_test : num_test + num_valid]] = VALID
    return np.where(taken.domain == domain, part[taken.user], TRAIN).astype(np.int8)


def drop_repeats(
    taken: Taken, given: Int[np.ndarray, " row"] | None, is_positive: Bool[np.ndarray, " row"] | None = None
) -> Int[np.ndarray, " kept"]:
    """Ascending rows that stay when a (user, item, domain) of one moment, or without a clock of any, counts once.

    Of equal rows the one of the earliest split stays, of these a positive, else the first.
    """
    rank = np.zeros(len(taken.user), np.int8) if given is None else given
    if is_positive is not None:
        rank = rank * np.int8(2) + ~is_positive
    pair = taken.pair()
    keys = (rank, pair) if taken.time is None else (rank, taken.time, pair)
    order = np.lexsort(keys)
    same = pair[order][1:] == pair[order][:-1]
    if taken.time is not None:
        same &= taken.time[order][1:] == taken.time[order][:-1]
    return np.sort(order[np.concatenate([[True], ~same])[: len(order)]])


def drop_taken_before(taken: Taken, split: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """Drop held-out rows whose (user, item, domain) stands in an earlier split, or earlier in the same one.

    Training keeps a pair's repeats at other times; a held-out positive is asked for once and was never learnt.
    """
    kept = np.flatnonzero(split != DROPPED)
    chosen, pair = taken.select(kept), taken.pair()[kept]
    order = np.lexsort((split[kept], pair) if chosen.time is None else (chosen.time, split[kept], pair))
    repeated = np.concatenate([[False], pair[order][1:] == pair[order][:-1]])[: len(order)]
    rows = kept[order]
    result = split.copy()
    result[rows[repeated & (split[rows] != TRAIN)]] = DROPPED
    return result


def _first_of_pair(taken: Taken, *, latest: bool = False) -> Int[np.ndarray, " pair"]:
    pair = taken.pair()
    order = np.argsort(pair, kind="stable") if taken.time is None else np.lexsort((taken.time, pair))
    changes = pair[order][1:] != pair[order][:-1]
    edge = np.concatenate([changes, [True]]) if latest else np.concatenate([[True], changes])
    return np.sort(order[edge[: len(order)]])


def _rank_from_end(
    taken: Taken, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Rows by domain and user, in time order or at random; the place of each from its group's end; the group's size."""
    if taken.time is None:
        # Random numbers go to rows in the order of their content, so that the order of the file does not matter.
        by_content = np.lexsort((taken.item, taken.user, taken.domain))
        chance = np.empty(len(by_content))
        chance[by_content] = rng.random(len(by_content))
        ranked = np.lexsort((chance, taken.user, taken.domain))
    else:
        ranked = np.lexsort((taken.item, taken.time, taken.user, taken.domain))
    user, domain = taken.user[ranked], taken.domain[ranked]
    starts = np.flatnonzero(
        np.concatenate([[True], (user[1:] != user[:-1]) | (domain[1:] != domain[:-1])])[: len(user)]
    )
    sizes = np.diff(np.append(starts, len(user)))
    group_end = np.repeat(starts + sizes, sizes)
    return ranked, group_end - 1 - np.arange(len(user)), np.repeat(sizes, sizes)
