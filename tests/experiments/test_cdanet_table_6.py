from pathlib import Path

import numpy as np
import pytest
import torch
from tests.small_books_and_movies import write_native

from isthmus.api import RankingRun
from isthmus.data.dataset import Dataset
from isthmus.data.features import RankingReader
from isthmus.domains import DomainSlices
from isthmus.experiments.cdanet_table_6 import (
    Latents,
    Similarities,
    UserRows,
    any_other,
    both_means,
    latent_rows,
    nearest,
    nearest_others,
    similarities,
    study,
    users_of_both,
    within,
)
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
    difference,
)
from isthmus.experiments.titled_runs import Runs, TitledJob, item_titles, main_row, prepared, run_job, title_vectors
from isthmus.layers.translator import Translator
from isthmus.training.ranking_stages import new_translation


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("titled")
    return prepared(write_native(folder / "native"), folder / "out", lambda _: None)


def test_the_planted_books_are_nearest_to_translated_movies_and_others_to_untranslated() -> None:
    # W turns axis a into axis a + 1 (mod 4). Movie a is e_a, so that W z is e_(a+1); book a + 1 is 3 e_(a+1) with a bit
    # of e_a, and has the movie's title. Untranslated, movie a is nearest to book a, whose title is another's.
    translator = Translator(4)
    with torch.no_grad():
        translator.linear.weight.copy_(torch.eye(4).roll(1, 0))
    z_movie = torch.eye(4)
    z_book = 3 * torch.eye(4) + 0.1 * torch.eye(4).roll(-1, 1)
    same_title = torch.eye(4).roll(1, 1)
    alike = [Similarities(same_title, same_title, torch.eye(4))]
    with torch.no_grad():
        translated = nearest(translator(z_movie), z_book, 1)
    untranslated = nearest(z_movie, z_book, 1)
    assert translated[:, 0].tolist() == [1, 2, 3, 0]
    assert untranslated[:, 0].tolist() == [0, 1, 2, 3]
    of_translated, of_untranslated = both_means([[translated]], alike), both_means([[untranslated]], alike)
    assert [part.tolist() for part in of_translated] == [[[1.0]], [[4.0]]]
    assert [part.tolist() for part in of_untranslated] == [[[0.0]], [[0.0]]]


def test_near_is_by_angle_not_by_length() -> None:
    movie = torch.tensor([[1.0, 0.0]])
    books = torch.tensor([[9.0, 9.0], [0.1, 0.0], [0.0, 5.0]])  # cosines .71, 1, 0; inner products 9, .1, 0
    assert nearest(movie, books, 3).tolist() == [[1, 0, 2]]


def test_means_are_over_a_users_movies_and_namesakes_are_counted() -> None:
    cosine = torch.tensor([[0.2, 0.4, 1.0], [0.0, 0.6, 0.1]])
    alike = [Similarities(cosine, (cosine == 1).float(), torch.eye(3))]
    places = torch.tensor([[2, 0], [1, 2]])
    similarity, namesakes = both_means([[places]], alike)
    assert similarity.tolist() == [[pytest.approx((1.0 + 0.2 + 0.6 + 0.1) / 4)]]
    assert namesakes.tolist() == [[1.0]]


def test_a_book_is_not_its_own_neighbour_and_chance_is_any_two_different_books() -> None:
    books = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])  # 0 beside 1, 2 beside 3
    assert nearest_others(books, 1)[:, 0].tolist() == [1, 0, 3, 2]
    among = torch.tensor([[1.0, 0.3, 0.2], [0.3, 1.0, 0.7], [0.2, 0.7, 1.0]])
    assert any_other([Similarities(among, among, among)]).tolist() == [[pytest.approx((0.3 + 0.2 + 0.7) / 3)]]


def test_within_books_the_nearest_are_judged_by_their_titles() -> None:
    # Six books on two axes, three each; k = 5 takes all others, so that the mean is that of any other.
    books = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    places = np.arange(6)
    latents = Latents(places, places, books, books, books, books)
    among = torch.arange(36.0).reshape(6, 6)
    alike = [Similarities(among, among, among)]
    value = within([latents, latents], [UserRows(1, places, places)], alike)
    assert value.tolist() == [[pytest.approx((630 - (0 + 7 + 14 + 21 + 28 + 35)) / 30)]] * 2


def test_a_users_rows_are_found_among_all_users_rows() -> None:
    z = torch.arange(8.0).reshape(4, 2)
    latents = Latents(np.array([3, 5, 8, 9]), np.array([1, 2, 6, 7]), z, 10 + z, 20 + z, 30 + z)
    user = UserRows(1, np.array([5, 9]), np.array([1, 7]))
    movies, books = latents.of(TRANSLATED, user)
    assert movies.tolist() == [[22, 23], [26, 27]]
    assert books.tolist() == [[10, 11], [16, 17]]
    assert latents.of(UNTRANSLATED, user)[0].tolist() == [[2, 3], [6, 7]]
    assert latents.of(RANDOM_MAP, user)[0].tolist() == [[32, 33], [36, 37]]


def test_p_of_three_users_is_the_share_of_sign_patterns_as_far_from_zero() -> None:
    # Differences .1, .2, .3: of 8 patterns of signs only +++ and --- reach .6, so p is 2 / 8.
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    test = difference(torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64), nothing)
    assert test.difference.estimate == pytest.approx(0.2)
    assert test.p_value == pytest.approx(2 / 8, abs=0.03)
    # .3, .3, -.1 sum to .5: reached by (.3 .3 -.1), (.3 .3 .1) and their opposites, so p is 4 / 8.
    assert difference(torch.tensor([[0.3, 0.3, -0.1]], dtype=torch.float64), nothing).p_value == pytest.approx(
        4 / 8, abs=0.03
    )


def test_a_difference_is_of_users_means_over_seeds() -> None:
    ours = torch.tensor([[0.2, 0.4], [0.4, 0.8]], dtype=torch.float64)  # users' means .3 and .6
    theirs = torch.tensor([[0.1, 0.2]], dtype=torch.float64)  # differences .2 and .4
    assert difference(ours, theirs).difference.estimate == pytest.approx(0.3)


def test_only_positive_rows_count_and_only_users_with_enough_books(dataset: Dataset) -> None:
    assert dataset.impressions is not None
    events = dataset.impressions["train"]
    assert events.label is not None
    users = users_of_both(dataset, 1)
    assert len(users) == 25
    counts = [len(user.books) for user in users]
    most = max(counts)
    assert min(counts) < most
    assert len(users_of_both(dataset, most)) == counts.count(most)
    assert users_of_both(dataset, most + 1) == []
    for user in users:
        rows = np.concatenate([user.books, user.movies])
        assert set(np.asarray(events.label)[rows]) == {1}
        assert set(np.asarray(events.user_row)[rows]) == {user.user_row}
        assert [set(np.asarray(events.domain)[part]) for part in (user.books, user.movies)] == [{0}, {1}]
    assert sum(counts) == int(((np.asarray(events.label) == 1) & (np.asarray(events.domain) == 0)).sum())


def test_a_movie_and_the_book_of_its_title_are_namesakes(dataset: Dataset) -> None:
    assert dataset.impressions is not None
    users = users_of_both(dataset, 1)
    item = np.asarray(dataset.impressions["train"].item_row)
    ids, titles = ["", *dataset.vocabulary("item")], item_titles(dataset)
    num_pairs = 0
    for user, alike in zip(users, similarities(dataset, users, titles, title_vectors(titles)), strict=True):
        movies, books = ([ids[item[row]] for row in rows] for rows in (user.movies, user.books))
        expected = [[float(movie[1:] == book[1:]) for book in books] for movie in movies]
        assert alike.is_namesake.tolist() == expected
        assert torch.allclose(alike.cosine[alike.is_namesake > 0], torch.tensor(1.0))
        num_pairs += int(alike.is_namesake.sum())
    assert num_pairs > 10


def test_latent_rows_are_those_of_the_model_without_dropout_and_of_what_a_row_may_know(dataset: Dataset) -> None:
    assert dataset.impressions is not None
    row = main_row(with_titles=False, quick=True)
    network = new_translation(dataset, row.settings.ranking, row.settings.training)  # type: ignore[arg-type]
    network.train()
    rows = np.array([3, 0, 7])
    z = latent_rows(network, dataset, row.settings.ranking.fields, rows, 0)
    assert network.training
    network.eval()
    features = RankingReader(dataset, row.settings.ranking.fields).read(dataset.impressions["train"], rows, "train")
    with torch.inference_mode():
        assert torch.equal(z, network.latent(features, DomainSlices.single(0, 3, 2)))
    fold = np.asarray(dataset.impressions["train"].fold)[rows]
    assert (fold >= 0).all()  # a history without the row's own fold


def test_the_report_compares_with_the_same_users_books_and_shows_what_to_read(dataset: Dataset, tmp_path: Path) -> None:
    runs: Runs = {}
    for with_titles in (False, True):
        row = main_row(with_titles=with_titles, quick=True)
        ranking = row.settings.ranking.model_copy(update={"stages": "translation"})
        settings = row.settings.model_copy(update={"ranking": ranking})
        folder = tmp_path / row.folder
        run_job(TitledJob(row.method, dataset.path, settings, folder))
        runs[row.method] = [RankingRun.open(folder, device="cpu")]
    report = study(dataset, runs, min_books=15)
    users, titles = users_of_both(dataset, 15), item_titles(dataset)
    alike = similarities(dataset, users, titles, title_vectors(titles))
    assert report.find("", ANY).similarity[0].tolist() == pytest.approx([float(one.cosine.mean()) for one in alike])
    expected = sum(5 * float(one.is_namesake.sum()) / one.is_namesake.shape[1] for one in alike)
    of_chance = report.find("", ANY).num_namesakes
    assert of_chance is not None
    assert float(of_chance.sum()) == pytest.approx(expected)
    by_title = report.find("", BY_TITLE).num_namesakes
    assert by_title is not None
    assert float(by_title.sum()) == report.num_namesakes
    assert [(one.model, one.way) for one in report.measured] == [
        *((model, way) for model in runs for way in (TRANSLATED, UNTRANSLATED, RANDOM_MAP, WITHIN)),
        ("", BY_TITLE),
        ("", ANY),
        ("", ANY_OTHER),
    ]
    for readings in report.readings.values():
        assert [reading.user for reading in readings] == ["U00"] * 3 + ["U01"] * 3 + ["U02"] * 3
        assert all(len(books) == 5 for reading in readings for books in reading.books.values())
        assert [reading.movie for reading in readings[:3]] == sorted(
            (reading.movie for reading in readings[:3]), key=lambda title: int(title.split("word")[1].split(" ")[0])
        )


def test_tests_stand_only_beside_what_a_model_chose() -> None:
    def measured(model: str, way: str, value: float) -> Measured:
        values = torch.tensor([[value, value + 0.1]], dtype=torch.float64)
        return Measured(model, way, values, torch.zeros(1, 2, dtype=torch.float64))

    every = [measured("CDAnet", TRANSLATED, 0.5), measured("CDAnet", UNTRANSLATED, 0.3)]
    every += [measured("CDAnet", RANDOM_MAP, 0.1), measured("", BY_TITLE, 0.9), measured("", ANY, 0.2)]
    every += [measured("CDAnet", WITHIN, 0.8), measured("", ANY_OTHER, 0.6)]
    report = ContentReport(tuple(every), {}, 9, 15, 2, 4, 40, 1, 0.1)
    estimates = {name: test.difference.estimate for name, test in report.tests(every[0]).items()}
    assert estimates == {name: pytest.approx(x) for name, x in ((ANY, 0.3), (UNTRANSLATED, 0.2), (RANDOM_MAP, 0.4))}
    assert list(report.tests(every[1])) == [ANY]
    of_books = report.tests(every[5])
    assert {name: test.difference.estimate for name, test in of_books.items()} == {ANY: pytest.approx(0.2)}
    assert report.tests(every[3]) == report.tests(every[4]) == {}
    lines = report.to_markdown().splitlines()
    assert "| *CDAnet* |  |  |  |  |  |" in lines
    assert any(line.startswith("| translated | 0.5500 | +0.3000 [") for line in lines)
