"""What an evaluation says: means with intervals, by domain and over domains, for all rows and for hard ones."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.errors import InputError
from isthmus.evaluation.result_files import read_columns, read_meaning, write_columns
from isthmus.evaluation.retrieval import RetrievalResult
from isthmus.files import markdown_table
from isthmus.metrics import Interval, bootstrap_interval, told_apart
from isthmus.schema import OVER_DOMAINS

COLD_USER_POSITIVES = 4
COLD_ITEM_POSITIVES = 5
MANY_USERS = 100_000  # above, resampling takes minutes and gives the normal interval
KEYS = ("domain", "user_row", "item_row", "known", "item_count")
MACRO, TRAFFIC = OVER_DOMAINS


@dataclass(frozen=True)
class SavedResult:
    """An evaluation as it lies on disk: its lines, and what their domain numbers mean."""

    result: RetrievalResult
    domain_names: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class UserMeans:
    """One metric, a line a user and domain: what varies independently, where a user may have several positives."""

    value: Float[Tensor, " user"]
    domain: Int[Tensor, " user"]


@dataclass(frozen=True)
class Group:
    """The rows of one domain, or of all, within one slice.

    Attributes:
        never_seen: rows whose item training never took in the domain.
        metrics: means over users with their intervals; empty where there are no rows.
    """

    name: str
    num_rows: int
    num_users: int
    never_seen: int
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Slice:
    """A part of the held-out positives, by domain and then over domains."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Summary:
    """Means with intervals of the given level."""

    split: str
    level: float
    slices: tuple[Slice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `slices.NAME.GROUP.metrics.METRIC.{estimate,low,high}`."""
        slices = {part.name: {group.name: _group_dict(group) for group in part.groups} for part in self.slices}
        return {"split": self.split, "level": self.level, "slices": slices}

    def to_markdown(self) -> str:
        """A table a slice; an interval stands in brackets behind its mean."""
        texts = [f"Split {self.split}; means over users, with {self.level:.0%} intervals."]
        for part in self.slices:
            if not any(group.num_rows for group in part.groups):
                texts.append(f"## {part.name.capitalize()}\n\nNo rows.")
                continue
            metrics = list(dict.fromkeys(name for group in part.groups for name in group.metrics))
            header = ["domain", "rows", "users", "never seen", *metrics]
            rows = [
                [
                    group.name,
                    f"{group.num_rows:,}",
                    f"{group.num_users:,}",
                    f"{group.never_seen:,}",
                    *(_shown(group.metrics[name]) if name in group.metrics else "" for name in metrics),
                ]
                for group in part.groups
            ]
            texts.append(f"## {part.name.capitalize()}\n\n{markdown_table(header, rows)}")
        return "\n\n".join(texts)

    _repr_markdown_ = to_markdown  # what a notebook shows


def summarise(
    saved: SavedResult, *, num_resamples: int = 1000, level: float = 0.95, with_slices: bool = True
) -> Summary:
    """Every metric's mean by domain, over domains alike (macro), and over domains by their held-out rows.

    Each user counts once in a domain. The slices: users with at most 4 known positives in the domain and all others;
    items that training took at most 5 times in the domain. The same result gives the same intervals: bootstrapped, or,
    for groups of more than 100,000 users, normal.

    Raises:
        InputError: there are no rows.
    """
    result = saved.result
    if not result.domain.numel():
        raise InputError(f"split {saved.split!r} has no held-out positives to judge by")
    cold_user = result.known <= COLD_USER_POSITIVES
    parts = {"all": torch.ones_like(cold_user)}
    if with_slices:
        parts |= {
            f"cold users (at most {COLD_USER_POSITIVES} known positives)": cold_user,
            f"warm users (more than {COLD_USER_POSITIVES})": ~cold_user,
            f"cold items (at most {COLD_ITEM_POSITIVES} training positives)": result.item_count <= COLD_ITEM_POSITIVES,
        }
    slices = [_slice(name, saved, keep, num_resamples, level) for name, keep in parts.items()]
    return Summary(saved.split, level, tuple(slices))


def user_means(result: RetrievalResult, metric: str, keep: Bool[Tensor, " row"]) -> UserMeans:
    """Each user's mean of a metric in each domain, over the rows to keep."""
    domain, user, value = result.domain[keep], told_apart(result.user_row)[keep], result.metrics[metric][keep]
    users, place = torch.unique(torch.stack([domain, user], dim=1), dim=0, return_inverse=True)
    total = torch.zeros(len(users), dtype=torch.float64).index_add_(0, place, value.double())
    return UserMeans(total / torch.bincount(place, minlength=len(users)), users[:, 0])


def traffic_scaled(means: UserMeans, result: RetrievalResult, keep: Bool[Tensor, " row"]) -> Float[Tensor, " user"]:
    """Values whose macro mean is the mean over domains weighted by their rows."""
    traffic = torch.bincount(result.domain[keep]).double()
    share = traffic / traffic.sum() * (traffic > 0).sum()
    return means.value * share[means.domain]


def normal_interval(value: Float[Tensor, " user"], domain: Int[Tensor, " user"], *, level: float) -> Interval:
    """Interval of the macro mean by its normal approximation, which many users make as good as a bootstrap."""
    count = torch.bincount(domain).double()
    mean = torch.zeros_like(count).index_add_(0, domain, value) / count
    variance = torch.zeros_like(count).index_add_(0, domain, (value - mean[domain]).square()) / count
    present = count > 0
    estimate = float(mean[present].mean())
    error = float((variance[present] / count[present]).sum().sqrt() / present.sum())
    reach = error * NormalDist().inv_cdf((1 + level) / 2)
    return Interval(estimate, estimate - reach, estimate + reach, error)


def save_result(saved: SavedResult, file: Path) -> None:
    """Write a result as Parquet, a line a held-out positive; the file is whole or as it was."""
    result = saved.result
    columns = {
        "domain": result.domain,
        "user_row": result.user_row,
        "item_row": result.item_row,
        "known": result.known,
        "item_count": result.item_count,
        **result.metrics,
    }
    meaning = {"domain_names": json.dumps(saved.domain_names), "split": saved.split}
    write_columns(columns, meaning, file)


def load_result(file: Path) -> SavedResult:
    """Read what `save_result` wrote; raises InputError where the file holds something else."""
    if not file.is_file():
        raise InputError(f"{file}: no such result; make one with 'isthmus evaluate'")
    try:
        is_result = {"domain_names", "split"} <= set(read_meaning(file))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not Parquet ({str(error).splitlines()[0]}); evaluate again") from error
    columns, meaning = read_columns(file) if is_result else ({}, {})
    if not set(KEYS) <= set(columns):
        raise InputError(f"{file}: not the result of an evaluation; make one with 'isthmus evaluate'")
    result = RetrievalResult(
        domain=columns["domain"],
        user_row=columns["user_row"],
        item_row=columns["item_row"],
        known=columns["known"],
        item_count=columns["item_count"],
        metrics={name: column for name, column in columns.items() if name not in KEYS},
    )
    return SavedResult(result, tuple(json.loads(meaning["domain_names"])), meaning["split"])


def _slice(name: str, saved: SavedResult, keep: Bool[Tensor, " row"], num_resamples: int, level: float) -> Slice:
    result, names = saved.result, saved.domain_names
    by_domain = [keep & (result.domain == number) for number in range(len(names))]
    means = {metric: user_means(result, metric, keep) for metric in result.metrics}

    def interval(value: Tensor, domain: Tensor) -> Interval:
        if value.numel() > MANY_USERS:
            return normal_interval(value, domain, level=level)
        generator = torch.Generator().manual_seed(0)  # the same result always gives the same interval
        return bootstrap_interval(value, domain, num_resamples=num_resamples, level=level, generator=generator)

    groups = []
    for number, rows in enumerate(by_domain):
        metrics = {}
        for metric, mean in means.items():
            ours = mean.domain == number
            if bool(ours.any()):
                metrics[metric] = interval(mean.value[ours], mean.domain[ours])
        groups.append(_group(names[number], saved, rows, metrics))
    if len(names) > 1 and bool(keep.any()):
        macro = {metric: interval(mean.value, mean.domain) for metric, mean in means.items()}
        traffic = {metric: interval(traffic_scaled(mean, result, keep), mean.domain) for metric, mean in means.items()}
        groups += [_group(MACRO, saved, keep, macro), _group(TRAFFIC, saved, keep, traffic)]
    return Slice(name, tuple(groups))


def _group(name: str, saved: SavedResult, rows: Bool[Tensor, " row"], metrics: dict[str, Interval]) -> Group:
    result = saved.result
    num_users = len(user_means(result, next(iter(result.metrics)), rows).value)
    never_seen = int((result.item_count[rows] == 0).sum())
    return Group(name, int(rows.sum()), num_users, never_seen, metrics)


def _group_dict(group: Group) -> dict[str, Any]:
    metrics = {name: {"estimate": i.estimate, "low": i.low, "high": i.high} for name, i in group.metrics.items()}
    return {
        "rows": group.num_rows,
        "users": group.num_users,
        "never_seen": group.never_seen,
        "metrics": metrics,
    }


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
