import numpy as np

from isthmus.data.dataset import Dataset
from isthmus.evaluation.reference_rows import (
    ReferenceScorer,
    binary_matrix,
    popularity_by_domain,
    training_interactions,
)
from isthmus.evaluation.references import Popularity, Reference


def test_a_line_has_ones_at_its_items_repeats_counted_once_and_the_unseen_item_not_at_all() -> None:
    # lists (3, 1, 3), (), (0, 2)
    matrix = binary_matrix(np.array([3, 1, 3, 0, 2]), np.array([0, 3, 3, 5]), 4)
    assert matrix.toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_interactions_are_those_of_training_alone(tiny_dataset: Dataset) -> None:
    events = tiny_dataset.events["train"]
    expected = np.zeros((tiny_dataset.num_users, tiny_dataset.num_items))
    expected[events.user_row, events.item_row] = 1
    assert (training_interactions(tiny_dataset).toarray() == expected).all()


def test_each_domain_is_scored_by_its_own_reference_in_the_order_of_its_corpus(tiny_dataset: Dataset) -> None:
    ascending: dict[int, Reference] = {
        domain: Popularity(np.arange(tiny_dataset.num_items) + 1000.0 * domain)
        for domain in range(tiny_dataset.num_domains)
    }
    scorer = ReferenceScorer(ascending, tiny_dataset, "test")
    bounds = tiny_dataset.events["test"].domain_bounds(tiny_dataset.num_domains)
    for domain in range(tiny_dataset.num_domains):
        rows = np.arange(bounds[domain], bounds[domain + 1])
        score = scorer(domain, rows)
        assert score.shape == (len(rows), len(tiny_dataset.corpus(domain)))
        assert score[0].tolist() == (tiny_dataset.corpus(domain) + 1000.0 * domain).tolist()


def test_popularity_is_the_domains_own(tiny_dataset: Dataset) -> None:
    references = popularity_by_domain(tiny_dataset)
    history = binary_matrix(np.array([1]), np.array([0, 1]), tiny_dataset.num_items)
    for domain, reference in references.items():
        assert reference.scores(history)[0].tolist() == np.asarray(tiny_dataset.item_count[domain]).tolist()
