"""An experiment's logs counted by DuckDB: to one row a user and domain, and from these to sums over users.

Nothing holds the rows of the logs; what does not fit into memory goes to a temporary folder.
"""

import glob
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.abtest.logs import FEEDBACK, IMPRESSIONS
from isthmus.abtest.online_metrics import Revenue
from isthmus.abtest.segments import load_segments, quoted
from isthmus.abtest.statistics import Moments
from isthmus.errors import InputError

QUANTITIES = ("users", "impressions", "clicks", "orders", "revenue")  # what metrics divide; `users` is 1 for each
NO_USER, NOT_IN_FILE, EMPTY = "(no user)", "(not in the file)", "(empty)"
PRODUCTS = [(a, b) for place, a in enumerate(QUANTITIES) for b in QUANTITIES[place:]]


@dataclass(frozen=True)
class Span:
    """Which impressions count, and how long after one its feedback does.

    Attributes:
        start_us, end_us: microseconds since 1970 UTC, from `start_us` and before `end_us`; None: no bound.
        attribution_us: None: feedback counts whenever it came.
    """

    start_us: int | None = None
    end_us: int | None = None
    attribution_us: int | None = None


@dataclass(frozen=True)
class Overview:
    """What the logs hold, whatever of it is then analysed.

    Attributes:
        rows: impressions by experiment; None is none.
        rows_in_span: those of them whose time counts.
        first_us, last_us: time of the first and of the last impression, by experiment.
        unmatched: feedback that names what was never shown, each (request, item, kind) once.
        repeated: feedback beyond the first of its request, item and kind.
        unknown_kind: feedback that is neither click nor order.
    """

    rows: Mapping[str | None, int]
    rows_in_span: Mapping[str | None, int]
    first_us: Mapping[str | None, int]
    last_us: Mapping[str | None, int]
    unmatched: int
    repeated: int
    unknown_kind: int


@dataclass(frozen=True)
class Group:
    """One variant's users in one group.

    Attributes:
        by: `all domains`, `domain`, or `segment NAME`.
        moments: of impressions, clicks, orders and revenue of each user; a request without a user is one of its own.
        num_with_id: users that are not such requests.
        num_clickers, num_buyers: users with a click, with an order.
    """

    by: str
    group: str
    variant: str
    moments: Moments
    num_requests: int
    num_with_id: int
    num_clickers: int
    num_buyers: int


@dataclass(frozen=True)
class Trouble:
    """What was left out of an experiment's rows, or counts with a doubt.

    Attributes:
        moved_users, moved_impressions: users seen in more than one variant, and what they were shown.
        after_end: clicks and orders that came after the end of the span, and count.
        too_late: those that came after the attribution window, and do not.
        unpriced: clicks (or orders) of items without a price, which add nothing to the revenue.
        priced: impressions that have a price.
    """

    moved_users: int
    moved_impressions: int
    after_end: int
    too_late: int
    unpriced: int
    priced: int


class LogCounts:
    """The logs of a folder, opened for counting.

    Raises:
        InputError: the folder has no impressions, a file is not one of these logs, or rows stand in two files.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path, span: Span) -> None:
        self.connection, self.span = connection, span
        self.feedback = sorted(folder.glob("feedback-*.parquet"))  # before impressions: none without its impression
        self.impressions = sorted(folder.glob("impressions-*.parquet"))
        if not self.impressions:
            raise InputError(f"{folder}: no impressions-*.parquet; serve with --log-folder, then give that folder")
        self.values = {
            "impressions": [glob.escape(str(file)) for file in self.impressions],
            "start": span.start_us,
            "end": span.end_us,
            "attribution": span.attribution_us,
        }
        self.overview = self._overview()

    def rows(self, sql: str, **more: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, in which $name stands for a value."""
        values = {name: value for name, value in {**self.values, **more}.items() if f"${name}" in sql}
        try:
            found: list[tuple[Any, ...]] = self.connection.execute(sql, values).fetchall()
            return found
        except duckdb.Error as error:
            for files, schema in ((self.impressions, IMPRESSIONS), (self.feedback, FEEDBACK)):
                _refuse_wrong_file(files, schema)
            raise InputError(f"{self.impressions[0].parent}: {' '.join(str(error).split())[:400]}") from error

    def count_experiment(self, experiment: str, revenue: Revenue) -> Trouble:
        """Make one row a user, variant and domain of an experiment; users of several variants are left out."""
        in_time = "{0}_us < i.time_us + coalesce($attribution, 9223372036854775807 - i.time_us)"
        clicked, ordered = (f"(f.{kind}_us IS NOT NULL AND f.{in_time.format(kind)})" for kind in ("click", "order"))
        paid = clicked if revenue == "click" else ordered
        # A list has one row at position 1, so counting these counts requests without holding their ids.
        self.rows(
            f"""
            CREATE TEMP TABLE per_user AS
            SELECT coalesce(i."user", i.request) AS id, i."user" IS NOT NULL AS has_id, i.variant, i.domain,
                count(*) FILTER (i.position = 1) AS requests, count(*) AS impressions,
                count(*) FILTER ({clicked}) AS clicks, count(*) FILTER ({ordered}) AS orders,
                coalesce(fsum(i.price) FILTER ({paid} AND isfinite(i.price)), 0) AS revenue,
                count(*) FILTER ({paid} AND NOT coalesce(isfinite(i.price), false)) AS unpriced,
                count(*) FILTER (isfinite(i.price)) AS priced,
                count(*) FILTER ({clicked} AND f.click_us >= $end) + count(*) FILTER ({ordered} AND f.order_us >= $end)
                    AS after_end,
                count(*) FILTER (f.click_us IS NOT NULL AND NOT {clicked})
                    + count(*) FILTER (f.order_us IS NOT NULL AND NOT {ordered}) AS too_late
            FROM ({_IMPRESSIONS}) i LEFT JOIN named f ON f.request = i.request AND f.item = i.item
            WHERE i.experiment = $experiment AND {_IN_SPAN}
            GROUP BY ALL""",
            experiment=experiment,
        )
        # A null is a value here, so that a row without a variant is not one of some other.
        self.rows(
            """CREATE TEMP TABLE moved AS SELECT id, has_id FROM per_user GROUP BY ALL
            HAVING count(DISTINCT coalesce(variant, '')) > 1"""
        )
        ((moved_users, moved_impressions),) = self.rows(
            "SELECT count(DISTINCT (id, has_id)), coalesce(sum(impressions), 0) FROM per_user SEMI JOIN moved "
            "USING (id, has_id)"
        )
        if moved_users:
            self.rows("CREATE TEMP TABLE kept AS SELECT * FROM per_user ANTI JOIN moved USING (id, has_id)")
            self.rows("DROP TABLE per_user")
            self.rows("ALTER TABLE kept RENAME TO per_user")
        ((after_end, too_late, unpriced, priced),) = self.rows(
            "SELECT coalesce(sum(after_end), 0), coalesce(sum(too_late), 0), coalesce(sum(unpriced), 0), "
            "coalesce(sum(priced), 0) FROM per_user"
        )
        return Trouble(moved_users, int(moved_impressions), int(after_end), int(too_late), int(unpriced), int(priced))

    def bundles(self, experiment: str) -> dict[str, dict[str, int]]:
        """Impressions by variant and version of the bundle."""
        found: dict[str, dict[str, int]] = {}
        for variant, bundle, count in self.rows(
            f"SELECT variant, bundle, count(*) FROM ({_IMPRESSIONS}) i WHERE experiment = $experiment AND {_IN_SPAN} "
            "GROUP BY ALL ORDER BY 1, min(time_us), 2",
            experiment=experiment,
        ):
            found.setdefault(str(variant), {})[str(bundle)] = count
        return found

    def load_segments(self, file: Path) -> tuple[str, ...]:
        """Take in a file of users and their segments; gives its columns. Errors are those of `load_segments`."""
        return load_segments(self.connection, file)

    def groups(self, segments: Sequence[str]) -> list[Group]:
        """The sums of every group: all domains, each of several, and each value of each loaded column of segments."""
        groups = self._groups("all domains", "'all'", "per_user")
        by_domain = self._groups("domain", "domain", "per_user")
        if len({group.group for group in by_domain}) > 1:  # one alone is all over again, with a p value too many
            groups += by_domain
        for name in segments:
            value = f"""CASE WHEN NOT p.has_id THEN '{NO_USER}' WHEN s."user" IS NULL THEN '{NOT_IN_FILE}'
                ELSE coalesce(s.{quoted(name)}, '{EMPTY}') END"""
            rows = f'(SELECT p.*, {value} AS value FROM per_user p LEFT JOIN segment s ON p.has_id AND s."user" = p.id)'
            groups += self._groups(f"segment {name}", "value", rows)
        return groups

    def _groups(self, by: str, value: str, rows: str) -> list[Group]:
        sums = [f"fsum({name}::DOUBLE)" for name in QUANTITIES]
        products = [f"fsum({a}::DOUBLE * {b})" for a, b in PRODUCTS]
        found = self.rows(
            f"""
            SELECT value, variant, sum(requests), count(*) FILTER (clicks > 0), count(*) FILTER (orders > 0),
                count(*) FILTER (has_id), {", ".join(sums + products)}
            FROM (
                SELECT {value} AS value, variant, id, has_id, any_value(1) AS users, sum(requests) AS requests,
                    sum(impressions) AS impressions, sum(clicks) AS clicks, sum(orders) AS orders,
                    fsum(revenue) AS revenue
                FROM {rows} GROUP BY ALL)
            GROUP BY ALL ORDER BY 1, 2"""
        )
        groups = []
        for group, variant, requests, clickers, buyers, with_id, *values in found:
            total = dict(zip(QUANTITIES, values, strict=False))
            moments = Moments(int(total["users"]), total, dict(zip(PRODUCTS, values[len(sums) :], strict=True)))
            groups.append(
                Group(by, str(group), str(variant), moments, int(requests), int(with_id), int(clickers), int(buyers))
            )
        return groups

    def _overview(self) -> Overview:
        repeated, unknown_kind, named = self._name_feedback()
        twice = self.rows(
            f"SELECT request, min(file), max(file) FROM ({_IMPRESSIONS}) WHERE position = 1 "
            "GROUP BY request HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
        )
        if twice:
            request, one, other = twice[0]
            raise InputError(
                f"{one}: request {request!r} stands there twice, or also in {Path(other).name}; "
                "the rows would count double: remove the copy"
            )
        counted = self.rows(
            f"""
            SELECT i.experiment, count(*), count(*) FILTER ({_IN_SPAN}), min(i.time_us), max(i.time_us),
                count(f.click_us) + count(f.order_us)
            FROM ({_IMPRESSIONS}) i LEFT JOIN named f ON f.request = i.request AND f.item = i.item
            GROUP BY ALL ORDER BY 1"""
        )
        if not counted:
            raise InputError(f"{self.impressions[0].parent}: no impressions in the files there; nothing was shown yet")
        return Overview(
            {row[0]: row[1] for row in counted},
            {row[0]: row[2] for row in counted},
            {row[0]: row[3] for row in counted},
            {row[0]: row[4] for row in counted},
            named - sum(row[5] for row in counted),
            repeated,
            unknown_kind,
        )

    def _name_feedback(self) -> tuple[int, int, int]:
        """Make the table `named`, each shown item with feedback once; gives how many repeat, are unknown, are named."""
        source = "SELECT NULL::VARCHAR AS request, NULL::VARCHAR AS item, '' AS kind, 0::BIGINT AS time_us LIMIT 0"
        if self.feedback:
            source = "SELECT request, item, kind, epoch_us(time) AS time_us FROM read_parquet($feedback)"
        self.rows(
            f"""
            CREATE TEMP TABLE named AS
            SELECT request, item, min(time_us) FILTER (kind = 'click') AS click_us,
                min(time_us) FILTER (kind = 'order') AS order_us, count(*) FILTER (kind IN ('click', 'order')) AS times,
                count(*) AS given
            FROM ({source}) GROUP BY ALL""",
            feedback=[glob.escape(str(file)) for file in self.feedback],
        )
        ((given, times, named),) = self.rows(
            "SELECT coalesce(sum(given), 0), coalesce(sum(times), 0), count(click_us) + count(order_us) FROM named"
        )
        return int(times - named), int(given - times), named


_IMPRESSIONS = (
    'SELECT epoch_us(time) AS time_us, request, "user", domain, experiment, variant, bundle, item, position, price, '
    "filename AS file FROM read_parquet($impressions, filename = true)"
)
_IN_SPAN = "i.time_us >= coalesce($start, i.time_us) AND i.time_us < coalesce($end, i.time_us + 1)"


@contextmanager
def open_logs(folder: Path, span: Span) -> Iterator[LogCounts]:
    """The logs of a folder; errors are those of `LogCounts`."""
    with tempfile.TemporaryDirectory(prefix="isthmus-ab-") as spill, duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET temp_directory = $spill", {"spill": spill})
        yield LogCounts(connection, folder, span)


def _refuse_wrong_file(files: Sequence[Path], schema: pa.Schema) -> None:
    """Raises InputError naming the first file that is not such a log."""
    for file in files:
        try:
            found = pq.read_schema(file)
            found.empty_table().select(schema.names).cast(schema)
        except KeyError as error:
            raise InputError(
                f"{file}: has columns {', '.join(found.names)}; expected {', '.join(schema.names)}"
            ) from error
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
