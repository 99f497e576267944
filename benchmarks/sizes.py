"""How much is measured: the quick run of `make bench`, and the full one."""

from dataclasses import dataclass, replace

from benchmarks.market_log import MARKETS, Market


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        repeats: timings of which the median is taken.
        steps: training steps in each timing.
        dim: embedding size in training, evaluation and the first memory case.
        tables: rows of each embedding table, the smallest first; `table_dim` numbers a row.
        update_tables: rows of a table that is only looked up and updated, `update_batch` distinct rows a step.
        backbone_dims: input, hidden and output widths.
        backbone_domains: numbers of domains, the smallest first; `stitch_domains` for Cross-Stitch, whose cost grows.
        segment_domains: numbers of domains of one layer, done in three ways.
        pseudo_domains: numbers of domains in self-training.
        prepare_rows: of the log that is prepared.
        index_items, index_queries: of the index that is searched.
        memory_table: rows of the second memory case, of `memory_dim` numbers: nearly all of its memory is tables.
    """

    markets: tuple[Market, ...] = MARKETS
    repeats: int = 5
    steps: int = 12
    dim: int = 256
    tables: tuple[int, ...] = (100_000, 1_000_000)
    table_dim: int = 16
    update_tables: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    update_batch: int = 4096
    backbone_rows: int = 8192
    backbone_dims: tuple[int, int, int] = (256, 256, 128)
    backbone_domains: tuple[int, ...] = (1, 3, 10, 50)
    stitch_domains: tuple[int, ...] = (1, 3, 10)
    segment_domains: tuple[int, ...] = (3, 10, 50, 200)
    pseudo_domains: tuple[int, ...] = (2, 5, 10)
    prepare_rows: int = 200_000
    index_items: int = 100_000
    index_queries: int = 50
    memory_table: int = 300_000
    memory_dim: int = 64


QUICK = Sizes()
FULL = replace(
    QUICK,
    repeats=9,
    steps=40,
    tables=(100_000, 1_000_000, 10_000_000),
    update_tables=(100_000, 1_000_000, 10_000_000, 50_000_000),
    backbone_domains=(1, 3, 10, 50, 200),
    stitch_domains=(1, 3, 10, 50),
    prepare_rows=1_000_000,
    index_items=1_000_000,
    memory_table=2_000_000,
)
