"""What the content study found, as Markdown and JSON: the measure with its tests, and titles to read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.files import json_text, markdown_table, write_text
from isthmus.metrics import PairedTest, paired_test

TRANSLATED, UNTRANSLATED, RANDOM_MAP, ANY, BY_TITLE = (
    "translated",
    "not translated",
    "random orthogonal map",
    "any of the user's books",
    "nearest by title",
)
WITHIN, ANY_OTHER = "a book's nearest other books", "any other of the user's books"


@dataclass(frozen=True)
class Measured:
    """One way to choose books for a movie, or for a book: whether what is near within one domain fits at all.

    Attributes:
        model: empty: the way needs none.
        similarity: mean title similarity of a user's movies and the books that are chosen for them.
        num_namesakes: pairs of a movie and a chosen book with its title; of chance, what is to be expected; None: books
            were chosen for books.
    """

    model: str
    way: str
    similarity: Float[Tensor, "seed user"]
    num_namesakes: Float[Tensor, "seed user"] | None


@dataclass(frozen=True)
class Reading:
    """A movie, and by way the books nearest to it, each with its title similarity, the nearest first."""

    user: str
    num_books: int
    movie: str
    books: Mapping[str, Sequence[tuple[str, float]]]


def difference(ours: Float[Tensor, "seed user"], theirs: Float[Tensor, "other_seed user"]) -> PairedTest:
    """How much more similar ours are: users' means over seeds, their signs flipped at random for p."""
    a, b = ours.mean(dim=0), theirs.mean(dim=0)
    return paired_test(a, b, torch.zeros(a.numel(), dtype=torch.int64), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class ContentReport:
    """The study's figures.

    Attributes:
        readings: by model, of the first seed.
        num_users_of_both: users with a positive training row in both domains.
        min_books: positive training rows of books that a user needs to count.
        num_namesakes: pairs of a movie and a book of the same user with the same title.
        share_without_vector: of titles, whose words are all too rare for the vectors; their similarity is 0.
    """

    measured: tuple[Measured, ...]
    readings: Mapping[str, Sequence[Reading]]
    num_users_of_both: int
    min_books: int
    num_users: int
    num_movie_rows: int
    num_book_rows: int
    num_namesakes: int
    share_without_vector: float

    def chance(self, one: Measured) -> Measured:
        """What a way is to be compared with: all that it could have chosen."""
        return self.find("", ANY_OTHER if one.way == WITHIN else ANY)

    def find(self, model: str, way: str) -> Measured:
        """What was measured of one way."""
        return next(one for one in self.measured if (one.model, one.way) == (model, way))

    def tests(self, one: Measured) -> dict[str, PairedTest]:
        """Of a way that a model gives: against any of the user's books, and for the translated against the others."""
        against = {ANY: self.chance(one)} if one.model else {}
        if one.way == TRANSLATED:
            against |= {way: self.find(one.model, way) for way in (UNTRANSLATED, RANDOM_MAP)}
        return {name: difference(one.similarity, other.similarity) for name, other in against.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = {name: value for name, value in vars(self).items() if name not in ("measured", "readings")}
        rows = []
        for one in self.measured:
            of_seeds = one.similarity.mean(dim=1)
            base = self.chance(one).similarity
            rows.append(
                {
                    "model": one.model or None,
                    "way": one.way,
                    "similarity": {"mean": float(of_seeds.mean()), "std": spread(of_seeds), "seeds": of_seeds.tolist()},
                    "namesakes": None if one.num_namesakes is None else one.num_namesakes.sum(dim=1).tolist(),
                    "tests": {name: asdict(test) for name, test in self.tests(one).items()},
                    "p_values_of_seeds": [difference(seed[None], base).p_value for seed in one.similarity if one.model],
                }
            )
        read = {model: [asdict(one) for one in of_model] for model, of_model in self.readings.items()}
        return {"title": TITLE, **facts, "rows": rows, "readings": read}

    def to_markdown(self) -> str:
        """The measure as a table, then what there is to read."""
        header = ["books of each movie", "title similarity", "less any of the user's", "less not translated"]
        header += ["less random map"]
        header += [f"namesakes of {self.num_namesakes}"]
        lines, model = [], ""
        for one in self.measured:
            if one.model != model:
                model = one.model
                lines.append([f"*{model or 'without a model'}*", *[""] * (len(header) - 1)])
            lines.append(self._line(one))
        parts = [f"# {TITLE}", self._facts(), markdown_table(header, lines), NOTES]
        for of, readings in self.readings.items():
            parts.append(f"## To read: {of}, first seed")
            parts += [in_words(reading) for reading in readings]
        return "\n\n".join(parts) + "\n"

    def _facts(self) -> str:
        return (
            f"{self.num_users:,} users with at least {self.min_books} positive training rows of books and one of "
            f"movies (of {self.num_users_of_both:,} with rows in both): {self.num_movie_rows:,} rows of movies, "
            f"{self.num_book_rows:,} of books. {self.share_without_vector:.0%} of all titles have words that are all "
            "too rare for the vectors: their similarity is 0."
        )

    def _line(self, one: Measured) -> list[str]:
        of_seeds, tests = one.similarity.mean(dim=1), self.tests(one)
        deviation = spread(of_seeds)
        value = f"{float(of_seeds.mean()):.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        cells = [in_short(tests[name]) if name in tests else "" for name in (ANY, UNTRANSLATED, RANDOM_MAP)]
        namesakes = "" if one.num_namesakes is None else f"{float(one.num_namesakes.sum(dim=1).mean()):.1f}"
        return [one.way, value, *cells, namesakes]

    def write(self, folder: Path) -> Path:
        """Write `table.md` and `table.json`; gives the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.json", json_text(self.to_dict()) + "\n")
        report = folder / "table.md"
        write_text(report, self.to_markdown())
        return report


TITLE = "CDAnet Table 6 on books and movies: the user's books nearest to a movie"
NOTES = """\
- title similarity: cosine of title vectors (TF-IDF reduced by SVD, brackets at the end of a title left out), mean over
  the five books of each movie, then over a user's movies, then over users; ±: standard deviation over seeds.
- less ...: difference of users' means over seeds, 95 % interval and two-sided p of a test that flips users' signs.
- a book's nearest other books: the same within books, by the same model, without a translation: whether the measure
  finds what is there to be found.
- namesakes: pairs of a movie and a book of its title in the user's books that are among the five, mean over seeds."""


def spread(values: Float[Tensor, " seed"]) -> float | None:
    """The standard deviation over seeds; None where there is one."""
    return float(values.std()) if values.numel() > 1 else None


def in_short(test: PairedTest) -> str:
    """A difference with its interval and p."""
    one = test.difference
    return f"{one.estimate:+.4f} [{one.low:+.4f}, {one.high:+.4f}], p {test.p_value:.4f}"


def in_words(reading: Reading) -> str:
    """A movie and its books, a column a way."""
    ways = list(reading.books)
    books = zip(*(reading.books[way] for way in ways), strict=True)
    # Adding 0 makes a rounded -0 a 0.
    rows = [[f"{title} ({round(similarity, 2) + 0.0:.2f})" for title, similarity in line] for line in books]
    head = f"**{reading.movie}** (user {reading.user}, {reading.num_books} books)"
    return f"{head}\n\n{markdown_table(ways, rows, num_left=len(ways))}"
