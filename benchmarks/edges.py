"""What stands before training and after it: preparing a log, and searching an index of items."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import torch
from benchmarks.ctr_rows import make_rows, write_log
from benchmarks.sizes import Sizes
from benchmarks.table import Line, cpu_seconds, median_ratio

from isthmus.data.prepare import prepare
from isthmus.index.exact import ExactIndex
from isthmus.index.faiss_ivf import IVFIndex

RECALL = 0.97  # what the inverted file is tuned to
INDEX_DIM = 64


def measure_prepare(sizes: Sizes) -> list[Line]:
    """`prepare` of the made rows against the bare read of the same columns."""
    held_out = sizes.prepare_rows // 10
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(sizes.prepare_rows - 2 * held_out, held_out, held_out)
        log = write_log(rows, Path(folder) / "log")
        events = log.with_name("events.parquet")
        runs: dict[str, Callable[[], object]] = {
            "prepare": partial(prepare, log, Path(folder) / "dataset"),
            "read": partial(pq.read_table, events),
        }
        seconds = cpu_seconds(runs, max(1, sizes.repeats // 2))
    case = (
        f"{sizes.prepare_rows:,} rows, {len(rows.columns) + 4} columns"  # the domain, the label, the time and the part
    )
    return [
        Line(
            "prepare",
            case,
            1e6 * median(seconds["prepare"]) / sizes.prepare_rows,
            "us/row",
            median_ratio(seconds["prepare"], seconds["read"]),
            f"the bare read of them ({1e6 * median(seconds['read']) / sizes.prepare_rows:.2f} us/row)",
        )
    ]


def measure_index(sizes: Sizes) -> list[Line]:
    """A search for one user, as serving makes it, against the bare product with every item and `topk`.

    Numbers of an item's vector vary ever less, as principal axes do: the j-th has a variance of 1 / j.
    """
    k = min(500, sizes.index_items // 4)
    generator = torch.Generator().manual_seed(0)
    axes = torch.arange(1, INDEX_DIM + 1) ** -0.5
    vectors = torch.randn(sizes.index_items, INDEX_DIM, generator=generator) * axes
    queries = torch.randn(sizes.index_queries, INDEX_DIM, generator=generator) * axes
    item_row = torch.arange(sizes.index_items)
    exact = ExactIndex(vectors, item_row)
    num_lists = max(1, int(4 * sizes.index_items**0.5))
    inverted = IVFIndex.build(vectors, item_row, num_lists=num_lists, num_probes=1, eight_bits=True, seed=0)
    tuning = torch.randn(sizes.index_queries, INDEX_DIM, generator=generator) * axes
    inverted.tune(tuning, exact.search(tuning, k).item_row, recall=RECALL)
    best, near = exact.search(queries, k).item_row, inverted.search(queries, k).item_row
    recall = sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), near.tolist(), strict=True)) / best.numel()

    def one_by_one(search: Callable[[torch.Tensor], object]) -> None:
        for query in torch.split(queries, 1):
            search(query)

    runs: dict[str, Callable[[], object]] = {
        "exact": partial(one_by_one, lambda query: exact.search(query, k)),
        "inverted": partial(one_by_one, lambda query: inverted.search(query, k)),
        "bare": partial(one_by_one, lambda query: (query @ vectors.T).topk(k)),
    }
    seconds = cpu_seconds(runs, sizes.repeats)
    probes = f"{inverted.inverted_file.nprobe} of {num_lists} lists, 8 bits, recall@{k} {recall:.3f}"
    return [
        Line(
            "index",
            f"{sizes.index_items:,} items, {kind}",
            1e3 * median(seconds[name]) / sizes.index_queries,
            "ms/query",
            median_ratio(seconds[name], seconds["bare"]),
            f"bare product and topk({k})",
        )
        for name, kind in (("exact", "exact"), ("inverted", f"FAISS inverted file: {probes}"))
    ]
