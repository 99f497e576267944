"""Statistics of a request are those of a new row after all of training."""

from dataclasses import replace

import numpy as np
import pytest

from isthmus.data.dataset import Dataset, read_manifest
from isthmus.data.new_rows import statistic_of_new_rows
from isthmus.schema import FieldSpec
from isthmus.serving.row_counts import RowCounts, row_counts, statistic_table

# Domain 0: key 1 has 4 rows, 3 positive; the unseen key 0 has 2 rows, 1 positive. Domain 1: key 1 has 1 row, none.
COUNTS = RowCounts(np.array([[2, 4], [0, 1]]), np.array([[1.0, 3.0], [0.0, 0.0]]))


def field(scope: str, value: str, column: str | None = None, of: str = "item") -> FieldSpec:
    about = {"name": "s", "side": "row", "kind": "statistic", "of": of, "scope": scope, "value": value}
    return FieldSpec.model_validate(about | {"column": column})


def test_a_mean_is_mixed_with_the_mean_of_its_scope() -> None:
    key = np.array([0, 1])
    # own: the domain's mean is 4 of 6, so key 1 has (3 + 2 * 4/6) / (4 + 2); the unseen key has the mean itself
    assert COUNTS.statistic(key, 0, field("own", "mean"), prior=2.0) == pytest.approx([4 / 6, (3 + 8 / 6) / 6])
    # other: one row, no positive: mean 0
    assert COUNTS.statistic(key, 0, field("other", "mean"), prior=2.0) == pytest.approx([0.0, 0.0])
    # all: 4 of 7; key 1 has 3 of 5 rows
    assert COUNTS.statistic(key, 0, field("all", "mean"), prior=2.0) == pytest.approx([4 / 7, (3 + 8 / 7) / 7])
    assert COUNTS.statistic(key, 1, field("own", "mean"), prior=0.0) == pytest.approx([0.0, 0.0])


def test_a_count_is_a_logarithm_and_the_unseen_key_has_no_rows() -> None:
    key = np.array([0, 1])
    assert COUNTS.statistic(key, 0, field("own", "count"), prior=2.0) == pytest.approx([0, np.log(5)])
    assert COUNTS.statistic(key, 1, field("other", "count"), prior=2.0) == pytest.approx([0, np.log(5)])
    assert COUNTS.statistic(key, 1, field("all", "count"), prior=2.0) == pytest.approx([0, np.log(6)])


def test_of_a_domain_without_rows_a_mean_label_is_a_half_and_a_mean_outcome_unknown() -> None:
    empty = RowCounts(np.array([[0, 0]]), np.array([[0.0, 0.0]]))
    assert empty.statistic(np.array([1]), 0, field("own", "mean"), prior=2.0) == pytest.approx([0.5])
    assert np.isnan(empty.statistic(np.array([1]), 0, field("own", "mean", "rating"), prior=2.0)).all()


def test_a_mean_outcome_is_of_the_outcomes_sums(labelled: Dataset) -> None:
    assert labelled.impressions is not None
    train = labelled.impressions["train"]
    seconds = np.linspace(0.5, 9.5, train.num_rows)
    watched = replace(
        labelled, impressions={**labelled.impressions, "train": replace(train, outcomes={"seconds": seconds})}
    )
    counts = row_counts(watched, field("own", "mean", "seconds"))
    is_domain = np.asarray(train.domain) == 1
    item = int(train.item_row[is_domain][0])
    rows = is_domain & (np.asarray(train.item_row) == item)
    assert counts.total[1, item] == pytest.approx(seconds[rows].sum())
    assert counts.count[1, item] == rows.sum() > 0


@pytest.mark.parametrize("of", ["item", "user"])
def test_adjusted_means_too_are_what_scoring_a_file_gives(labelled: Dataset, of: str) -> None:
    assert labelled.impressions is not None
    assert labelled.schema.ranking is not None
    test = labelled.impressions["test"]
    adjusted, prior = field("own", "adjusted_mean", of=of), labelled.schema.ranking.prior
    expected = statistic_of_new_rows(labelled, test, adjusted)
    counts = row_counts(labelled, adjusted)
    key = np.asarray(test.user_row if of == "user" else test.item_row, np.int64)
    for domain in range(labelled.num_domains):
        rows = np.flatnonzero(np.asarray(test.domain) == domain)
        assert counts.statistic(key[rows], domain, adjusted, prior=prior) == pytest.approx(expected[rows])
    plain = statistic_of_new_rows(labelled, test, field("own", "mean", of=of))
    assert not np.allclose(plain, expected)


def test_they_are_what_scoring_a_file_gives(labelled: Dataset) -> None:
    assert labelled.impressions is not None
    assert labelled.schema.ranking is not None
    test = labelled.impressions["test"]
    fields = [one for one in labelled.schema.fields if one.kind == "statistic"]
    for one in fields:
        assert one.of is not None
        expected = statistic_of_new_rows(labelled, test, one)
        spread = read_manifest(labelled.path)["numbers"][one.name]
        counts = row_counts(labelled, one)
        key = np.asarray(test.user_row if one.of == "user" else test.item_row, np.int64)
        for domain in range(labelled.num_domains):
            rows = np.flatnonzero(np.asarray(test.domain) == domain)
            found = counts.statistic(key[rows], domain, one, prior=labelled.schema.ranking.prior)
            assert found == pytest.approx(expected[rows])
            of_bundle = statistic_table(labelled, one)[domain][key[rows]] * spread["std"] + spread["mean"]
            assert of_bundle == pytest.approx(expected[rows], rel=1e-5, abs=1e-6)
    assert len(fields) == 8
