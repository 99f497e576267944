import numpy as np
import pytest
import torch
from tests.small_books_and_movies import write_native

from isthmus.data.dataset import Dataset
from isthmus.experiments.cdanet_figure_2 import Lists, best_places, differ, held_out_lists, hits, shown
from isthmus.experiments.titled_runs import prepared
from isthmus.schema import SampledNegatives


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("titled")
    return prepared(write_native(folder / "native"), folder / "out", lambda _: None)


def three_lists() -> Lists:
    """Users 1, 2 and 3 of domain 0; the positives are items 3, 6 and 4."""
    items = np.array([[1, 2, 3, 4], [2, 4, 6, 8], [1, 3, 4, -1]])
    return Lists(np.array([1, 2, 3]), np.zeros(3, np.int64), items, np.isin(items, [3, 6]) & (items != 0))


def test_a_list_has_all_held_out_positives_of_its_user_and_nothing_else_that_he_took(dataset: Dataset) -> None:
    lists = held_out_lists(dataset, SampledNegatives(draw="popularity", per_positive=6))
    taken = {
        (int(user), int(item), int(domain), split)
        for split, events in dataset.events.items()
        for user, item, domain in zip(events.user_row, events.item_row, events.domain, strict=True)
    }
    num_drawn = 0
    for user, domain, items, flags in zip(
        lists.user_row.tolist(), lists.domain.tolist(), lists.item_row, lists.is_positive, strict=True
    ):
        held_out = {item for who, item, where, split in taken if (who, where, split) == (user, domain, "test")} - {0}
        assert set(items[flags].tolist()) == held_out
        drawn = items[~flags & (items >= 0)].tolist()
        assert len(drawn) == len(set(drawn)) <= 6
        assert not any((user, item, domain, split) in taken for item in drawn for split in ("train", "valid", "test"))
        assert items[items >= 0].tolist() == sorted(items[items >= 0].tolist())
        num_drawn += len(drawn)
    assert num_drawn > 100
    places = list(zip(lists.domain.tolist(), lists.user_row.tolist(), strict=True))
    assert places == sorted(set(places))
    asked = {(domain, user) for user, item, domain, split in taken if split == "test" and user and item}
    assert set(places) == asked


def test_the_best_come_first_and_what_is_past_the_end_last() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.9, -5.0], [0.3, -torch.inf, 0.2, 0.4]])
    assert best_places(scores, 3).tolist() == [[1, 2, 0], [3, 0, 2]]


def test_a_hit_is_a_positive_among_the_best() -> None:
    lists = three_lists()
    first, second = np.array([[0, 2], [0, 1], [0, 2]]), np.array([[0, 1], [2, 3], [0, 1]])
    assert hits(lists, [first, second]).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_the_same_items_in_another_order_do_not_differ() -> None:
    lists = three_lists()
    ours, theirs = np.array([[0, 2], [0, 1], [0, 2]]), np.array([[2, 0], [0, 3], [0, 2]])
    assert differ(lists, ours, theirs).tolist() == [False, True, False]


def test_the_first_users_by_id_whose_lists_differ_are_shown_hits_and_bad_cases_marked(dataset: Dataset) -> None:
    users, ids = dataset.vocabulary("user"), ["", *dataset.vocabulary("item")]
    books = [ids.index(f"B{number:02}") for number in range(4)]
    by_id = [users.index(f"U{number:02}") + 1 for number in (9, 3, 5, 7)]
    rows = np.tile(np.array(books), (4, 1))
    is_positive = np.tile(np.array([False, True, False, False]), (4, 1))
    lists = Lists(np.array(by_id), np.zeros(4, np.int64), rows, is_positive)
    base = np.array([[0, 2], [0, 2], [0, 2], [0, 2]])
    main = np.array([[1, 2], [2, 0], [1, 0], [3, 1]])  # U03's are the same items
    pairs = shown(dataset, lists, base, main)
    assert [(pair.user, pair.domain, pair.num_positives) for pair in pairs] == [
        ("U05", "Books", 1),
        ("U07", "Books", 1),
    ]
    first = [(one.title, one.is_hit, one.is_in_both) for one in pairs[0].main]
    assert first == [("Story word1 (novel)", True, False), ("Story word0 (novel)", False, True)]
    assert [one.is_in_both for one in pairs[0].base] == [True, False]
