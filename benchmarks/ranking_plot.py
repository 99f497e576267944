"""What `benchmarks.ranking_speed` wrote, as a picture: python -m benchmarks.ranking_plot RESULTS.json PICTURE.png"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

COLOURS = {"float32": "tab:blue", "bfloat16": "tab:cyan", "torch-rechub": "tab:orange"}


def bars(results: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """For each model, by how it ran: microseconds of CPU a row, and the bound where there is one; medians of turns."""
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for of_one in zip(*results["ours"], strict=True):
        bound = median(one["bound"] for one in of_one)
        train = median(one["train"] for one in of_one)
        found.setdefault(of_one[0]["model"], {})[of_one[0]["precision"]] = (train, bound)
    for of_one in zip(*results["peers"], strict=True):
        found[of_one[0]["model"]][of_one[0]["peer"]] = (median(one["train"] for one in of_one), None)
    return found


def plot(results: Mapping[str, Any], file: Path) -> None:
    """A bar each, and a black mark at its bound."""
    from matplotlib.figure import Figure

    models = bars(results)
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes = figure.subplots()
    place, places, labels = 0.0, [], []
    for model, by_way in reversed(models.items()):
        first = place
        for way, (value, bound) in reversed(by_way.items()):
            axes.barh(place, value, color=COLOURS[way], height=0.85)
            axes.text(value, place, f" {value:.1f}", va="center", fontsize=8)
            if bound is not None:
                axes.plot([bound, bound], [place - 0.42, place + 0.42], color="black")
            place += 1
        places.append((first + place - 1) / 2)
        labels.append(model)
        place += 0.6
    for way, colour in COLOURS.items():
        if any(way in by_way for by_way in models.values()):
            axes.barh(0, 0, color=colour, label=way)
    axes.plot([], [], color="black", label="bound: products, gathers, sparse updates")
    axes.set_yticks(places, labels)
    axes.set_xlabel("training, own CPU of a row in microseconds, loader included")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ranking_plot", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args(arguments)
    plot(json.loads(given.results.read_text(encoding="utf-8")), given.picture)


if __name__ == "__main__":
    main()
