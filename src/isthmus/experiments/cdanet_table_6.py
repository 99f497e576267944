"""CDAnet Table 6, the content study, on books and movies: do a user's books nearest to a translated movie fit it?

For each positive training row of a movie, W_t z_t is compared by cosine with z_s of that user's own positive training
rows of books, all by the first stage, where both are of one network. Beside the reading stands a measure: the
similarity of titles, of the nearest five less that of the same user's books at large. The model that is measured by it
does not read titles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isthmus.api import RankingRun
from isthmus.data.dataset import Dataset
from isthmus.data.features import RankingReader
from isthmus.domains import DomainSlices
from isthmus.experiments.content_report import (
    ANY,
    ANY_OTHER,
    BY_TITLE,
    RANDOM_MAP,
    TRANSLATED,
    UNTRANSLATED,
    WITHIN,
    ContentReport,
    Measured,
    Reading,
)
from isthmus.experiments.titled_runs import (
    BOOKS,
    MOVIES,
    Runs,
    item_titles,
    main_row,
    prepared,
    title_vectors,
    trained,
    without_disambiguation,
)
from isthmus.layers.translator import Translator
from isthmus.models.cdanet import CDAnet, TranslationNetwork
from isthmus.training.ranking_stages import seeded

NUM_NEAREST = 5
MIN_BOOKS = 15  # with few more than five, the nearest five are nearly all that a user has
NUM_READ_USERS, NUM_READ_MOVIES = 3, 3
BLOCK = 8192


@dataclass(frozen=True)
class UserRows:
    """One user's positive training rows.

    Attributes:
        movies, books: places in the training impressions, ascending.
    """

    user_row: int
    movies: Int[np.ndarray, " movie"]
    books: Int[np.ndarray, " book"]


@dataclass(frozen=True)
class Similarities:
    """How alike a user's movies and books are by title.

    Attributes:
        cosine: of title vectors.
        is_namesake: 1 where both have the same title.
        among_books: cosine of the title vectors of two books.
    """

    cosine: Float[Tensor, "movie book"]
    is_namesake: Float[Tensor, "movie book"]
    among_books: Float[Tensor, "book book"]


@dataclass(frozen=True)
class Latents:
    """What one model makes of the chosen users' rows: z of both domains, W z of the movies, in the order of places."""

    movies: Int[np.ndarray, " movie"]
    books: Int[np.ndarray, " book"]
    z_movie: Float[Tensor, "movie dim"]
    z_book: Float[Tensor, "book dim"]
    translated: Float[Tensor, "movie dim"]
    randomly_mapped: Float[Tensor, "movie dim"]

    def of(self, method: str, user: UserRows) -> tuple[Float[Tensor, "own_movie dim"], Float[Tensor, "own_book dim"]]:
        """One user's movies as a method sees them, and the books that they are compared with."""
        seen = {TRANSLATED: self.translated, UNTRANSLATED: self.z_movie, RANDOM_MAP: self.randomly_mapped}[method]
        return seen[np.searchsorted(self.movies, user.movies)], self.z_book[np.searchsorted(self.books, user.books)]


def reproduce(
    data: Path, out: Path, *, num_seeds: int, quick: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Train CDAnet without and with titles, and write readings and the measure; gives the path of `table.md`.

    Args:
        data: the folder of the data set's own files.
        quick: one seed, two epochs.
    """
    dataset = prepared(data, out, say)
    rows = [main_row(with_titles=flag, quick=quick) for flag in (False, True)]
    runs = trained(rows, dataset, num_seeds, out, quick=quick, say=say)
    report = study(dataset, runs, min_books=MIN_BOOKS)
    return report.write(out / "cdanet-table-6")


def study(dataset: Dataset, runs: Runs, *, min_books: int) -> ContentReport:
    """Everything that the report says, of finished runs."""
    users = users_of_both(dataset, min_books)
    titles = item_titles(dataset)
    vectors = title_vectors(titles)
    alike = similarities(dataset, users, titles, vectors)
    measured = []
    readings: dict[str, list[Reading]] = {}
    for method, of_seeds in runs.items():
        latents = [latents_of(run, dataset, users) for run in of_seeds]
        for way in (TRANSLATED, UNTRANSLATED, RANDOM_MAP):
            ours = [[nearest(*one.of(way, user), NUM_NEAREST) for user in users] for one in latents]
            measured.append(Measured(method, way, *both_means(ours, alike)))
        measured.append(Measured(method, WITHIN, within(latents, users, alike), None))
        readings[method] = read(dataset, users, latents[0], alike, titles)
    by_title = [[one.cosine.topk(NUM_NEAREST, dim=1).indices for one in alike]]
    measured.append(Measured("", BY_TITLE, *both_means(by_title, alike)))
    any_book = torch.stack([one.cosine.mean() for one in alike])[None].double()
    any_namesake = torch.stack([NUM_NEAREST * one.is_namesake.mean(dim=1).sum() for one in alike])[None].double()
    measured.append(Measured("", ANY, any_book, any_namesake))
    measured.append(Measured("", ANY_OTHER, any_other(alike), None))
    return ContentReport(
        measured=tuple(measured),
        readings=readings,
        num_users_of_both=len(users_of_both(dataset, 1)),
        min_books=min_books,
        num_users=len(users),
        num_movie_rows=sum(len(user.movies) for user in users),
        num_book_rows=sum(len(user.books) for user in users),
        num_namesakes=int(sum(float(one.is_namesake.sum()) for one in alike)),
        share_without_vector=float((vectors[1:].norm(dim=1) < 0.5).float().mean()),
    )


def users_of_both(dataset: Dataset, min_books: int) -> list[UserRows]:
    """Users with positive training rows of movies, and at least so many of books."""
    assert dataset.impressions is not None
    events, names = dataset.impressions["train"], dataset.schema.domain_names
    assert events.label is not None
    user, domain = np.asarray(events.user_row, np.int64), np.asarray(events.domain)
    is_positive = (np.asarray(events.label) == 1) & (user > 0)

    def by_user(name: str) -> dict[int, np.ndarray]:
        rows = np.flatnonzero(is_positive & (domain == names.index(name)))
        distinct, first = np.unique(user[rows], return_index=True)
        return dict(zip(distinct.tolist(), np.split(rows, first[1:]), strict=True))

    movies, books = by_user(MOVIES), by_user(BOOKS)
    return [UserRows(one, movies[one], books[one]) for one in sorted(movies) if len(books.get(one, ())) >= min_books]


def similarities(
    dataset: Dataset, users: Sequence[UserRows], titles: Sequence[str], vectors: Float[Tensor, "item dim"]
) -> list[Similarities]:
    """Of each user's movies and books.

    Args:
        titles, vectors: of each item row.
    """
    assert dataset.impressions is not None
    item = np.asarray(dataset.impressions["train"].item_row, np.int64)
    plain = [without_disambiguation(title).lower() for title in titles]
    number = {title: place for place, title in enumerate(dict.fromkeys(plain))}
    name = torch.tensor([number[title] for title in plain])
    result = []
    for user in users:
        movie, book = torch.from_numpy(item[user.movies]), torch.from_numpy(item[user.books])
        is_namesake = (name[movie][:, None] == name[book]).float()
        cosine, among_books = vectors[movie] @ vectors[book].T, vectors[book] @ vectors[book].T
        result.append(Similarities(cosine, is_namesake, among_books))
    return result


def latents_of(run: RankingRun, dataset: Dataset, users: Sequence[UserRows]) -> Latents:
    """The rows of all users by a run's first stage, and by a random orthogonal map in the place of its translator."""
    assert isinstance(run.model, CDAnet)
    network, names, fields = run.model.translation, dataset.schema.domain_names, run.settings.ranking.fields
    movies = np.unique(np.concatenate([user.movies for user in users]))
    books = np.unique(np.concatenate([user.books for user in users]))
    source, target = names.index(BOOKS), names.index(MOVIES)
    z_book = latent_rows(network, dataset, fields, books, source)
    z_movie = latent_rows(network, dataset, fields, movies, target)
    translator = network.translators_of(target)[network.others(target).index(source)]
    random = seeded(run.settings.training.seed, lambda: Translator(z_movie.shape[1]))
    with torch.inference_mode():
        return Latents(movies, books, z_movie, z_book, translator(z_movie), random(z_movie))


@torch.inference_mode()
def latent_rows(
    network: TranslationNetwork,
    dataset: Dataset,
    fields: Sequence[str] | None,
    rows: Int[np.ndarray, " row"],
    domain: int,
) -> Float[Tensor, "row dim"]:
    """z of training rows of one domain, without dropout; a row knows of its user's history what it knew in training."""
    assert dataset.impressions is not None
    reader, events = RankingReader(dataset, fields), dataset.impressions["train"]
    was_training = network.training
    network.eval()
    parts = []
    for block in np.array_split(rows, -(-len(rows) // BLOCK)):
        slices = DomainSlices.single(domain, len(block), dataset.num_domains)
        parts.append(network.latent(reader.read(events, block, "train"), slices))
    network.train(was_training)
    return torch.cat(parts)


def nearest(
    movies: Float[Tensor, "movie dim"], books: Float[Tensor, "book dim"], k: int
) -> Int[Tensor, "movie neighbour"]:
    """For each movie, the places of its k nearest books by cosine, the nearest first."""
    cosine = nn.functional.normalize(movies, dim=1) @ nn.functional.normalize(books, dim=1).T
    places: Tensor = cosine.topk(k, dim=1).indices
    return places


def nearest_others(books: Float[Tensor, "book dim"], k: int) -> Int[Tensor, "book neighbour"]:
    """For each book, the places of its k nearest other books by cosine, the nearest first."""
    unit = nn.functional.normalize(books, dim=1)
    places: Tensor = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices
    return places


def within(
    latents: Sequence[Latents], users: Sequence[UserRows], alike: Sequence[Similarities]
) -> Float[Tensor, "seed user"]:
    """For each seed and user, mean title similarity of books and the other books of the user that are nearest by z."""
    values = []
    for seed in latents:
        places = [nearest_others(seed.of(UNTRANSLATED, user)[1], NUM_NEAREST) for user in users]
        values.append([one.among_books.gather(1, p).mean() for p, one in zip(places, alike, strict=True)])
    return torch.tensor(values, dtype=torch.float64)


def any_other(alike: Sequence[Similarities]) -> Float[Tensor, "1 user"]:
    """For each user, mean title similarity of two different books."""
    means = []
    for one in alike:
        num_books = one.among_books.shape[0]
        means.append((one.among_books.sum() - one.among_books.trace()) / (num_books * (num_books - 1)))
    return torch.stack(means)[None].double()


def both_means(
    places: Sequence[Sequence[Int[Tensor, "_ neighbour"]]], alike: Sequence[Similarities]
) -> tuple[Float[Tensor, "seed user"], Float[Tensor, "seed user"]]:
    """For each seed and user: mean title similarity of movies and their neighbours; namesakes among the neighbours.

    Args:
        places: for each seed and user, the neighbours of each of his movies.
    """
    cosine = [[one.cosine.gather(1, p).mean() for p, one in zip(of_seed, alike, strict=True)] for of_seed in places]
    named = [[one.is_namesake.gather(1, p).sum() for p, one in zip(of_seed, alike, strict=True)] for of_seed in places]
    return (
        torch.stack([torch.stack(of_seed) for of_seed in cosine]).double(),
        torch.stack([torch.stack(of_seed) for of_seed in named]).double(),
    )


def read(
    dataset: Dataset, users: Sequence[UserRows], latents: Latents, alike: Sequence[Similarities], titles: Sequence[str]
) -> list[Reading]:
    """The first users by id that have enough movies, their first movies by id, and the books nearest to each."""
    assert dataset.impressions is not None
    item = np.asarray(dataset.impressions["train"].item_row, np.int64)
    users_by_name, ids = dataset.vocabulary("user"), ["", *dataset.vocabulary("item")]
    enough = [place for place, user in enumerate(users) if len(user.movies) >= NUM_READ_MOVIES]
    readings = []
    for place in sorted(enough, key=lambda place: users_by_name[users[place].user_row - 1])[:NUM_READ_USERS]:
        user, cosine = users[place], alike[place].cosine
        found: Mapping[str, Tensor] = {
            way: nearest(*latents.of(way, user), NUM_NEAREST) for way in (TRANSLATED, UNTRANSLATED)
        }
        for movie in sorted(range(len(user.movies)), key=lambda row: ids[item[user.movies[row]]])[:NUM_READ_MOVIES]:
            books = {
                way: [(titles[item[user.books[book]]], float(cosine[movie, book])) for book in one[movie].tolist()]
                for way, one in found.items()
            }
            title = titles[item[user.movies[movie]]]
            name = users_by_name[user.user_row - 1]
            readings.append(Reading(name, len(user.books), title, books))
    return readings
