"""The WSDM Cup 2022 cross-market data (XMRec): its native files to a log and its declaration.

A market is a domain. `train_5core.tsv` holds a market's purchases (userId, itemId, rating; header), `valid_qrel.tsv`
one held-out purchase a user, `valid_run.tsv` the 100 items that the purchase is searched among (user, tab, items joined
by commas; no header). ADI's positives are the five-star rows; in these files every rating is 1, so every row is one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from isthmus.data.candidates import sample_negatives
from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration
from isthmus.errors import InputError

NAME = "xmrec_wsdm22"
MARKETS = ("s1", "s2", "s3", "t1", "t2")
RUN_FILES = ("valid_run.tsv", "valid_run_regenerated.tsv")
NUM_NEGATIVES = 99


def ingest_xmrec(source: Path, out: Path, *, seed: int = 0) -> Path:
    """Write `out`/{events.parquet, candidates.parquet, log.yaml} from the markets' folders; gives the path of log.yaml.

    Args:
        source: the folder that holds s1, s2, ..., or one above it that has them in DATA.
        seed: of the lists of markets without a list file: the purchase and 99 of the market's training items that the
            user has not bought, drawn uniformly.

    Raises:
        InputError: there is no market, or a file of one is missing or not readable.
    """
    folder = source / "DATA" if (source / "DATA").is_dir() else source
    markets = [market for market in MARKETS if (folder / market).is_dir()]
    if not markets:
        raise InputError(f"{folder}: no market folder ({', '.join(MARKETS)}); give the folder that holds them")
    events, candidates = [], []
    for number, market in enumerate(markets):
        train, test = (_purchases(folder / market / name) for name in ("train_5core.tsv", "valid_qrel.tsv"))
        for table, split in ((train, "train"), (test, "test")):
            events.append(
                table.append_column("market", _repeat(market, len(table))).append_column(
                    "split", _repeat(split, len(table))
                )
            )
        runs = [folder / market / name for name in RUN_FILES if (folder / market / name).is_file()]
        lists = _given_lists(runs[0]) if runs else _drawn_lists(train, test, np.random.default_rng([seed, number]))
        candidates.append(lists.add_column(1, "domain", _repeat(market, len(lists))))
    with new_log_folder(out, NAME) as temporary:
        pq.write_table(pa.concat_tables(events), temporary / "events.parquet")
        pq.write_table(pa.concat_tables(candidates), temporary / "candidates.parquet")
        write_declaration(_declaration(markets), temporary)
    return out / DECLARATION


def _purchases(file: Path) -> pa.Table:
    table = _read(file, {"userId": pa.string(), "itemId": pa.string(), "rating": pa.float64()}, ())
    return table.rename_columns(["user_id", "item_id", "rating"])


def _given_lists(file: Path) -> pa.Table:
    return _read(file, {"user": pa.string(), "items": pa.string()}, ("user", "items"))


def _read(file: Path, types: Mapping[str, pa.DataType], header: tuple[str, ...]) -> pa.Table:
    if not file.is_file():
        raise InputError(f"{file}: missing; each market folder needs train_5core.tsv and valid_qrel.tsv")
    try:
        return pacsv.read_csv(
            file,
            read_options=pacsv.ReadOptions(column_names=list(header) or None),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(
                column_types=dict(types), include_columns=list(types), strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InputError(f"{file}: not readable as {', '.join(types)} joined by tabs: {error}") from error


def _drawn_lists(train: pa.Table, test: pa.Table, rng: np.random.Generator) -> pa.Table:
    items = pc.unique(train["item_id"]).sort()
    users = pc.unique(pa.chunked_array([*train["user_id"].chunks, *test["user_id"].chunks])).sort()
    known = pc.index_in(train["user_id"], users).to_numpy().astype(np.int64) * len(items)
    bought = known + pc.index_in(train["item_id"], items).to_numpy()
    # A held-out item that training does not have cannot be drawn, so it needs no ban.
    user = pc.index_in(test["user_id"], users).to_numpy().astype(np.int64)
    positive = pc.index_in(test["item_id"], items).fill_null(-1).to_numpy().astype(np.int64)
    bought = np.unique(np.concatenate([bought, (user * len(items) + positive)[positive >= 0]]))
    drawn = sample_negatives(np.arange(len(items)), bought, user, num_items=len(items), count=NUM_NEGATIVES, rng=rng)
    names = np.array([*items.to_pylist(), ""])
    rows = [
        ",".join([own, *(name for name in others if name)])
        for own, others in zip(test["item_id"].to_pylist(), names[drawn], strict=True)
    ]
    return pa.table({"user": test["user_id"], "items": pa.array(rows, pa.string())})


def _repeat(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), count)


def _declaration(markets: list[str]) -> dict[str, Any]:
    return {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "market",
            "positive": {"column": "rating", "at_least": 1},
        },
        "domains": {market: {} for market in markets},
        "fields": [
            {"name": "history", "side": "user", "kind": "history", "scope": "own", "table": "history"},
            {"name": "item_id", "side": "item", "kind": "id"},
        ],
        "split": {"by": "given", "column": "split", "valid_users": 0.1, "seed": 0},
        "candidates": {"files": ["candidates.parquet"], "sampled": NUM_NEGATIVES, "seed": 0},
    }
