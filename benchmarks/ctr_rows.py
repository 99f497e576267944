"""A made log of labelled rows for speed: three domains, twelve categorical fields, two numbers, one label in twenty.

What is planted, so that quality after one epoch can be judged: the log-odds of a label are the domain's own base, a
shared and a domain's own weight for every field value, both numbers with slopes of their own a domain, and a product of
user and item vectors of rank 4 whose strength the domain sets. The AUC of the true log-odds is the most that any model
can reach.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "made-ctr-rows"
DOMAINS = ("a", "b", "c")
PARTS = ("train", "valid", "test")
SHARES = (0.65, 0.08, 0.27)
RATES = (0.04, 0.09, 0.0622)
VALUES = {"user_id": 100_000, "item_id": 50_000} | dict(
    zip(
        (f"c{place}" for place in range(2, 12)),
        (10, 20, 50, 100, 200, 300, 500, 700, 900, 1000),
        strict=True,
    )
)
NUMBERS = ("n0", "n1")
POPULARITY = {"user_id": 0.5, "item_id": 0.8}
WEIGHT_SD = {"user_id": (0.45, 0.25), "item_id": (0.45, 0.25)}
SLOPES = (0.35, -0.25)
NUMBER_SHIFT = (0.0, 0.5, -0.5)
RANK = 4
STRENGTH = (1.0, 0.6, 1.4)


@dataclass(frozen=True)
class CTRRows:
    """The rows as arrays, training first, then validation, then test.

    Attributes:
        columns: by field, int32 values from 0, or float32 numbers.
        log_odds: the true ones, of which the labels are drawn.
        domain_names: in the order of their numbers.
    """

    domain: NDArray[np.int16]
    columns: dict[str, NDArray[Any]]
    label: NDArray[np.int8]
    log_odds: NDArray[np.float64]
    num_train: int
    num_valid: int
    domain_names: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        return len(self.domain)

    def part(self, name: str) -> slice:
        """Where the rows of `train`, `valid` or `test` lie."""
        first_test = self.num_train + self.num_valid
        parts = {
            "train": slice(0, self.num_train),
            "valid": slice(self.num_train, first_test),
            "test": slice(first_test, self.num_rows),
        }
        return parts[name]


def make_rows(num_train: int, num_valid: int, num_test: int, seed: int = 19, *, num_domains: int = 3) -> CTRRows:
    """Draw the rows; the same numbers and seed give the same rows. More domains repeat what is planted of three."""
    rng = np.random.Generator(np.random.PCG64(seed))
    num_rows = num_train + num_valid + num_test
    shares, rates, shifts, strengths = (
        np.resize(each, num_domains) for each in (SHARES, RATES, NUMBER_SHIFT, STRENGTH)
    )
    names = DOMAINS if num_domains == len(DOMAINS) else tuple(f"domain-{n}" for n in range(num_domains))
    domain = pick(rng, num_rows, shares).astype(np.int16)
    columns: dict[str, NDArray[Any]] = {}
    for name, num_values in VALUES.items():
        weight = np.arange(1, num_values + 1, dtype=np.float64) ** -POPULARITY.get(name, 0.6)
        rank = pick(rng, num_rows, weight)
        columns[name] = rng.permutation(num_values)[rank].astype(np.int32)
    numbers = rng.standard_normal((num_rows, len(NUMBERS))).astype(np.float32)
    numbers[:, 1] += shifts.astype(np.float32)[domain]
    log_odds = np.zeros(num_rows)
    for name, num_values in VALUES.items():
        shared_sd, own_sd = WEIGHT_SD.get(name, (0.18, 0.12))
        shared = rng.standard_normal(num_values) * shared_sd
        own = rng.standard_normal((num_domains, num_values)) * own_sd
        log_odds += shared[columns[name]] + own[domain, columns[name]]
    slope = np.array(SLOPES) + rng.standard_normal((num_domains, len(NUMBERS))) * 0.15
    log_odds += (numbers * slope[domain]).sum(axis=1)
    user, item = (rng.standard_normal((VALUES[name], RANK)) * 0.35 for name in ("user_id", "item_id"))
    liking = (user[columns["user_id"]] * item[columns["item_id"]]).sum(axis=1)
    log_odds += liking * strengths[domain]
    for place, rate in enumerate(rates):
        log_odds[domain == place] += base_for(log_odds[domain == place], rate)
    label = (rng.random(num_rows) < probability(log_odds)).astype(np.int8)
    columns |= {name: numbers[:, place] for place, name in enumerate(NUMBERS)}
    return CTRRows(domain, columns, label, log_odds, num_train, num_valid, names)


def pick(rng: np.random.Generator, num_rows: int, weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places drawn in proportion to their weight."""
    reached = np.cumsum(weight / weight.sum())
    return np.minimum(np.searchsorted(reached, rng.random(num_rows), side="right"), len(weight) - 1)


def probability(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))


def base_for(log_odds: NDArray[np.float64], rate: float) -> float:
    """What to add to log-odds so that their mean probability is `rate`; found by halving an interval."""
    low, high = -15.0, 15.0
    for _ in range(50):
        middle = (low + high) / 2
        if probability(log_odds + middle).mean() > rate:
            high = middle
        else:
            low = middle
    return low


def write_log(rows: CTRRows, out: Path) -> Path:
    """Write `out`/{events.parquet, log.yaml}, as any log is declared; gives the path of log.yaml."""
    import pyarrow as pa  # 30 MiB that no process that trains holds
    import pyarrow.parquet as pq

    from isthmus.data.written_log import DECLARATION, new_log_folder, write_declaration

    part = np.repeat(["train", "valid", "test"], [len(range(*rows.part(p).indices(rows.num_rows))) for p in PARTS])
    table = {
        "domain": pa.array(np.array(rows.domain_names)[rows.domain]),
        **{name: pa.array(values) for name, values in rows.columns.items()},
        "clicked": pa.array(rows.label),
        "time": pa.array(np.arange(rows.num_rows)),  # no row stands for another: repeats stay
        "part": pa.array(part),
    }
    declaration = {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "time": "time",
            "positive": {"column": "clicked"},
        },
        "domains": {domain: {} for domain in rows.domain_names},
        "fields": [
            {"name": "user_id", "side": "user", "kind": "id"},
            {"name": "item_id", "side": "item", "kind": "id"},
            *({"name": name, "side": "row", "kind": "categorical"} for name in VALUES if name.startswith("c")),
            *({"name": name, "side": "row", "kind": "number"} for name in NUMBERS),
        ],
        "split": {"by": "given", "column": "part"},
        "ranking": {"negatives": "explicit"},
    }
    with new_log_folder(out, NAME) as temporary:
        pq.write_table(pa.table(table), temporary / "events.parquet")
        write_declaration(declaration, temporary)
    return out / DECLARATION
