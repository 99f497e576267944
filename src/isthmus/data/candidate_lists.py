"""The candidate lists of held-out positives: those that files give, and those drawn here."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from isthmus.data.candidates import sample_negatives, sort_lists
from isthmus.data.dataset import Split
from isthmus.data.events import EventTable, domain_number, required_text
from isthmus.data.splits import TEST, TRAIN, VALID
from isthmus.data.tables import VALUE_END, Connection, open_source, reading
from isthmus.errors import InputError
from isthmus.schema import Candidates, Schema


def build_candidates(
    connection: Connection,
    schema: Schema,
    folder: Path,
    events: EventTable,
    split: Int[np.ndarray, " row"],
    item_row: Int[np.ndarray, " row"],
    row_of_item: Int[np.ndarray, " item"],
    item_count: Int[np.ndarray, "domain item_row"],
) -> Mapping[Split, Int[np.ndarray, "held_out place"]]:
    """Lists of the validation and the test rows, in the order of `events`; none where none are declared.

    Args:
        folder: what the names of candidate files are relative to.
        events: users, items and domains by the numbers of their texts.
        item_row: row in the item vocabulary of each event.
        row_of_item: row in the item vocabulary of each item of the log.

    Raises:
        InputError: a file's columns or names do not fit, or a test positive has no list or is not in it.
    """
    declared = schema.candidates
    if declared is None:
        return {}
    lists: dict[Split, np.ndarray] = {}
    for number, name in ((VALID, "valid"), (TEST, "test")):
        rows = np.flatnonzero(split == number)
        if number == TEST and declared.files:
            lists["test"] = _given_lists(connection, schema, declared, folder, events.select(rows), row_of_item)
        else:
            # A list of the test part leaves out what the user took up to then; of validation, what up to validation.
            known = (split == TRAIN) | (split == VALID) | (split == number)
            rng = np.random.default_rng([declared.seed, number])
            drawn = _drawn_lists(schema, declared.sampled, events, item_row, known, rows, item_count, rng)
            lists["valid" if name == "valid" else "test"] = drawn
    return lists


def _drawn_lists(
    schema: Schema,
    count: int,
    events: EventTable,
    item_row: np.ndarray,
    known: np.ndarray,
    rows: np.ndarray,
    item_count: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    num_items = item_count.shape[1]
    user = events.taken.user.astype(np.int64)
    forbidden = np.unique(user[known] * num_items + item_row[known])
    lists = np.full((len(rows), count + 1), -1, np.int64)
    lists[:, 0] = item_row[rows]
    names = schema.domain_names
    for domain, name in enumerate(names):
        ours = np.flatnonzero(events.taken.domain[rows] == domain)
        sources = [names.index(source) for source in schema.corpus_domains(name)]
        corpus = np.flatnonzero(item_count[sources].sum(axis=0))
        lists[ours, 1:] = sample_negatives(
            corpus, forbidden, user[rows[ours]], num_items=num_items, count=count, rng=rng
        )
    return sort_lists(lists)


def _given_lists(
    connection: Connection,
    schema: Schema,
    declared: Candidates,
    folder: Path,
    test: EventTable,
    row_of_item: np.ndarray,
) -> np.ndarray:
    source = open_source(connection, declared.files, folder, "candidates").loaded(["user", "domain", "items"])
    lists = source.table.select(
        user=required_text(source, "user", "user"),
        items=source.joined("items", "items", ","),
        domain=domain_number(source, "domain", schema, "domain"),
    )
    pairs = lists.select("user", "domain", item=lists["items"].split(VALUE_END).unnest()).distinct()
    users, items = test.user_values, test.item_values
    coded = pairs.inner_join(users, pairs.user == users.value).select("domain", "item", user="code")
    coded = coded.left_join(items, coded["item"] == items.value).select("user", "domain", item="code")
    with reading(source.files):
        table = coded.mutate(item=coded["item"].fill_null(-1)).order_by("user", "domain", "item").to_pyarrow()
    user, domain, item = (table[name].to_numpy().astype(np.int64) for name in ("user", "domain", "item"))

    num_domains, num_items = len(schema.domains), len(row_of_item)
    list_key = user * num_domains + domain
    wanted_key = test.taken.user.astype(np.int64) * num_domains + test.taken.domain
    starts, ends = np.searchsorted(list_key, wanted_key), np.searchsorted(list_key, wanted_key, side="right")
    _refuse_missing(test, starts == ends, schema, source.files[0], "has no candidate list")
    pair_key = list_key * (num_items + 1) + item + 1
    wanted = wanted_key * (num_items + 1) + test.taken.item + 1
    place = np.minimum(np.searchsorted(pair_key, wanted), len(pair_key) - 1)
    _refuse_missing(test, pair_key[place] != wanted, schema, source.files[0], "is not in its user's candidate list")

    lengths = ends - starts
    result = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    code = item[np.repeat(starts, lengths) + column]
    result[row, column] = np.where(code < 0, 0, row_of_item[code])
    return sort_lists(result)


def _refuse_missing(test: EventTable, is_missing: np.ndarray, schema: Schema, file: Path, problem: str) -> None:
    if not is_missing.any():
        return
    row = int(np.flatnonzero(is_missing)[0])
    raise InputError(
        f"{file}: the test positive of user {test.users[int(test.taken.user[row])].as_py()!r}, item "
        f"{test.items[int(test.taken.item[row])].as_py()!r}, domain "
        f"{schema.domain_names[int(test.taken.domain[row])]!r} {problem} ({int(is_missing.sum())} of "
        f"{len(is_missing)} test positives); complete the lists, or leave out candidates.files to have them drawn"
    )
