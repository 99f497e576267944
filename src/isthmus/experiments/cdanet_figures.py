"""CDAnet Figures 3 and 4 on Epinions: AUC against the share of the training rows, and against alpha and beta.

Users new to the target domain, as in Table 2, whose searched settings are used; one search serves all points of a line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from isthmus.errors import InputError
from isthmus.experiments.cdanet_rows import FAIR_TREES, FINE_TUNE, MAIN, NEW_USERS_REFERENCES, all_rows
from isthmus.experiments.cdanet_table_2 import (
    PAIR,
    by_target,
    cold_problem,
    default_trials,
    new_table,
)
from isthmus.experiments.ranking_grid import Row, run_grid, tuned
from isthmus.experiments.table import MACRO, TableRow

Figure = Literal["cdanet-figure-3", "cdanet-figure-4"]
SHARES = (0.1, 0.25, 0.5, 1.0)
SHARE_METHODS = ("MLP", "MMoE", FINE_TUNE, MAIN)
LEVELS = {"item bias and the user's bias elsewhere": ":", FAIR_TREES: "--"}
ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0)
BETAS = (0.0001, 0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Point:
    """A row of the table, and where it stands in the figure.

    Attributes:
        panel: the name of what is varied.
        line: the line that it is a point of.
        x: the value of what is varied.
        control: the method that it is compared with.
    """

    row: Row
    panel: str
    line: str
    x: float
    control: str


def reproduce(
    figure: Figure,
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool = False,
    trials: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train and judge every point, and write its table and `figure.png`; gives the path of the table.

    Args:
        data: the folder of the Epinions files.
        num_seeds: of training; the users are those of Table 2's first draw.
        quick: the ends of every line, with two trials each.
        trials: of each row's search; None: eight, or two where quick; 0: the settings as declared.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    seeds = range(1 if quick else num_seeds)
    problems = [cold_problem(data, out, target, 0, say) for target in PAIR]
    methods = SHARE_METHODS if figure == "cdanet-figure-3" else (FINE_TUNE, MAIN)
    wanted = [row for row in all_rows() if row.method in methods]
    found = tuned(wanted, problems[0], out, trials=default_trials(quick) if trials is None else trials, say=say)
    points = share_points(found, quick) if figure == "cdanet-figure-3" else weight_points(found, quick)
    rows = list({point.row.method: point.row for point in points}.values())
    results = run_grid(rows, NEW_USERS_REFERENCES, problems, seeds, out, say)
    title = {
        "cdanet-figure-3": "CDAnet Figure 3 on Epinions: share of the training rows",
        "cdanet-figure-4": "CDAnet Figure 4 on Epinions: alpha and beta",
    }[figure]
    controls = {point.row.method: point.control for point in points}
    table = new_table(title, rows, NEW_USERS_REFERENCES, problems, results, controls=controls)
    folder = out / figure
    report = table.write(folder)
    named = [(row.method, row.group) for row in rows] + [(row.method, row.group) for row in NEW_USERS_REFERENCES]
    lines = {
        method: TableRow(method, group, by_target(method, problems, results), 0, {}, "") for method, group in named
    }
    plot(points, lines, folder / "figure.png")
    return report


def share_points(found: Sequence[Row], quick: bool) -> list[Point]:
    """Every method with each share of the training rows; the control at a share has the same share."""
    return [
        Point(
            changed(row, named(row.method, share), training={"train_share": share}),
            "share of the training rows",
            row.method,
            share,
            named(FINE_TUNE, share),
        )
        for row in found
        for share in (SHARES[0::3] if quick else SHARES)
    ]


def named(method: str, share: float) -> str:
    """A method with a share of the rows; with all of them it is the table's own row, which is not trained again."""
    return method if share == 1 else f"{method}, {share:.0%} of the rows"


def weight_points(found: Sequence[Row], quick: bool) -> list[Point]:
    """CDAnet with each alpha, then with each beta, the other weight being what was found."""
    control = next(row for row in found if row.method == FINE_TUNE)
    main = next(row for row in found if row.method == MAIN)
    points = []
    for panel, values in (("alpha", ALPHAS), ("beta", BETAS)):
        for value in values[0::4] if quick else values:
            row = changed(main, f"{MAIN}, {panel} {value:g}", ranking={panel: value})
            points.append(Point(control, panel, FINE_TUNE, value, FINE_TUNE))
            points.append(Point(row, panel, MAIN, value, FINE_TUNE))
    return points


def changed(row: Row, method: str, *, ranking: Mapping[str, Any] = {}, training: Mapping[str, Any] = {}) -> Row:
    """The row under another name, with some settings changed."""
    settings = row.settings.model_copy(
        update={
            "ranking": row.settings.ranking.model_copy(update=dict(ranking)),
            "training": row.settings.training.model_copy(update=dict(training)),
        }
    )
    return replace(row, method=method, settings=settings)


def plot(points: Sequence[Point], rows: Mapping[str, TableRow], file: Path) -> None:
    """Macro AUC of every line, a panel for each thing that is varied; bars are standard deviations over seeds.

    Classical rows, fitted to all training rows, are levels.
    """
    from matplotlib.figure import Figure as Canvas

    panels = list(dict.fromkeys(point.panel for point in points))
    canvas = Canvas(figsize=(6 * len(panels), 5.4), layout="constrained")
    for axes, panel in zip(canvas.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        for line in dict.fromkeys(point.line for point in points):
            of_line = [point for point in points if (point.panel, point.line) == (panel, line)]
            values = [rows[point.row.method].values(MACRO, "auc") for point in of_line]
            axes.errorbar(
                [point.x for point in of_line],
                [mean(each) for each in values],
                yerr=[stdev(each) if len(each) > 1 else 0.0 for each in values],
                fmt="o-",
                capsize=2,
                label=line,
            )
        for level, style in LEVELS.items():
            axes.axhline(mean(rows[level].values(MACRO, "auc")), color="gray", linestyle=style, label=level)
        axes.set_xscale("log")
        values_of_x = sorted({point.x for point in points if point.panel == panel})
        axes.set_xticks(values_of_x, [f"{x:g}" for x in values_of_x])
        axes.minorticks_off()
        axes.set_xlabel(panel)
        axes.grid(alpha=0.3)
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(panels))
    canvas.axes[0].set_ylabel(f"AUC, macro over {', '.join(PAIR)}")
    canvas.savefig(file, dpi=130)
