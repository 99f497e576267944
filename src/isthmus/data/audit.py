"""Proof on a dataset that it is what it says: intact, split without leaks, and counted on training rows alone."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from isthmus.data.dataset import SPLITS, Column, Dataset, Events, Lists, Split, file_checksum, read_manifest
from isthmus.data.splits import TRAIN, VALID, Taken
from isthmus.schema import Schema

BLOCK = 65_536
MEAN_TOLERANCE = 1e-4  # in standard deviations; float32 rounding is a thousand times less


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; `detail` says what was looked at, or the first thing that is wrong."""

    check: str
    ok: bool
    detail: str


def audit(path: Path) -> list[Finding]:
    """Check a dataset folder; every check gives one finding.

    Raises:
        DatasetError: there is no dataset that can be opened.
    """
    findings = [_files_are_intact(path)]
    dataset = Dataset.open(path)
    checks: tuple[Callable[[Dataset], Finding], ...] = (
        _rows_are_in_range,
        _events_are_sorted,
        _held_out_pairs_are_new,
        _history_knows_no_held_out_pair,
        _history_is_complete,
        _time_runs_forward,
        _vocabularies_are_of_training,
        _numbers_are_standardised_on_training,
        _item_counts_are_of_training,
        _candidates_are_fair,
        _impressions_are_sound,
    )
    first = [_rows_are_in_range(dataset), _impressions_are_sound(dataset)]
    if not all(finding.ok for finding in first):
        # The other checks would index with rows that do not exist.
        return findings + [finding for finding in first if not finding.ok]
    return findings + [check(dataset) for check in checks]


def _files_are_intact(path: Path) -> Finding:
    manifest = read_manifest(path)
    wrong = [
        name
        for name, known in manifest["files"].items()
        if not (path / name).is_file() or file_checksum(path / name) != known["sha256"]
    ]
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    strange = sorted(present - set(manifest["files"]) - {"manifest.json"})
    if Schema.model_validate(manifest["schema"]).hash() != manifest["schema_hash"]:
        wrong.append("manifest.json (schema_hash)")
    return Finding(
        "files are intact",
        not wrong and not strange,
        f"{len(manifest['files'])} checksums"
        if not wrong and not strange
        else "; ".join([*(f"{name}: changed or missing" for name in wrong), *(f"{name}: unknown" for name in strange)]),
    )


def _rows_are_in_range(dataset: Dataset) -> Finding:
    wrong = []
    columns: list[tuple[str, Column, int]] = []
    for name in SPLITS:
        events = dataset.events[name]
        columns += [
            (f"events/{name}/user", events.user_row, dataset.num_users),
            (f"events/{name}/item", events.item_row, dataset.num_items),
            (f"events/{name}/domain", events.domain, dataset.num_domains),
        ]
        if events.candidates is not None:
            columns.append((f"events/{name}/candidates", np.asarray(events.candidates) + 1, dataset.num_items + 1))
    columns.append(("history/item", dataset.history.item_row, dataset.num_items))
    columns.append(("history/domain", dataset.history.domain, dataset.num_domains))
    for label, column, size in columns:
        if column.size and (int(column.min()) < 0 or int(column.max()) >= size):
            wrong.append(f"{label}: {int(column.min())}..{int(column.max())}, allowed are 0..{size - 1}")
    offsets = np.asarray(dataset.history.offsets)
    ends = np.asarray(dataset.history.train_end)
    if (
        len(offsets) != dataset.num_users + 1
        or offsets[0] != 0
        or offsets[-1] != len(dataset.history.item_row)
        or (np.diff(offsets) < 0).any()
        or (ends < offsets[:-1]).any()
        or (ends > offsets[1:]).any()
    ):
        wrong.append("history/offsets: do not fit the history")
    return Finding("rows are in range", not wrong, "; ".join(wrong) or f"{len(columns)} columns")


def _events_are_sorted(dataset: Dataset) -> Finding:
    wrong = []
    for name in SPLITS:
        events = dataset.events[name]
        keys = [events.domain, events.user_row, *([] if events.time is None else [events.time])]
        is_equal = np.ones(max(0, events.num_rows - 1), bool)
        for key in keys:
            values = np.asarray(key)
            if (is_equal & (values[1:] < values[:-1])).any():
                wrong.append(name)
                break
            is_equal &= values[1:] == values[:-1]
    return Finding("events are sorted by domain, user and time", not wrong, ", ".join(wrong) or "all splits")


def _held_out_pairs_are_new(dataset: Dataset) -> Finding:
    pairs = {name: _pairs(dataset, _taken(dataset.events[name])) for name in SPLITS}
    wrong = []
    compared: tuple[tuple[Split, Split], ...] = (("valid", "train"), ("test", "train"), ("test", "valid"))
    for held_out, known in compared:
        found = np.flatnonzero(_is_in(pairs[held_out], pairs[known]))
        if len(found):
            events = dataset.events[held_out]
            wrong.append(
                f"{len(found)} {held_out} pairs are in {known}, first: {_name(dataset, events, int(found[0]))}"
            )
    total = len(pairs["valid"]) + len(pairs["test"])
    return Finding("no held-out pair is in an earlier split", not wrong, "; ".join(wrong) or f"{total} held-out pairs")


def _history_knows_no_held_out_pair(dataset: Dataset) -> Finding:
    owner, part = _history_parts(dataset)
    taken = Taken(owner, np.asarray(dataset.history.item_row), np.asarray(dataset.history.domain), None)
    pairs = _pairs(dataset, taken, keep_unseen=True)
    wrong = []
    compared: tuple[tuple[Split, Column], ...] = (("valid", pairs[part == TRAIN]), ("test", pairs))
    for name, known in compared:
        events = dataset.events[name]
        found = np.flatnonzero(_is_in(_pairs(dataset, _taken(events)), known))
        if len(found):
            wrong.append(f"{len(found)} {name} pairs, first: {_name(dataset, events, int(found[0]))}")
    detail = "; ".join(wrong) or f"{len(pairs)} history entries"
    return Finding("no history holds a pair that is asked for", not wrong, detail)


def _history_is_complete(dataset: Dataset) -> Finding:
    owner, part = _history_parts(dataset)
    stored = [part, owner, dataset.history.item_row, dataset.history.domain]
    wanted: list[list[Column]] = [[], [], [], []]
    times: list[Column] = []
    for number, events in ((TRAIN, dataset.events["train"]), (VALID, dataset.events["valid"])):
        rows = np.flatnonzero((np.asarray(events.user_row) > 0) & (np.asarray(events.item_row) > 0))
        values = (np.full(len(rows), number), events.user_row[rows], events.item_row[rows], events.domain[rows])
        for column, value in zip(wanted, values, strict=True):
            column.append(value)
        if events.time is not None:
            times.append(events.time[rows])
    time = dataset.history.time
    known = [np.concatenate(column) for column in wanted] + ([np.concatenate(times)] if time is not None else [])
    ours = [np.asarray(column) for column in stored] + ([np.asarray(time)] if time is not None else [])
    same = len(known[0]) == len(ours[0]) and all(
        np.array_equal(a[np.lexsort(known)], b[np.lexsort(ours)]) for a, b in zip(known, ours, strict=True)
    )
    ordered = True
    if time is not None:
        same_part = (owner[1:] == owner[:-1]) & (part[1:] == part[:-1])
        ordered = not bool((same_part & (np.diff(np.asarray(time)) < 0)).any())
    detail = f"{len(ours[0])} entries, training and validation have {len(known[0])}"
    return Finding("histories are the training and validation positives, in order", same and ordered, detail)


def _time_runs_forward(dataset: Dataset) -> Finding:
    """By time, all of a split is before the next; of `last_out`, each user's rows in a domain are.

    Of the other splits, where there is a clock, training is before test; validation may be drawn from all of training.
    """
    check = "each split ends before the next begins"
    train, valid, test = (dataset.events[name] for name in SPLITS)
    by = dataset.schema.split.by
    pairs = [("train", train, "test", test)]
    if by in ("time", "last_out"):
        pairs = [("train", train, "valid", valid), ("valid", valid, "test", test)]

    def clock_of(events: Events) -> Column:
        """Which clock each row is on: one for all, or that of its user and domain."""
        if by == "last_out":
            return events.user_row.astype(np.int64) * dataset.num_domains + events.domain
        return np.zeros(events.num_rows, np.int64)

    wrong = []
    for earlier, before, later, after in pairs:
        if before.time is None or after.time is None:
            return Finding(check, True, f"not asked of a split by {by!r} without a clock")
        end = np.full(dataset.num_users * dataset.num_domains, -np.inf)
        np.maximum.at(end, clock_of(before), before.time)
        ends = end[clock_of(after)]
        is_wrong = ends >= after.time if by == "time" else ends > after.time
        if by == "last_out":
            is_wrong &= after.user_row > 0
        if is_wrong.any():
            row = int(np.flatnonzero(is_wrong)[0])
            wrong.append(f"{earlier} ends at {ends[row]:.0f}, {int(is_wrong.sum())} {later} rows are not after that")
    return Finding(check, not wrong, "; ".join(wrong) or f"by {by!r}, over all domains")


def _training_rows(dataset: Dataset) -> Events:
    """The rows of the log that are training: the labelled ones where it has negatives, else the positives."""
    ranking = dataset.schema.ranking
    if dataset.impressions is None or ranking is None or ranking.negatives != "explicit":
        return dataset.events["train"]
    return dataset.impressions["train"]


def _impressions_are_sound(dataset: Dataset) -> Finding:
    check = "labelled rows are in order, of both labels, each split over before the next"
    if dataset.impressions is None:
        return Finding(check, True, "no labelled rows")
    wrong = []
    for split, rows in dataset.impressions.items():
        label = np.asarray(rows.label)
        if not np.isin(label, (0, 1)).all():
            wrong.append(f"{split}: a label is neither 0 nor 1")
        elif split == "train" and len(np.unique(label)) < 2:
            wrong.append(f"{split}: rows of one label only")
        for name, column, size in (
            ("user", rows.user_row, dataset.num_users),
            ("item", rows.item_row, dataset.num_items),
            ("domain", rows.domain, dataset.num_domains),
        ):
            if len(column) and not 0 <= int(column.min()) <= int(column.max()) < size:
                wrong.append(f"{split}: a {name} row is out of range")
        if (np.diff(np.asarray(rows.domain)) < 0).any():
            wrong.append(f"{split}: not sorted by domain")
    if dataset.schema.split.by == "time":
        times = [np.asarray(dataset.impressions[split].time) for split in SPLITS]
        for earlier, later in pairwise(times):
            if len(earlier) and len(later) and earlier.max() >= later.min():
                wrong.append("a split begins before the one before it is over")
    counts = ", ".join(f"{split} {rows.num_rows:,}" for split, rows in dataset.impressions.items())
    return Finding(check, not wrong, "; ".join(wrong) or counts)


def _vocabularies_are_of_training(dataset: Dataset) -> Finding:
    train = _training_rows(dataset)
    used = {name: np.zeros(size, bool) for name, size in dataset.vocabulary_sizes.items()}
    used["user"][train.user_row] = True
    used["item"][train.item_row] = True
    for field in dataset.schema.fields:
        is_value = field.kind in ("categorical", "multi_valued", "sequence")
        if not is_value or field.vocabulary_name in ("user", "item"):
            continue
        if field.side == "row":
            assert dataset.impressions is not None
            column = dataset.impressions["train"].context[field.name]
        else:
            column = train.context[field.name] if field.side == "context" else dataset.features[field.name]
        used[field.vocabulary_name][column.values if isinstance(column, Lists) else column] = True
    wrong = []
    for name, is_used in used.items():
        values = dataset.vocabulary(name)
        if len(values) + 1 != len(is_used):
            wrong.append(f"{name}: {len(values)} values, the manifest says {len(is_used) - 1}")
        elif not is_used[1:].all():
            wrong.append(f"{name}: no training row has {values[int(np.flatnonzero(~is_used[1:])[0])]!r}")
        elif any(later <= earlier for earlier, later in pairwise(values)):
            wrong.append(f"{name}: not in ascending order")
    return Finding("vocabularies hold what training rows hold", not wrong, "; ".join(wrong) or ", ".join(sorted(used)))


def _numbers_are_standardised_on_training(dataset: Dataset) -> Finding:
    wrong, looked_at = [], []
    names = dataset.schema.domain_names
    train = _training_rows(dataset)
    for field in dataset.schema.fields:
        # A number of side `row` stands once for each drawn negative too; its scale is of the log's rows.
        is_drawn = field.side == "row" and dataset.impressions is not None and train is not dataset.impressions["train"]
        if not (field.kind == "statistic" or (field.kind == "number" and not is_drawn)):
            continue
        looked_at.append(field.name)
        has_field = np.array([field.domains is None or name in field.domains for name in names])
        if field.side in ("context", "row"):
            rows = train
            if field.kind == "statistic":
                assert dataset.impressions is not None
                rows = dataset.impressions["train"]
            column = rows.context[field.name]
            is_training: Column = has_field[rows.domain]
        else:
            column = dataset.features[field.name]
            side_row = train.user_row if field.side == "user" else train.item_row
            occurs = np.zeros((len(names), dataset.num_users if field.side == "user" else dataset.num_items), bool)
            occurs[train.domain, side_row] = True
            occurs &= has_field[:, None]
            is_training = occurs.reshape(-1) if dataset.is_by_domain(field) else np.asarray(occurs.any(axis=0))
        assert not isinstance(column, Lists)
        # A missing value is stored as 0, the mean, so that the mean over training is 0 with or without it.
        mean = float(column[is_training].astype(np.float64).mean()) if is_training.any() else 0.0
        if abs(mean) > MEAN_TOLERANCE or not np.isfinite(column).all():
            wrong.append(f"{field.name}: mean {mean:.6f} over training, 0 is wanted")
    return Finding(
        "numbers are standardised on training", not wrong, "; ".join(wrong) or ", ".join(looked_at) or "no number field"
    )


def _item_counts_are_of_training(dataset: Dataset) -> Finding:
    train = dataset.events["train"]
    count = np.zeros_like(dataset.item_count)
    np.add.at(count, (np.asarray(train.domain), np.asarray(train.item_row)), 1)
    ok = np.array_equal(count, dataset.item_count)
    detail = f"{int(np.asarray(dataset.item_count).sum())} counted, training has {train.num_rows}"
    return Finding("item counts are those of training", ok, detail)


def _candidates_are_fair(dataset: Dataset) -> Finding:
    wrong: list[str] = []
    known = np.sort(_pairs(dataset, _taken(dataset.events["train"])))
    lists = 0
    for name in SPLITS:
        events = dataset.events[name]
        if events.candidates is None:
            continue
        lists += events.num_rows
        for start in range(0, events.num_rows, BLOCK):
            rows = slice(start, start + BLOCK)
            candidates = np.asarray(events.candidates[rows]).astype(np.int64)
            own = np.asarray(events.item_row[rows])[:, None]
            times = (candidates == own).sum(axis=1)
            shown = np.where(candidates < 0, np.iinfo(np.int64).max, candidates)
            user = np.repeat(np.asarray(events.user_row[rows])[:, None], candidates.shape[1], axis=1)
            domain = np.repeat(np.asarray(events.domain[rows])[:, None], candidates.shape[1], axis=1)
            flat = Taken(user.ravel(), np.maximum(candidates, 0).ravel(), domain.ravel(), None)
            is_known = _is_in(_pairs(dataset, flat), known).reshape(candidates.shape)
            # Row 0 stands for every unseen item, so a list may hold it more than once.
            problems = {
                "do not hold their positive once": (times != 1) & ((own[:, 0] > 0) | (times == 0)),
                "are not in ascending order": (np.diff(shown, axis=1) < 0).any(axis=1),
                "hold an item twice": ((np.diff(candidates, axis=1) == 0) & (candidates[:, 1:] > 0)).any(axis=1),
                "hold a training item of the user": is_known.any(axis=1),
            }
            for problem, is_wrong in problems.items():
                if is_wrong.any():
                    first = _name(dataset, events, start + int(np.flatnonzero(is_wrong)[0]))
                    wrong.append(f"{int(is_wrong.sum())} {name} lists {problem}, first: {first}")
    detail = "; ".join(wrong) or (f"{lists} lists" if lists else "no lists")
    return Finding("candidate lists hold the positive once and nothing learnt", not wrong, detail)


def _taken(events: Events) -> Taken:
    return Taken(np.asarray(events.user_row), np.asarray(events.item_row), np.asarray(events.domain), None)


def _pairs(dataset: Dataset, taken: Taken, *, keep_unseen: bool = False) -> Column:
    """A number for each (user, item, domain); a negative one of its own where user or item is unseen."""
    user, item = taken.user.astype(np.int64), taken.item.astype(np.int64)
    pair = (user * dataset.num_items + item) * dataset.num_domains + taken.domain
    return pair if keep_unseen else np.where((user > 0) & (item > 0), pair, -1 - np.arange(len(pair)))


def _is_in(pairs: Column, known: Column) -> Column:
    if not len(known):
        return np.zeros(len(pairs), bool)
    ordered = np.sort(known)
    place = np.minimum(np.searchsorted(ordered, pairs), len(ordered) - 1)
    found: Column = (ordered[place] == pairs) & (pairs >= 0)
    return found


def _history_parts(dataset: Dataset) -> tuple[Column, Column]:
    """Of each history entry its user row, and whether it stands in the TRAIN or the VALID part."""
    offsets, ends = np.asarray(dataset.history.offsets), np.asarray(dataset.history.train_end)
    owner = np.repeat(np.arange(dataset.num_users), np.diff(offsets))
    return owner, np.where(np.arange(len(owner)) < ends[owner], TRAIN, VALID)


def _name(dataset: Dataset, events: Events, row: int) -> str:
    user, item = int(events.user_row[row]), int(events.item_row[row])
    texts = [
        dataset.vocabulary(name)[number - 1] if number else "(unseen)"
        for name, number in (("user", user), ("item", item))
    ]
    domain = dataset.schema.domain_names[int(events.domain[row])]
    return f"user {texts[0]!r}, item {texts[1]!r}, domain {domain!r}"
