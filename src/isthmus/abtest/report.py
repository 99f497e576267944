"""What an experiment came to: figures by group and variant, differences with intervals, and all that is doubtful."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from isthmus.abtest.counts import Overview, Trouble
from isthmus.abtest.online_metrics import Metric, Revenue
from isthmus.abtest.statistics import Difference, SampleRatio
from isthmus.files import markdown_table

MISMATCH_BELOW = 0.001  # of a p value: the check is made again and again, and an alarm stops an experiment
FEW_USERS = 30  # with an event in each variant; tests/abtest/test_statistics.py has what intervals are worth there
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class GroupKey:
    """`by` is `all domains`, `domain` or `segment NAME`; `group` is the domain or the segment."""

    by: str
    group: str


@dataclass(frozen=True)
class Counted:
    """One variant in one group; a request without a user counts as a user of its own.

    Attributes:
        num_without_id: users that are such requests.
        values: metrics by name; None where there is nothing to divide by.
    """

    key: GroupKey
    variant: str
    num_users: int
    num_without_id: int
    num_requests: int
    num_impressions: int
    num_clicks: int
    num_orders: int
    revenue: float
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Compared:
    """One metric of one variant in one group beside the control's.

    Attributes:
        p_holm: the p value after Holm's correction for all comparisons of the analysis.
        num_users_with_event: in the variant that has fewer; of RPM and PPC of clicks, users with a click.
    """

    metric: str
    key: GroupKey
    variant: str
    control_value: float | None
    variant_value: float | None
    difference: Difference
    p_holm: float | None
    num_users_with_event: int


@dataclass(frozen=True)
class Analysis:
    """A whole experiment.

    Attributes:
        start, end: the span of impressions that was asked for.
        first, last: the times of the experiment's first and last impression in the logs.
        sample_ratio: None without declared shares.
        bundles: impressions by variant and version of the bundle, in the order in which they came.
        attribution_h: hours in which feedback counts.
    """

    experiment: str
    control: str
    revenue: Revenue
    start: datetime | None
    end: datetime | None
    first: datetime
    last: datetime
    metrics: tuple[Metric, ...]
    counted: tuple[Counted, ...]
    compared: tuple[Compared, ...]
    sample_ratio: SampleRatio | None
    bundles: Mapping[str, Mapping[str, int]]
    overview: Overview
    trouble: Trouble
    attribution_h: float | None

    @property
    def is_mismatched(self) -> bool:
        """Whether users did not come in the declared shares."""
        return self.sample_ratio is not None and self.sample_ratio.p_value < MISMATCH_BELOW

    @property
    def warnings(self) -> list[str]:
        """What puts the comparison in doubt."""
        return list(self._warnings())

    @property
    def notes(self) -> list[str]:
        """What was counted how, and what was left out."""
        return list(self._notes())

    def _warnings(self) -> Iterator[str]:
        if self.sample_ratio is not None and self.is_mismatched:
            yield (
                f"SAMPLE RATIO MISMATCH: {_shares(self.sample_ratio)} (chi-square {self.sample_ratio.statistic:.1f}, "
                f"p = {_p(self.sample_ratio.p_value)}). Users did not come as declared: the variants are not alike to "
                "begin with, and no difference below can be trusted. Look for lost answers of one variant, shares that "
                "were moved (--from), another trial file"
            )
        if self.trouble.moved_users:
            yield (
                f"{self.trouble.moved_users:,} users were in more than one variant and are left out with "
                f"{self.trouble.moved_impressions:,} impressions: shares or salt were changed; measure from then on, "
                "by --from"
            )
        for variant, bundles in self.bundles.items():
            if len(bundles) > 1:
                versions = ", ".join(f"{name} ({count:,} impressions)" for name, count in bundles.items())
                yield f"{variant} was answered by several bundles: {versions}"
        if len({counted.variant for counted in self.counted}) < 2:
            yield f"only variant {self.control!r} was seen: there is nothing to compare"

    def _notes(self) -> Iterator[str]:
        yield (
            "Intervals (95 %) and p values (two-sided) take users as the unit, by the delta method on the logarithm of "
            "the quotient; a request without a user counts as a user"
        )
        tested = sum(row.difference.p_value is not None for row in self.compared)
        if tested > 1:
            yield (
                f"{tested} comparisons: about {tested * SIGNIFICANT:.1f} have p < {SIGNIFICANT} where nothing differs. "
                "Read p of the one metric that was chosen beforehand, p (Holm) of all others"
            )
        if any(self._is_few(row) for row in self.compared):
            yield f"~ fewer than {FEW_USERS} users with such an event in a variant: the interval is rough"
        if self.sample_ratio is not None and not self.is_mismatched:
            yield f"Users came as declared: {_shares(self.sample_ratio)}, p = {_p(self.sample_ratio.p_value)}"
        kind, once = ("clicks", "clicked impression") if self.revenue == "click" else ("orders", "ordered impression")
        if not self.trouble.priced:
            yield "No impression has a price: nothing is said of revenue"
        else:
            yield f"Revenue is the shown item's logged price, once for each {once}"
        if self.trouble.priced and self.trouble.unpriced:
            yield f"{self.trouble.unpriced:,} {kind} are of items without a price and add nothing to the revenue"
        if self.attribution_h is not None:
            late = f"; {self.trouble.too_late:,} later ones do not" if self.trouble.too_late else ""
            yield f"Feedback counts within {self.attribution_h:g} hours of its impression{late}"
        if self.trouble.after_end:
            yield f"{self.trouble.after_end:,} clicks and orders came after the end of the span, and count"
        yield from self._left_out()

    def _left_out(self) -> Iterator[str]:
        mine = self.overview.rows[self.experiment] - self.overview.rows_in_span[self.experiment]
        none = self.overview.rows.get(None, 0)
        others = sum(self.overview.rows.values()) - none - self.overview.rows[self.experiment]
        for count, what in (
            (mine, "impressions outside of the span"),
            (others, "impressions of other experiments"),
            (none, "impressions of no experiment"),
            (self.overview.unmatched, "clicks and orders of what the logs do not show"),
            (self.overview.repeated, "repeated clicks and orders of one shown item"),
            (self.overview.unknown_kind, "rows of feedback that is neither click nor order"),
        ):
            if count:
                yield f"Left out: {count:,} {what}"

    @staticmethod
    def _is_few(row: Compared) -> bool:
        return row.difference.low is not None and row.num_users_with_event < FEW_USERS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sums have 12 digits and differences 9, for threads add in any order."""
        return {
            "experiment": self.experiment,
            "control": self.control,
            "revenue": self.revenue,
            "from": None if self.start is None else self.start.isoformat(),
            "to": None if self.end is None else self.end.isoformat(),
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "sample_ratio": None
            if self.sample_ratio is None
            else {
                "is_mismatched": self.is_mismatched,
                "observed": dict(self.sample_ratio.observed),
                "expected": dict(self.sample_ratio.expected),
                "chi_square": self.sample_ratio.statistic,
                "p_value": self.sample_ratio.p_value,
            },
            "metrics": {metric.name: metric.meaning for metric in self.metrics},
            "counts": [
                _rounded(
                    {
                        "by": row.key.by,
                        "group": row.key.group,
                        "variant": row.variant,
                        "users": row.num_users,
                        "requests_without_user": row.num_without_id,
                        "requests": row.num_requests,
                        "impressions": row.num_impressions,
                        "clicks": row.num_clicks,
                        "orders": row.num_orders,
                        "revenue": row.revenue if self.trouble.priced else None,
                        **row.values,
                    },
                    12,
                )
                for row in self.counted
            ],
            "differences": [
                _rounded(
                    {
                        "metric": row.metric,
                        "by": row.key.by,
                        "group": row.key.group,
                        "variant": row.variant,
                        "control_value": row.control_value,
                        "variant_value": row.variant_value,
                        "difference": row.difference.estimate,
                        "low": row.difference.low,
                        "high": row.difference.high,
                        "p_value": row.difference.p_value,
                        "p_holm": row.p_holm,
                        "users_with_event": row.num_users_with_event,
                        "why_no_interval": row.difference.why_no_interval or None,
                    },
                    9,
                )
                for row in self.compared
            ],
            "bundles": {variant: dict(found) for variant, found in self.bundles.items()},
            "moved_users": self.trouble.moved_users,
            "warnings": self.warnings,
            "notes": self.notes,
        }

    def to_markdown(self) -> str:
        """Warnings, a table of figures, one of differences, and notes."""
        span = f"{_time(self.first)} to {_time(self.last)}"
        if self.start is not None or self.end is not None:
            span += f", counted from {_time(self.start)} to {_time(self.end)}"
        parts = [f"Experiment {self.experiment}; control is {self.control}; impressions {span} (UTC)."]
        parts += [f"**{warning}.**" for warning in self.warnings]
        parts.append(self._counts_table())
        if self.compared:
            parts.append(self._differences_table())
        parts.append("\n".join(f"- {note}." for note in self.notes))
        return "\n\n".join(parts)

    _repr_markdown_ = to_markdown  # what a notebook shows

    def _counts_table(self) -> str:
        header = ["by", "group", "variant", "users", "requests", "impressions", "clicks", "orders"]
        header += ["revenue"] if self.trouble.priced else []
        rows = []
        for row in self.counted:
            counts = [row.num_users, row.num_requests, row.num_impressions, row.num_clicks, row.num_orders]
            revenue = [f"{row.revenue:,.2f}"] if self.trouble.priced else []
            values = [_figure(row.values[metric.name]) for metric in self.metrics]
            rows.append(
                [row.key.by, row.key.group, row.variant, *(f"{count:,}" for count in counts), *revenue, *values]
            )
        return markdown_table([*header, *(metric.name for metric in self.metrics)], rows, num_left=3)

    def _differences_table(self) -> str:
        header = ["metric", "by", "group", "variant", "control", "variant's", "difference", "95% interval", "p"]
        rows = []
        for row in self.compared:
            found = row.difference
            interval = found.why_no_interval
            if found.low is not None and found.high is not None:
                interval = f"[{found.low:+.2%}, {found.high:+.2%}]{' ~' if self._is_few(row) else ''}"
            rows.append(
                [
                    row.metric,
                    row.key.by,
                    row.key.group,
                    row.variant,
                    _figure(row.control_value),
                    _figure(row.variant_value),
                    "-" if found.estimate is None else f"{found.estimate:+.2%}",
                    interval,
                    _p(found.p_value),
                    _p(row.p_holm),
                ]
            )
        return markdown_table([*header, "p (Holm)"], rows, num_left=4)


def _rounded(row: dict[str, Any], digits: int) -> dict[str, Any]:
    return {name: float(f"{value:.{digits}g}") if isinstance(value, float) else value for name, value in row.items()}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4f}" if abs(value) < 100 else f"{value:,.2f}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _time(time: datetime | None) -> str:
    return "the beginning or end" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shares(found: SampleRatio) -> str:
    total = sum(found.observed.values())
    parts: Sequence[str] = [
        f"{name} {count:,} of {total:,} ({count / total:.2%}, declared {found.expected[name] / total:.2%})"
        for name, count in found.observed.items()
    ]
    return ", ".join(parts)
