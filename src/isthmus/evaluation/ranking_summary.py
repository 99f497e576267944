"""What an evaluation of a click model says, and two of them compared: by domain, with intervals over users."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError
from isthmus.evaluation.compare import Compared, Comparison
from isthmus.evaluation.ranking import MACRO, METRICS, RankingResult, ranking_metrics, row_log_loss
from isthmus.evaluation.result_files import read_columns, read_meaning, write_columns
from isthmus.files import markdown_table
from isthmus.metrics import Interval, PairedTest, auc_by_group, told_apart

COLD_ROWS = 5
NUM_RESAMPLES = 1000
KIND, KEPT_SHARES = "isthmus_ranking", "kept_shares"
BEFORE = {"calibration": "calibration_uncorrected", "calibration_error": "calibration_error_uncorrected"}
TESTED = ("auc", "grouped_auc", "log_loss")


@dataclass(frozen=True)
class SavedRanking:
    """An evaluation as it lies on disk: its lines, and what their domain numbers mean.

    Attributes:
        kept_shares: of each domain's negatives, the share that was trained on, for which the logits are corrected;
            empty: all of them.
    """

    result: RankingResult
    domain_names: tuple[str, ...]
    split: str
    kept_shares: tuple[float, ...] = ()

    def uncorrected(self) -> RankingResult:
        """The result with the logits as the model gave them."""
        shares = torch.tensor(self.kept_shares or [1.0] * len(self.domain_names), dtype=torch.float64)
        return replace(self.result, logit=self.result.logit - shares.log()[self.result.domain])


def save_ranking(saved: SavedRanking, file: Path) -> None:
    """Write a line a row to a Parquet file."""
    meaning = {
        KIND: "1",
        "domain_names": json.dumps(saved.domain_names),
        "split": saved.split,
        KEPT_SHARES: json.dumps(saved.kept_shares),
    }
    write_columns(vars(saved.result), meaning, file)


def is_ranking_file(file: Path) -> bool:
    """Whether a file is the result of a click model."""
    try:
        return KIND in read_meaning(file)
    except (ValueError, OSError):  # PyArrow's own errors are ValueErrors
        return False


def load_ranking(file: Path) -> SavedRanking:
    """Read what `save_ranking` wrote.

    Raises:
        InputError: there is no such file, or it is none of a click model.
    """
    if not file.is_file() or not is_ranking_file(file):
        raise InputError(f"{file}: no result of a click model; make one with 'isthmus evaluate RUN'")
    columns, meaning = read_columns(file)
    return SavedRanking(
        RankingResult(**columns),
        tuple(json.loads(meaning["domain_names"])),
        meaning["split"],
        tuple(json.loads(meaning.get(KEPT_SHARES, "[]"))),
    )


@dataclass(frozen=True)
class RankingGroup:
    """The rows of one domain within one slice; `metrics` is empty where there are none."""

    name: str
    num_rows: int
    num_positives: int
    num_users: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class RankingSummary:
    """Metrics by slice and domain; intervals of 95 % from resampling users."""

    split: str
    slices: dict[str, tuple[RankingGroup, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: `slices.NAME.DOMAIN.metrics.METRIC`."""
        slices = {
            name: {
                group.name: {
                    "rows": group.num_rows,
                    "positives": group.num_positives,
                    "users": group.num_users,
                    "metrics": group.metrics,
                    "intervals": {metric: [one.low, one.high] for metric, one in group.intervals.items()},
                }
                for group in groups
            }
            for name, groups in self.slices.items()
        }
        return {"split": self.split, "level": 0.95, "slices": slices}

    def to_markdown(self) -> str:
        """A table a slice; an interval stands in brackets behind its value."""
        texts = [f"Split {self.split}; 95% intervals from resampling users. Grouped AUC: users weighted by their rows."]
        is_corrected = any(
            BEFORE["calibration"] in group.metrics for groups in self.slices.values() for group in groups
        )
        shown = (*METRICS, *BEFORE.values()) if is_corrected else METRICS
        if is_corrected:
            texts.append(
                "Trained on a share of the negatives: logits are corrected for it. 'uncorrected' is what the "
                "probabilities would be worth without that, on the same rows."
            )
        for name, groups in self.slices.items():
            rows = [
                [
                    group.name,
                    f"{group.num_rows:,}",
                    f"{group.num_positives:,}",
                    f"{group.num_users:,}",
                    *(_shown(group, metric) for metric in shown),
                ]
                for group in groups
                if group.num_rows
            ]
            texts.append(f"## {name.capitalize()}")
            texts.append(markdown_table(["domain", "rows", "positives", "users", *shown], rows) if rows else "No rows.")
        return "\n\n".join(texts)

    _repr_markdown_ = to_markdown  # what a notebook shows


def summarise_ranking(saved: SavedRanking, *, num_resamples: int = NUM_RESAMPLES) -> RankingSummary:
    """Sum up a result: all rows, and those of users and items of which training knows little or much in the domain."""
    result, uncorrected = saved.result, saved.uncorrected()
    slices = {
        "all rows": torch.ones_like(result.domain, dtype=torch.bool),
        f"cold users (fewer than {COLD_ROWS} training rows in the domain)": result.user_rows < COLD_ROWS,
        "warm users": result.user_rows >= COLD_ROWS,
        f"cold items (fewer than {COLD_ROWS} training rows in the domain)": result.item_rows < COLD_ROWS,
        "warm items": result.item_rows >= COLD_ROWS,
    }
    groups = {}
    for name, keep in slices.items():
        part = result.select(keep)
        metrics = ranking_metrics(part, saved.domain_names, rows=name)
        if any(share < 1 for share in saved.kept_shares):
            before = ranking_metrics(uncorrected.select(keep), saved.domain_names, rows=name)
            for domain, values in before.items():
                metrics[domain] |= {name: values[metric] for metric, name in BEFORE.items()}
        lines = []
        for number, domain in enumerate([*saved.domain_names, MACRO]):
            own = part if domain == MACRO else part.select(part.domain == number)
            intervals = {}
            if name == "all rows" and own.label.numel():
                samples = resampled([own.logit], own, saved.domain_names, num_resamples=num_resamples)
                intervals = {m: _interval(metrics[domain][m], values[0]) for m, values in samples.items()}
            users = torch.unique(told_apart(own.user_row)).numel()
            lines.append(
                RankingGroup(domain, own.label.numel(), int(own.label.sum()), users, metrics[domain], intervals)
            )
        groups[name] = tuple(lines)
    return RankingSummary(saved.split, groups)


def compare_rankings(
    a: SavedRanking, b: SavedRanking, *, name_a: str = "a", name_b: str = "b", num_resamples: int = NUM_RESAMPLES
) -> Comparison:
    """Test AUC, grouped AUC and log loss in each domain and in the macro mean, on the same resampled users.

    Domains that only one of the two was trained on are left out.

    Raises:
        InputError: the two are not over the same rows, or have no domain in common.
    """
    shared = sorted(set(a.result.domain.tolist()) & set(b.result.domain.tolist()))
    a, b = (replace(one, result=one.result.select(_is_in(one.result.domain, shared))) for one in (a, b))
    if not shared or a.domain_names != b.domain_names or a.split != b.split or not _same_rows(a.result, b.result):
        raise InputError(f"{name_a} and {name_b} are not over the same rows; evaluate both on one split of one dataset")
    names = a.domain_names
    values_a, values_b = ranking_metrics(a.result, names), ranking_metrics(b.result, names)
    rows = []
    for number, domain in enumerate([*names, MACRO]):
        keep = torch.ones_like(a.result.domain, dtype=torch.bool) if domain == MACRO else a.result.domain == number
        if not bool(keep.any()):
            continue
        own = a.result.select(keep)
        samples = resampled([own.logit, b.result.logit[keep]], own, names, num_resamples=num_resamples)
        for metric in TESTED:
            ours, theirs = values_a[domain][metric], values_b[domain][metric]
            test = paired(ours - theirs, samples[metric][0] - samples[metric][1])
            rows.append(Compared(metric, domain, ours, theirs, test))
    return Comparison(name_a, name_b, a.split, tuple(rows), "intervals and p from resampling users, the same for both")


def paired(difference: float, samples: Float[Tensor, " resample"]) -> PairedTest:
    """The difference with its interval; p is twice the share of resampled differences on the other side of 0.

    A resample in which the metric has no value, such as the AUC of rows of one label, does not count; where it has none
    on the rows themselves, p is NaN.
    """
    interval = _interval(difference, samples)
    known = samples[~samples.isnan()]
    if math.isnan(difference) or not known.numel():
        return PairedTest(interval, float("nan"))
    share = min(float((known <= 0).double().mean()), float((known >= 0).double().mean()))
    return PairedTest(interval, min(1.0, 2 * (share * known.numel() + 1) / (known.numel() + 1)))


def resampled(
    logits: Sequence[Float[Tensor, " row"]],
    result: RankingResult,
    names: Sequence[str],
    *,
    num_resamples: int,
    metrics: Sequence[str] = TESTED,
    seed: int = 0,
) -> dict[str, list[Float[Tensor, " resample"]]]:
    """The tested metrics of each scoring on users drawn anew, the same for all scorings; macro means over domains.

    A user's rows of all domains go together, since they vary together. The mean is over the domains in which the first
    scoring has a value; a resample in which one of these has none has none itself. The same result always gives the
    same numbers.
    """
    _, user = torch.unique(told_apart(result.user_row), return_inverse=True)
    num_users = int(user.max()) + 1
    rng = np.random.default_rng(seed)
    domains = [d for d in range(len(names)) if bool((result.domain == d).any())]
    scorers = [_scorers(logit, result, user, domains) for logit in logits]
    samples: dict[str, list[list[float]]] = {metric: [[] for _ in logits] for metric in metrics}
    everyone = torch.ones(num_users, dtype=torch.float64)
    counted = {
        metric: [place for place, scorer in enumerate(scorers[0][metric]) if not math.isnan(scorer(everyone))]
        for metric in metrics
    }
    for _ in range(num_resamples):
        drawn = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users).astype(np.float64)
        weight = torch.from_numpy(drawn)
        for place, by_metric in enumerate(scorers):
            for metric in metrics:
                values = [by_metric[metric][number](weight) for number in counted[metric]]
                samples[metric][place].append(sum(values) / len(values) if values else float("nan"))
    return {
        metric: [torch.tensor(values, dtype=torch.float64) for values in of_logits]
        for metric, of_logits in samples.items()
    }


Scorer = Callable[[Tensor], float]


def _scorers(logit: Tensor, result: RankingResult, user: Tensor, domains: Sequence[int]) -> dict[str, list[Scorer]]:
    """For each metric and domain, what gives its value where users count by weights."""
    by_metric: dict[str, list[Scorer]] = {metric: [] for metric in TESTED}
    for domain in domains:
        ours = result.domain == domain
        own_logit, label, own_user = logit[ours], result.label[ours], user[ours]
        by_metric["auc"].append(weighted_auc(own_logit, label, own_user))
        users, group, count = torch.unique(own_user, return_inverse=True, return_counts=True)
        value = auc_by_group(own_logit, label > 0, group, users.numel())
        known = ~value.isnan()
        by_metric["grouped_auc"].append(_weighted_mean(value[known], users[known], count[known].double()))
        ones = torch.ones(int(ours.sum()), dtype=torch.float64)
        by_metric["log_loss"].append(_weighted_mean(row_log_loss(own_logit, label), own_user, ones))
    return by_metric


def weighted_auc(logit: Tensor, label: Tensor, user: Tensor) -> Scorer:
    """AUC where each row counts by its user's weight, ties by half; sorted once for all weights."""
    ordered, order = logit.sort()
    is_positive, row_user = label[order] > 0, user[order]
    _, tie = torch.unique_consecutive(ordered, return_inverse=True)
    num_ties = int(tie[-1]) + 1

    def score(weight: Tensor) -> float:
        row_weight = weight[row_user]
        positive = torch.zeros(num_ties, dtype=torch.float64).index_add_(0, tie, row_weight * is_positive)
        negative = torch.zeros(num_ties, dtype=torch.float64).index_add_(0, tie, row_weight * ~is_positive)
        below = negative.cumsum(0) - negative / 2
        return float((positive * below).sum() / (positive.sum() * negative.sum()))

    return score


def _weighted_mean(value: Tensor, user: Tensor, size: Tensor) -> Scorer:
    def score(weight: Tensor) -> float:
        row_weight = weight[user] * size
        return float((row_weight * value).sum() / row_weight.sum())

    return score


def _interval(estimate: float, samples: Tensor) -> Interval:
    known = samples[~samples.isnan()]
    if not known.numel():
        return Interval(estimate, float("nan"), float("nan"), float("nan"))
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(estimate, low, high, float(known.std()))


def _is_in(domain: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(domain, torch.tensor(wanted, dtype=domain.dtype))


def _same_rows(a: RankingResult, b: RankingResult) -> bool:
    pairs = ((a.domain, b.domain), (a.user_row, b.user_row), (a.item_row, b.item_row), (a.label, b.label))
    return all(torch.equal(one, other) for one, other in pairs)


def _shown(group: RankingGroup, metric: str) -> str:
    text = f"{group.metrics[metric]:.4f}"
    interval = group.intervals.get(metric)
    return text if interval is None else f"{text} [{interval.low:.4f}, {interval.high:.4f}]"
