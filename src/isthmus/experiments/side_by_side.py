"""Two models' best items beside each other, as a picture, Markdown and JSON, and how often each has a hit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.files import json_text, markdown_table, write_text
from isthmus.metrics import PairedTest, paired_test

TITLE = "CDAnet Figure 2 on books and movies: the five best of Base and of CDAnet"
MODELS = ("Base", "CDAnet")
HIT, BAD = "\N{CHECK MARK}", "\N{BALLOT X}"
LEGEND = f"{HIT} taken by the user, held out    {BAD} drawn, not taken    bold: not in the other list"
MOST_LETTERS = 44


@dataclass(frozen=True)
class Listed:
    """One place of a list.

    Attributes:
        is_hit: the user took it, held out; otherwise it was drawn and is marked as a bad case.
        is_in_both: the other model has it among its best too.
    """

    title: str
    is_hit: bool
    is_in_both: bool


@dataclass(frozen=True)
class Pair:
    """One user's best of a domain by both models, the best first."""

    user: str
    domain: str
    num_positives: int
    base: Sequence[Listed]
    main: Sequence[Listed]


@dataclass(frozen=True)
class SideBySide:
    """What both models make of the same lists.

    Attributes:
        domain: number of each list's domain.
        hits: of both models, for each seed and list, 1 where a positive is among the best.
        auc: of both models, for each seed and domain, that of all test rows.
        num_differ: by domain, lists of the first seed whose best are not the same items.
        num_drawn: items in a list beside the positives.
    """

    domains: tuple[str, ...]
    domain: Int[Tensor, " list"]
    hits: tuple[Float[Tensor, "seed list"], Float[Tensor, "seed list"]]
    auc: tuple[Sequence[Mapping[str, float]], ...]
    num_differ: Sequence[int]
    pairs: Sequence[Pair]
    num_drawn: int

    def test(self, number: int) -> PairedTest:
        """How much more often CDAnet has a hit in a domain: lists' means over seeds, one list a user."""
        base, main = (hits[:, self.domain == number].mean(dim=0) for hits in self.hits)
        zeros = torch.zeros(main.numel(), dtype=torch.int64)
        return paired_test(main, base, zeros, generator=torch.Generator().manual_seed(number))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = []
        for number, name in enumerate(self.domains):
            of_domain = [hits[:, self.domain == number].mean(dim=1).tolist() for hits in self.hits]
            rows.append(
                {
                    "domain": name,
                    "num_lists": int((self.domain == number).sum()),
                    "num_differ": self.num_differ[number],
                    "hit@5": dict(zip(MODELS, of_domain, strict=True)),
                    "auc": {m: [one[name] for one in auc] for m, auc in zip(MODELS, self.auc, strict=True)},
                    "difference": asdict(self.test(number)),
                }
            )
        pairs = [asdict(pair) for pair in self.pairs]
        return {"title": TITLE, "num_drawn": self.num_drawn, "domains": rows, "pairs": pairs}

    def to_markdown(self) -> str:
        """The counts, then the lists."""
        header = ["domain", "lists", "that differ", *(f"hit@5 {model}" for model in MODELS), "CDAnet less Base"]
        header += [f"test AUC {model}" for model in MODELS]
        lines = []
        for row in self.to_dict()["domains"]:
            test = row["difference"]
            one = test["difference"]
            words = f"{one['estimate']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}], p {test['p_value']:.4f}"
            counts = [row["domain"], f"{row['num_lists']:,}", f"{row['num_differ']:,}"]
            hit_rates = [in_short(row["hit@5"][model]) for model in MODELS]
            lines.append([*counts, *hit_rates, words, *(in_short(row["auc"][model]) for model in MODELS)])
        notes = NOTES.format(num_drawn=self.num_drawn)
        parts = [f"# {TITLE}", markdown_table(header, lines), notes, *(in_words(pair) for pair in self.pairs)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """Write `table.md`, `table.json` and `figure.png`; gives the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.json", json_text(self.to_dict()) + "\n")
        self.plot(folder / "figure.png")
        report = folder / "table.md"
        write_text(report, self.to_markdown())
        return report

    def plot(self, file: Path) -> None:
        """A panel a user: Base's best at the left, CDAnet's at the right; items that one of them alone has are bold."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 0.6 + 1.9 * len(self.pairs)), layout="constrained")
        panels = figure.subplots(max(1, len(self.pairs)), 1, squeeze=False)[:, 0]
        for axes in panels:
            axes.set_axis_off()
        for axes, pair in zip(panels, self.pairs, strict=False):
            axes.set_title(f"{pair.domain}, user {pair.user}", loc="left", fontsize=11)
            for x, model, best in zip((0.0, 0.5), MODELS, (pair.base, pair.main), strict=True):
                axes.text(x + 0.03, 0.92, model, weight="bold", fontsize=10, transform=axes.transAxes)
                for place, one in enumerate(best):
                    color = "tab:green" if one.is_hit else "tab:red"
                    y = 0.76 - 0.17 * place
                    mark = HIT if one.is_hit else BAD
                    axes.text(x, y, mark, color=color, weight="bold", fontsize=11, transform=axes.transAxes)
                    weight = "normal" if one.is_in_both else "bold"
                    text = f"{place + 1}. {shortened(one.title)}"
                    # A dollar sign would begin a formula.
                    axes.text(x + 0.03, y, text, weight=weight, fontsize=10, parse_math=False, transform=axes.transAxes)
        figure.supxlabel(LEGEND, x=0.01, ha="left", fontsize=9)
        figure.savefig(file, dpi=130)


NOTES = """\
- a list: a user's held-out positives of the domain and {num_drawn} items drawn by popularity among those that he
  took in no split. hit@5: a held-out positive is among the five best; mean ± standard deviation over seeds.
- CDAnet less Base: lists' means over seeds, 95 % interval of a bootstrap of users, p of flipping users' signs.
- below, of each domain the first users by id whose five best differ, first seed: \N{CHECK MARK} taken, held out;
  \N{BALLOT X} drawn, so not taken, which is not the same as not liked; bold: not in the other list."""


def in_short(values: Sequence[float]) -> str:
    """Mean over seeds and their standard deviation, where there are several."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def shortened(title: str) -> str:
    """A title that fits its column."""
    return title if len(title) <= MOST_LETTERS else f"{title[: MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def in_words(pair: Pair) -> str:
    """A user's two lists as a table."""

    def cell(one: Listed) -> str:
        return f"{HIT if one.is_hit else BAD} {one.title if one.is_in_both else f'**{one.title}**'}"

    rows = [[cell(base), cell(main)] for base, main in zip(pair.base, pair.main, strict=True)]
    head = f"{pair.domain}, user {pair.user}, {pair.num_positives} held out"
    return f"{head}\n\n{markdown_table(MODELS, rows, num_left=2)}"
