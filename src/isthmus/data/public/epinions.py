"""Epinions: ratings of items in 27 categories, a category being a domain; a log with real negatives and no clock.

Read as Parquet (`ratings.parquet`: user, item, category, rating; `categories.tsv`: category, name), or as the MATLAB
file `rating.mat` in which it was published (columns user, item, category, rating first).
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from scipy.io import loadmat

from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError, did_you_mean, joined_names

NAME = "epinions"
POSITIVE_RATING = 4
FEWEST_OF_A_LABEL = 50  # with fewer a tenth of the rows may have none


def ingest_epinions(
    source: Path,
    out: Path,
    *,
    domains: Sequence[str] | None = None,
    rest: str | None = None,
    split: Mapping[str, Any] | None = None,
    statistics: bool = False,
    adjusted: bool = False,
    seed: int = 0,
) -> Path:
    """Write `out`/{events.parquet, log.yaml}; gives the path of log.yaml.

    Args:
        domains: names of the categories to take, in that order; None: all, save those with fewer than fifty ratings of
            either label, which a warning names: what is held out of them could not judge a click model.
        rest: the name of one more domain, last, which is all categories that `domains` does not name; None: these are
            left out.
        split: the declaration's `split`; None: seeded random rows, 8:1:1.
        statistics: declares counts and means of labels and of ratings, of the user, in the row's domain and elsewhere,
            and of the item.
        adjusted: declares, beside these, each mean after the other side is allowed for: an item's after how generous
            its users are in all domains, a user's after what its items usually get.
        seed: of the default split.

    Raises:
        InputError: a file is missing or not what it should be, a category is not in it, or none has enough ratings.
    """
    ratings, names = _parquet(source) if (source / "ratings.parquet").is_file() else _matlab(source)
    # In the order of the numbers: dictionaries are looked up by value.
    numbers = pa.array(list(names), pa.int64())
    category = pa.array(list(names.values())).take(pc.index_in(ratings["category"].cast(pa.int64()), numbers))
    chosen = (
        with_enough_of_both_labels(source, names.values(), category, ratings["rating"])
        if domains is None
        else list(domains)
    )
    for name in chosen:
        if name not in names.values():
            raise InputError(f"{source}: no category {name!r}{did_you_mean(name, names.values())}")
    if rest in chosen:
        raise InputError(f"{source}: rest: {rest!r} is the name of a chosen category too; give another")
    table = pa.table(
        {
            "user_id": ratings["user"].cast(pa.int64()).cast(pa.string()),
            "item_id": ratings["item"].cast(pa.int64()).cast(pa.string()),
            "category": category,
            "rating": ratings["rating"].cast(pa.int64()),
        }
    )
    is_chosen = pc.is_in(table["category"], pa.array(chosen))
    if rest is None:
        table = table.filter(is_chosen)
    else:
        table = table.set_column(2, "category", pc.if_else(is_chosen, table["category"], rest))
        chosen.append(rest)
    with new_log_folder(out, NAME) as temporary:
        pq.write_table(table, temporary / "events.parquet")
        content = _declaration(
            chosen, split or {"by": "random", "seed": seed}, statistics=statistics, adjusted=adjusted
        )
        write_declaration(content, temporary)
    return out / DECLARATION


def with_enough_of_both_labels(
    source: Path, names: Iterable[str], category: pa.ChunkedArray, rating: pa.ChunkedArray
) -> list[str]:
    """The categories that have enough positives and negatives; a warning names the others."""
    is_positive = pc.greater_equal(rating, POSITIVE_RATING)
    positives, negatives = (
        Counter(category.filter(mask).to_pylist()) for mask in (is_positive, pc.invert(is_positive))
    )
    enough = [name for name in names if min(positives[name], negatives[name]) >= FEWEST_OF_A_LABEL]
    if not enough:
        raise InputError(
            f"{source}: no category has {FEWEST_OF_A_LABEL} positives (ratings of {POSITIVE_RATING} or more) and as "
            "many negatives, of which some could be held out; give the whole data set, not a sample of it"
        )
    if left_out := [f"{name} ({positives[name]}, {negatives[name]})" for name in names if name not in enough]:
        warnings.warn(
            f"{source}: left out, with fewer than {FEWEST_OF_A_LABEL} positives or negatives: {', '.join(left_out)}",
            stacklevel=3,
        )
    return enough


def _parquet(source: Path) -> tuple[pa.Table, dict[int, str]]:
    file = source / "categories.tsv"
    if not file.is_file():
        raise InputError(f"{file}: missing; it names the categories (columns category and name)")
    listed = pacsv.read_csv(file, parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False)).to_pydict()
    if set(listed) != {"category", "name"}:
        raise InputError(f"{file}: columns category and name are wanted, it has {joined_names(listed)}")
    table = pq.read_table(source / "ratings.parquet")
    if missing := {"user", "item", "category", "rating"} - set(table.column_names):
        raise InputError(f"{source / 'ratings.parquet'}: no column {sorted(missing)[0]!r}")
    return table, dict(zip(listed["category"], listed["name"], strict=True))


def _matlab(source: Path) -> tuple[pa.Table, dict[int, str]]:
    file = source / "rating.mat"
    if not file.is_file():
        raise InputError(f"{source}: neither ratings.parquet nor rating.mat; give the folder that holds one")
    content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    matrix = next((v for v in content.values() if isinstance(v, np.ndarray) and v.ndim == 2 and v.shape[1] >= 4), None)
    if matrix is None:
        raise InputError(f"{file}: no matrix of four columns or more (user, item, category, rating)")
    columns = ("user", "item", "category", "rating")
    table = pa.table({name: pa.array(matrix[:, place].astype(np.int64)) for place, name in enumerate(columns)})
    return table, {number: f"category {number}" for number in sorted(set(table["category"].to_pylist()))}


def _declaration(
    domains: Sequence[str], split: Mapping[str, Any], *, statistics: bool, adjusted: bool
) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [
        {"name": "user_id", "side": "user", "kind": "id"},
        {"name": "item_id", "side": "item", "kind": "id"},
    ]
    # An item is in one category, save a few hundred: what other domains say of it would be nothing.
    for of, scope in (("user", "own"), ("user", "other"), ("item", "own")):
        about = {"side": "row", "kind": "statistic", "of": of, "scope": scope}
        if statistics:
            fields += [
                {"name": f"{of}_mean_{scope}", **about, "value": "mean"},
                {"name": f"{of}_rating_{scope}", **about, "value": "mean", "column": "rating"},
                {"name": f"{of}_count_{scope}", **about, "value": "count"},
            ]
        if adjusted:
            fields += [
                {"name": f"{of}_adjusted_mean_{scope}", **about, "value": "adjusted_mean"},
                {"name": f"{of}_adjusted_rating_{scope}", **about, "value": "adjusted_mean", "column": "rating"},
            ]
    return {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "category",
            "positive": {"column": "rating", "at_least": POSITIVE_RATING},
        },
        "domains": {name: {} for name in domains},
        "fields": fields,
        "split": dict(split),
        "ranking": {"negatives": "explicit"},
    }
