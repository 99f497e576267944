"""Filters and displayed values: lists, fields that differ by domain or that a domain lacks, and numbers as declared."""

import numpy as np
import pytest
from tests.small_logs import BIDS, ITEMS, rich_declaration, write_log

from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.serving.attributes import Attributes, Filter, significant


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Attributes]:
    """Items i1, i2, i3 and i4 are known to training, as rows 1 to 4."""
    folder = tmp_path_factory.mktemp("small")
    content = rich_declaration()
    next(field for field in content["fields"] if field["name"] == "bid")["missing"] = "mean"
    next(field for field in content["fields"] if field["name"] == "colour")["domains"] = ["a"]
    dataset = prepare(write_log(folder, content, items=ITEMS, bids=BIDS), folder / "dataset")
    assert dataset.vocabulary("item") == ["i1", "i2", "i3", "i4"]
    return dataset, Attributes(dataset)


ROWS = np.array([1, 2, 3, 4])


def matching(attributes: Attributes, *filters: Filter, domain: int = 0) -> list[int]:
    rows: list[int] = ROWS[attributes.matching(filters, ROWS, domain)].tolist()
    return rows


def test_a_list_matches_by_any_of_its_values(small: tuple[Dataset, Attributes]) -> None:
    _, attributes = small
    assert matching(attributes, Filter("tags", any_of=("y",))) == [1, 2]
    assert matching(attributes, Filter("tags", any_of=("z", "y"))) == [1, 2, 4]
    assert matching(attributes, Filter("tags", any_of=("none",))) == []
    assert matching(attributes, Filter("tags", any_of=("x",)), Filter("colour", any_of=("red",))) == [1]


def test_a_field_by_domain_is_that_of_the_asked_domain(small: tuple[Dataset, Attributes]) -> None:
    _, attributes = small
    assert attributes.of_item(1, 0)["bid"] == 1.0
    assert attributes.of_item(1, 1)["bid"] == 2.0
    assert matching(attributes, Filter("bid", most=1.0), domain=0) == [1]
    assert matching(attributes, Filter("bid", least=6.0, most=8.0), domain=1) == [3, 4]


def test_values_are_readable_and_what_a_domain_lacks_is_left_out(small: tuple[Dataset, Attributes]) -> None:
    _, attributes = small
    assert attributes.title(2) == "Second"
    assert attributes.of_item(1, 0) == {"colour": "red", "tags": ["x", "y"], "price": 10.0, "bid": 1.0}
    assert "colour" not in attributes.of_item(1, 1)
    with pytest.raises(InputError, match=r"filters.colour: items have no such field in domain 'b'"):
        matching(attributes, Filter("colour", any_of=("red",)), domain=1)


def test_numbers_are_the_nearest_of_six_digits() -> None:
    values = np.array([19.990000763, 0.0, -0.1000000015, 123456.789, 1234567.0, 3e-7])
    assert significant(values).tolist() == [19.99, 0.0, -0.1, 123457.0, 1234570.0, 3e-7]
