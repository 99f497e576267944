"""Epinions: ratings of items in 27 categories, a category being a domain; a log with real negatives.

Read as Parquet (`ratings.parquet`: user, item, category, rating, and `time` where it has one; `categories.tsv`:
category, name), or as a MATLAB file in which it was published: `rating_with_timestamp.mat`, else `rating.mat` (columns
user, item, category, rating, helpfulness, time point; the last two may be missing from `rating.mat`).
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.io import loadmat

from isthmus.data.public.arrow_columns import read_parquet, refuse_rows, seconds, whole_numbers
from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError, did_you_mean, joined_names

NAME = "epinions"
POSITIVE_RATING = 4
RATINGS = (1, 5)
COLUMNS = ("user", "item", "category", "rating")
WHOLE = re.compile(r"\s*(-?\d{1,18})(?:\.0*)?\s*")
TIME_PLACE = 5  # of a published matrix, after the helpfulness
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

    Where the ratings have a time it is the log's clock, else there is none.

    Args:
        domains: names of the categories to take, in that order; None: all, save those with fewer than fifty ratings of
            either label, which a warning names: what is held out of them could not judge a click model.
        rest: the name of one more domain, last, which is all categories that `domains` does not name; None: these are
            left out.
        split: the declaration's `split`; None: 8:1:1, by time, or without a clock seeded random rows.
        statistics: declares counts and means of labels and of ratings, of the user, in the row's domain and elsewhere,
            and of the item.
        adjusted: declares, beside these, each mean after the other side is allowed for: an item's after how generous
            its users are in all domains, a user's after what its items usually get.
        seed: of the default split without a clock.

    Raises:
        InputError: a file is missing or not what it should be, a value is not what its column holds, a category is not
            in it, or none has enough ratings.
    """
    ratings, names = _parquet(source) if (source / "ratings.parquet").is_file() else _matlab(source)
    # In the order of the numbers: dictionaries are looked up by value.
    category = pa.array(list(names.values())).take(pc.index_in(ratings["category"], pa.array(list(names), pa.int64())))
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
            "user_id": ratings["user"].cast(pa.string()),
            "item_id": ratings["item"].cast(pa.string()),
            "category": category,
            "rating": ratings["rating"],
        }
    )
    has_time = "time" in ratings.column_names
    if has_time:
        table = table.append_column("time", ratings["time"])
    is_chosen = pc.is_in(table["category"], pa.array(chosen))
    if rest is None:
        table = table.filter(is_chosen)
    else:
        table = table.set_column(2, "category", pc.if_else(is_chosen, table["category"], rest))
        chosen.append(rest)
    with new_log_folder(out, NAME) as temporary:
        pq.write_table(table, temporary / "events.parquet")
        by = split or ({"by": "time"} if has_time else {"by": "random", "seed": seed})
        content = _declaration(chosen, by, has_time=has_time, statistics=statistics, adjusted=adjusted)
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
    names = _category_names(source / "categories.tsv")
    file = source / "ratings.parquet"
    table = read_parquet(file, COLUMNS)
    time = next((name for name in ("time", "timestamp") if name in table.column_names), None)
    ratings = _checked(table, time, file)
    known = pc.is_in(ratings["category"], pa.array(list(names), pa.int64()))
    problem = "is not in categories.tsv; add the category's number and name there"
    refuse_rows(pc.invert(known), ratings["category"], "category", file, problem)
    return ratings, names


def _category_names(file: Path) -> dict[int, str]:
    """The names of the categories by number, in the order of the file."""
    if not file.is_file():
        raise InputError(f"{file}: missing; it names the categories (columns category and name)")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as UTF-8 text: {error}") from error
    header = lines[0].split("\t")
    if sorted(header) != ["category", "name"]:
        raise InputError(
            f"{file}: columns category and name are wanted, joined by a tab; it has {joined_names(header)}"
        )
    names: dict[int, str] = {}
    for place, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if not line:
            continue
        if len(values) != 2:
            raise InputError(f"{file}, line {place}: has {len(values)} values, a category's number and name are wanted")
        text, name = (values[header.index(column)] for column in ("category", "name"))
        if (whole := WHOLE.fullmatch(text)) is None:
            raise InputError(f"{file}, line {place}: category {text!r} is no whole number; give it as ratings do")
        number = int(whole[1])
        if not name.strip():
            raise InputError(f"{file}, line {place}: category {number} has no name; give it one")
        if number in names or name in names.values():
            what = f"number {number}" if number in names else f"name {name!r}"
            raise InputError(f"{file}, line {place}: the {what} stands twice; give each category its own")
        names[number] = name
    return names


def _matlab(source: Path) -> tuple[pa.Table, dict[int, str]]:
    found = [source / name for name in ("rating_with_timestamp.mat", "rating.mat") if (source / name).is_file()]
    if not found:
        raise InputError(f"{source}: neither ratings.parquet nor rating.mat; give the folder that holds one")
    file = found[0]
    matrix = _matrix(file)
    has_time = matrix.shape[1] > TIME_PLACE
    if not has_time and file.name != "rating.mat":
        raise InputError(f"{file}: the matrix has {matrix.shape[1]} columns, the sixth is to be the time")
    places = [*enumerate(COLUMNS), *([(TIME_PLACE, "time")] if has_time else [])]
    kind = np.float64 if matrix.dtype.kind == "f" else np.int64
    table = pa.table({name: pa.chunked_array([matrix[:, place].astype(kind)]) for place, name in places})
    ratings = _checked(table, "time" if has_time else None, file)
    return ratings, {number: f"category {number}" for number in sorted(set(ratings["category"].to_pylist()))}


def _matrix(file: Path) -> np.ndarray:
    """The first matrix of numbers in a MATLAB file that has the columns of ratings."""
    try:
        content = loadmat(file)
    except NotImplementedError as error:
        raise InputError(
            f"{file}: is in MATLAB's form 7.3, which is not read; save it in form 7: save(name, 'rating', '-v7')"
        ) from error
    except Exception as error:  # SciPy raises of every kind on a broken file
        raise InputError(f"{file}: not readable as a MATLAB file: {error}; fetch the file again") from error
    for name, value in content.items():
        if name.startswith("__") or not isinstance(value, np.ndarray) or value.ndim != 2:
            continue
        if value.dtype.kind in "iuf" and value.shape[1] >= len(COLUMNS):
            return value
    raise InputError(f"{file}: no matrix of numbers with four columns or more ({', '.join(COLUMNS)})")


def _checked(table: pa.Table, time: str | None, file: Path) -> pa.Table:
    """The columns of ratings as whole numbers, and the time, where there is one, as `time`."""
    columns = {name: whole_numbers(table[name], name, file) for name in COLUMNS}
    rating = columns["rating"]
    wrong = pc.or_(pc.less(rating, RATINGS[0]), pc.greater(rating, RATINGS[1]))
    problem = f"is no rating from {RATINGS[0]} to {RATINGS[1]}; correct or remove the row"
    refuse_rows(wrong, rating, "rating", file, problem)
    if time is not None:
        columns["time"] = seconds(table[time], time, file)
    return pa.table(columns)


def _declaration(
    domains: Sequence[str], split: Mapping[str, Any], *, has_time: bool, statistics: bool, adjusted: bool
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
            **({"time": "time"} if has_time else {}),
            "positive": {"column": "rating", "at_least": POSITIVE_RATING},
        },
        "domains": {name: {} for name in domains},
        "fields": fields,
        "split": dict(split),
        "ranking": {"negatives": "explicit"},
    }
