"""An experiment measured from the service's own logs: CTR, PPC and RPM by variant, domain and segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from isthmus.abtest.assignment import Experiment, read_experiment
from isthmus.abtest.counts import Group, Overview, Span, open_logs
from isthmus.abtest.online_metrics import Metric, Revenue, metrics_of
from isthmus.abtest.report import Analysis, Compared, Counted, GroupKey
from isthmus.abtest.statistics import Difference, holm, ratio, relative_difference, sample_ratio
from isthmus.errors import InputError, did_you_mean

US = 1_000_000
MOST_ATTRIBUTION_H = 24 * 366
CONTROL = "control"


@dataclass(frozen=True)
class Question:
    """What of the logs is asked for; None leaves it to the logs.

    Attributes:
        experiment: its name; None: the only one there is.
        control: the variant that others are compared with; None: the trial's first, else the one named `control`.
        trial: the file that declares the experiment and its shares.
        segments: a file of users and their segments.
        revenue: whether a click or an order brings the item's price.
        start, end: of the impressions that count, `end` left out; a time without a zone is UTC.
        attribution_h: hours after an impression in which its clicks and orders count; None: whenever they came.
    """

    experiment: str | None = None
    control: str | None = None
    trial: Path | None = None
    segments: Path | None = None
    revenue: Revenue = "click"
    start: datetime | str | None = None
    end: datetime | str | None = None
    attribution_h: float | None = None


def analyse(logs: Path, question: Question) -> Analysis:
    """Measure an experiment in a folder of logs.

    Users are what was assigned, so they are what varies: every interval is over users, by the delta method.

    Raises:
        InputError: there is nothing to measure, a file cannot be used, or a name is not in the logs.
    """
    trial = None if question.trial is None else read_experiment(question.trial)
    if question.revenue not in ("click", "order"):
        raise InputError(f"revenue: {question.revenue!r} is none of 'click', 'order'")
    start, end = as_time(question.start, "from"), as_time(question.end, "to")
    if start is not None and end is not None and start >= end:
        raise InputError(f"from {start.isoformat()} is not before to {end.isoformat()}; no impression lies between")
    hours = question.attribution_h
    if hours is not None and not 0 < hours <= MOST_ATTRIBUTION_H:
        raise InputError(f"attribution {hours:g}: must be above 0 and at most {MOST_ATTRIBUTION_H} hours")
    span = Span(_microseconds(start), _microseconds(end), None if hours is None else round(hours * 3600 * US))
    with open_logs(logs, span) as counts:
        overview = counts.overview
        experiment = _chosen_experiment(logs, question.experiment, trial, overview)
        segments = () if question.segments is None else counts.load_segments(question.segments)
        trouble = counts.count_experiment(experiment, question.revenue)
        groups = counts.groups(segments)
        bundles = counts.bundles(experiment)
    everyone = {group.variant: group for group in groups if group.by == "all domains"}
    if not everyone:
        raise InputError(f"{logs}: every user of {experiment!r} was in two variants; move --from past the change")
    if trial is not None and (strange := set(everyone) - {variant.name for variant in trial.variants}):
        raise InputError(
            f"{question.trial}: declares no variant {sorted(strange)[0]!r}, which the logs have; give the file that "
            "was served, or the time from which it was by --from"
        )
    control = _chosen_control(question.control, trial, list(everyone))
    metrics = metrics_of(question.revenue, has_prices=trouble.priced > 0)
    ordered = _in_order(groups, control, trial)
    shares = None if trial is None else {variant.name: variant.share for variant in trial.variants}
    observed = {name: group.moments.num_users for name, group in everyone.items()}
    return Analysis(
        experiment=experiment,
        control=control,
        revenue=question.revenue,
        start=start,
        end=end,
        first=_time_of(overview.first_us[experiment]),
        last=_time_of(overview.last_us[experiment]),
        metrics=metrics,
        counted=tuple(_counted(group, metrics) for group in ordered),
        compared=_compare(ordered, control, metrics),
        sample_ratio=None if shares is None or len(shares) < 2 else sample_ratio(observed, shares),
        bundles=bundles,
        overview=overview,
        trouble=trouble,
        attribution_h=hours,
    )


def as_time(given: datetime | str | None, name: str) -> datetime | None:
    """A time with its zone; without one it is UTC, and a date is its midnight.

    Raises:
        InputError: the text is no time in the form of ISO 8601.
    """
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise InputError(f"--{name} {given!r}: not a time; write 2026-11-01 or 2026-11-01T08:30+01:00") from None
    return given if given.tzinfo is not None else given.replace(tzinfo=UTC)


def _microseconds(time: datetime | None) -> int | None:
    if time is None:
        return None
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * US + since.microseconds


def _time_of(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / US, UTC)


def _chosen_experiment(logs: Path, name: str | None, trial: Experiment | None, overview: Overview) -> str:
    """The experiment's name, which has impressions in the span."""
    known = [experiment for experiment in overview.rows if experiment is not None]
    if trial is not None:
        if name is not None and name != trial.name:
            raise InputError(f"--experiment {name!r} is not that of the trial file, {trial.name!r}; give one of them")
        name = trial.name
    if name is None:
        if not known:
            raise InputError(f"{logs}: no impression there is of an experiment; serve with --experiment FILE")
        if len(known) > 1:
            raise InputError(f"{logs}: has several experiments; say with --experiment which of {', '.join(known)}")
        name = known[0]
    if name not in known:
        hint = did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "; there is none at all")
        raise InputError(f"{logs}: no impressions of experiment {name!r}{hint}")
    if not overview.rows_in_span[name]:
        first, last = (_time_of(times[name]).isoformat() for times in (overview.first_us, overview.last_us))
        raise InputError(f"{logs}: no impressions of {name!r} between --from and --to; they run from {first} to {last}")
    return name


def _chosen_control(name: str | None, trial: Experiment | None, seen: Sequence[str]) -> str:
    if name is None:
        if trial is not None:
            name = trial.variants[0].name
        elif CONTROL in seen or len(seen) == 1:
            name = CONTROL if CONTROL in seen else seen[0]
        else:
            raise InputError(f"say with --control which variant the others are compared with: {', '.join(seen)}")
    if name not in seen:
        hint = did_you_mean(name, seen) or f"; there are {', '.join(seen)}"
        raise InputError(f"control {name!r}: no user saw this variant alone{hint}")
    return name


def _in_order(groups: Sequence[Group], control: str, trial: Experiment | None) -> list[Group]:
    """Groups as they came, in each the control first, then as declared, or by name."""
    declared = [] if trial is None else [variant.name for variant in trial.variants]
    places = {(group.by, group.group): place for place, group in reversed(list(enumerate(groups)))}

    def place(group: Group) -> tuple[int, bool, int, str]:
        known = declared.index(group.variant) if group.variant in declared else len(declared)
        return places[group.by, group.group], group.variant != control, known, group.variant

    return sorted(groups, key=place)


def _counted(group: Group, metrics: Sequence[Metric]) -> Counted:
    sums = group.moments.sums
    ratios = {metric.name: ratio(group.moments, metric.numerator, metric.denominator) for metric in metrics}
    return Counted(
        key=GroupKey(group.by, group.group),
        variant=group.variant,
        num_users=group.moments.num_users,
        num_without_id=group.moments.num_users - group.num_with_id,
        num_requests=group.num_requests,
        num_impressions=int(sums["impressions"]),
        num_clicks=int(sums["clicks"]),
        num_orders=int(sums["orders"]),
        revenue=sums["revenue"],
        values={m.name: None if (found := ratios[m.name]) is None else found.value * m.factor for m in metrics},
    )


def _compare(groups: Sequence[Group], control: str, metrics: Sequence[Metric]) -> tuple[Compared, ...]:
    """Every metric of every variant in every group against the control there; p values also after Holm."""
    found: list[tuple[Metric, Group, Difference, float | None, float | None, int]] = []
    keys = dict.fromkeys((group.by, group.group) for group in groups)
    for metric in metrics:
        for key in keys:
            here = [group for group in groups if (group.by, group.group) == key]
            base = next((group for group in here if group.variant == control), None)
            ours = None if base is None else ratio(base.moments, metric.numerator, metric.denominator)
            for group in here:
                if group.variant == control:
                    continue
                theirs = ratio(group.moments, metric.numerator, metric.denominator)
                difference = relative_difference(theirs, ours)
                if base is None:
                    difference = Difference(None, why_no_interval="the control has no users here")
                few = min(_num_events(group, metric), 0 if base is None else _num_events(base, metric))
                a, b = (None if side is None else side.value * metric.factor for side in (ours, theirs))
                found.append((metric, group, difference, a, b, few))
    tested = [row[2].p_value for row in found if row[2].p_value is not None]
    adjusted = iter(holm(tested))
    return tuple(
        Compared(
            metric=metric.name,
            key=GroupKey(group.by, group.group),
            variant=group.variant,
            control_value=a,
            variant_value=b,
            difference=difference,
            p_holm=None if difference.p_value is None else next(adjusted),
            num_users_with_event=few,
        )
        for metric, group, difference, a, b, few in found
    )


def _num_events(group: Group, metric: Metric) -> int:
    """Users with the event that the metric is of: where they are few, the interval is rough."""
    match metric.event:
        case "clicks":
            return group.num_clickers
        case "orders":
            return group.num_buyers
        case "impressions":
            return group.moments.num_users
        case other:
            assert_never(other)
