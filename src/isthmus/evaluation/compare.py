"""Two evaluations of the same held-out positives, compared row for row."""

from dataclasses import dataclass
from typing import Any

import torch

from isthmus.errors import InputError
from isthmus.evaluation.summary import MACRO, SavedResult, user_means
from isthmus.files import markdown_table
from isthmus.metrics import PairedTest, paired_test


@dataclass(frozen=True)
class Compared:
    """One metric in one domain, or its macro mean: both means, and the paired test of a - b."""

    metric: str
    group: str
    mean_a: float
    mean_b: float
    test: PairedTest


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows; a difference is a - b.

    Attributes:
        how: what the figures are, and what the test resamples.
    """

    name_a: str
    name_b: str
    split: str
    rows: tuple[Compared, ...]
    how: str = "means over users, paired by user"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [
            {
                "metric": row.metric,
                "group": row.group,
                "a": row.mean_a,
                "b": row.mean_b,
                "difference": row.test.difference.estimate,
                "low": row.test.difference.low,
                "high": row.test.difference.high,
                "p_value": row.test.p_value,
            }
            for row in self.rows
        ]
        return {"a": self.name_a, "b": self.name_b, "split": self.split, "rows": rows}

    def to_markdown(self) -> str:
        """A table, a row a metric and domain."""
        header = ["metric", "domain", "a", "b", "a - b", "95% interval", "p"]
        rows = [
            [
                row.metric,
                row.group,
                f"{row.mean_a:.4f}",
                f"{row.mean_b:.4f}",
                f"{row.test.difference.estimate:+.4f}",
                f"[{row.test.difference.low:+.4f}, {row.test.difference.high:+.4f}]",
                f"{row.test.p_value:.4f}",
            ]
            for row in self.rows
        ]
        head = f"Split {self.split}; a is {self.name_a}, b is {self.name_b}; {self.how}."
        return f"{head}\n\n{markdown_table(header, rows, num_left=2)}"

    _repr_markdown_ = to_markdown  # what a notebook shows


def compare(
    a: SavedResult, b: SavedResult, *, name_a: str = "a", name_b: str = "b", num_resamples: int = 10_000
) -> Comparison:
    """Test every metric that both have, in each domain and in the macro mean, paired by user.

    Raises:
        InputError: the two are not over the same held-out positives, or share no metric.
    """
    _require_same_rows(a, b, name_a, name_b)
    metrics = [name for name in a.result.metrics if name in b.result.metrics]
    if not metrics:
        raise InputError(f"{name_a} and {name_b} share no metric")
    everything = torch.ones_like(a.result.domain, dtype=torch.bool)
    rows = []
    for metric in metrics:
        means_a, means_b = user_means(a.result, metric, everything), user_means(b.result, metric, everything)
        difference_of = {name: means_a.domain == number for number, name in enumerate(a.domain_names)}
        difference_of = {name: ours for name, ours in difference_of.items() if bool(ours.any())}
        if len(difference_of) > 1:
            difference_of[MACRO] = torch.ones_like(means_a.domain, dtype=torch.bool)
        for group, ours in difference_of.items():
            value_a, value_b, domain = means_a.value[ours], means_b.value[ours], means_a.domain[ours]
            counts = torch.bincount(domain)
            weight = 1 / (counts[domain] * (counts > 0).sum())
            test = paired_test(
                value_a, value_b, domain, num_resamples=num_resamples, generator=torch.Generator().manual_seed(0)
            )
            mean_a, mean_b = float((value_a * weight).sum()), float((value_b * weight).sum())
            rows.append(Compared(metric, group, mean_a, mean_b, test))
    return Comparison(name_a, name_b, a.split, tuple(rows))


def _require_same_rows(a: SavedResult, b: SavedResult, name_a: str, name_b: str) -> None:
    """Raises InputError, saying what differs, where a paired test would pair different rows."""
    if a.domain_names != b.domain_names:
        raise InputError(
            f"{name_a} has domains {', '.join(a.domain_names)}, {name_b} {', '.join(b.domain_names)}: "
            "only results on the same dataset can be compared"
        )
    if a.split != b.split:
        raise InputError(f"{name_a} is on split {a.split!r}, {name_b} on {b.split!r}; evaluate both on one split")
    if (num_a := a.result.domain.numel()) != (num_b := b.result.domain.numel()):
        raise InputError(f"{name_a} has {num_a} rows, {name_b} {num_b}; evaluate both on the same dataset")
    keys_a, keys_b = (
        torch.stack([saved.result.user_row, saved.result.domain, saved.result.item_row], dim=1) for saved in (a, b)
    )
    wrong = (keys_a != keys_b).any(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"row {row} is (user, domain, item) {tuple(keys_a[row].tolist())} in {name_a} and "
            f"{tuple(keys_b[row].tolist())} in {name_b}; evaluate both on the same dataset"
        )
