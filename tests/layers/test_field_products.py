import pytest
import torch

from isthmus.layers.field_products import FieldProducts, side_by_side, side_by_side_dim


def test_products_are_those_of_every_pair_in_the_order_of_the_fields() -> None:
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, -1.0]]])
    # 1 * 3 + 2 * 4 = 11; 1 * 5 - 2 * 1 = 3; 3 * 5 - 4 * 1 = 11: distinct fields, so 11, 3, 11.
    assert FieldProducts(3)(fields).tolist() == [[11.0, 3.0, 11.0]]
    assert FieldProducts(2)(fields[:, 1:]).tolist() == [[11.0]]


def test_products_stand_behind_the_fields() -> None:
    fields = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    products = FieldProducts(2)
    assert side_by_side(fields, products).tolist() == [[1.0, 2.0, 3.0, 5.0, 13.0]]
    assert side_by_side(fields, None).tolist() == [[1.0, 2.0, 3.0, 5.0]]
    assert side_by_side_dim(2, 2, products) == 5
    assert side_by_side_dim(2, 2, None) == 4


@pytest.mark.parametrize("num_fields", [0, 1])
def test_less_than_two_fields_have_no_product(num_fields: int) -> None:
    assert FieldProducts(num_fields)(torch.ones(4, num_fields, 3)).shape == (4, 0)
