"""A table of methods by domains: what reproductions write as Markdown, JSON and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from isthmus.files import json_text, markdown_table, write_text

MACRO = "macro"


@dataclass(frozen=True)
class TableRow:
    """One method.

    Attributes:
        group: the part of the table that it stands in.
        seeds: for each seed, for each domain, for each metric, the value.
        num_parameters: of the networks, without embedding tables; 0: there are none.
        published: the paper's values by domain, where it has the row.
        against: what a paired test says of it, in words.
    """

    method: str
    group: str
    seeds: Sequence[Mapping[str, Mapping[str, float]]]
    num_parameters: int
    published: Mapping[str, float]
    against: str

    def values(self, domain: str, metric: str) -> list[float]:
        """The metric in one domain, or its mean over the domains, for each seed."""
        if domain != MACRO:
            return [seed[domain][metric] for seed in self.seeds]
        return [mean(by_metric[metric] for by_metric in seed.values()) for seed in self.seeds]

    def mean_and_spread(self, domain: str, metric: str) -> tuple[float, float | None]:
        """Mean over seeds and their standard deviation; None where there is one seed."""
        values = self.values(domain, metric)
        return mean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Table:
    """Rows over the same domains, of which one metric is shown by domain and others as macro means."""

    title: str
    domains: tuple[str, ...]
    main_metric: str
    macro_metrics: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.main_metric, *self.macro_metrics)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title,
            "columns": [*self.domains, MACRO],
            "rows": [
                {
                    "method": row.method,
                    "group": row.group,
                    "num_seeds": len(row.seeds),
                    "num_parameters": row.num_parameters,
                    "metrics": {
                        domain: {
                            metric: dict(zip(("mean", "std"), row.mean_and_spread(domain, metric), strict=True))
                            for metric in self.metrics
                        }
                        for domain in (*self.domains, MACRO)
                    },
                    "published": dict(row.published),
                    "paired_test": row.against,
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """The table, a line a method, the paper's values in brackets; facts that no row has make no column."""
        values = [f"{self.main_metric} {domain}" for domain in self.domains]
        values += [f"{metric} {MACRO}" for metric in self.metrics]
        facts = {
            "seeds": [str(len(row.seeds)) for row in self.rows if any(len(other.seeds) > 1 for other in self.rows)],
            "parameters": [f"{row.num_parameters:,}" for row in self.rows if any(r.num_parameters for r in self.rows)],
            "paired test": [row.against for row in self.rows if any(other.against for other in self.rows)],
        }
        facts = {name: cells for name, cells in facts.items() if cells}
        header = ["method", *values, *facts]
        lines = []
        group = ""
        for number, row in enumerate(self.rows):
            if row.group != group:
                group = row.group
                lines.append([f"*{group}*", *[""] * (len(header) - 1)])
            cells = [row.method]
            cells += [_shown(row, domain, self.main_metric) for domain in self.domains]
            cells += [_shown(row, MACRO, metric) for metric in self.metrics]
            lines.append([*cells, *(column[number] for column in facts.values())])
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"# {self.title}\n\n{markdown_table(header, lines)}\n\n{notes}\n"

    def write(self, folder: Path) -> Path:
        """Write `table.md`, `table.json` and `table.png`; gives the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.json", json_text(self.to_dict()) + "\n")
        self.plot(folder / "table.png")
        report = folder / "table.md"
        write_text(report, self.to_markdown())
        return report

    def plot(self, file: Path) -> None:
        """Macro means of the main metric as dots with their spread over seeds, the paper's as crosses."""
        from matplotlib.figure import Figure

        rows = list(reversed(self.rows))
        figure = Figure(figsize=(8.5, 1.2 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        shown = [row.mean_and_spread(MACRO, self.main_metric) for row in rows]
        axes.errorbar(
            [value for value, _ in shown],
            places,
            xerr=[spread or 0.0 for _, spread in shown],
            fmt="o",
            label="measured",
        )
        published = [
            (mean(row.published.values()), place) for place, row in zip(places, rows, strict=True) if row.published
        ]
        if published:
            axes.plot(*zip(*published, strict=True), "x", color="tab:red", label="published")
            axes.legend(loc="lower left")
        axes.set_yticks(list(places), [row.method for row in rows])
        axes.set_xlabel(f"{self.main_metric}, macro over {', '.join(self.domains)}")
        axes.grid(axis="x", alpha=0.3)
        figure.savefig(file, dpi=130)


def _shown(row: TableRow, domain: str, metric: str) -> str:
    value, spread = row.mean_and_spread(domain, metric)
    text = f"{value:.4f}" if spread is None or math.isnan(spread) else f"{value:.4f} ± {spread:.4f}"
    return f"{text} ({row.published[domain]:.3f})" if domain in row.published else text
