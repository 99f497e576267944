from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.embedding import FieldEmbedding, RankingEmbedding, new_table


def counting_table(num_rows: int, dim: int = 2) -> nn.Embedding:
    """Row r is (r, 10 r)."""
    table = new_table(num_rows, dim, std=1.0).double()
    with torch.no_grad():
        table.weight.copy_(torch.arange(num_rows)[:, None] * torch.tensor([1.0, 10.0]))
    return table


def bag(*lists: list[int]) -> Bag:
    offsets = torch.tensor([0, *(len(values) for values in lists)]).cumsum(0)
    return Bag(torch.tensor([value for values in lists for value in values], dtype=torch.int64), offsets)


def features(
    categorical: list[list[int]], bags: tuple[Bag, ...] = (), number: list[list[float]] | None = None
) -> Features:
    numbers = torch.tensor(number, dtype=torch.float64) if number else torch.empty(len(categorical), 0).double()
    return Features(torch.tensor(categorical, dtype=torch.int64), bags, numbers)


def everywhere(num_fields: int, num_domains: int = 2) -> list[list[bool]]:
    return [[True] * num_fields] * num_domains


def test_fields_stand_in_order_each_embedded_by_its_kind() -> None:
    embedding = FieldEmbedding(
        {"colour": counting_table(5), "word": counting_table(9)},
        categorical=["colour"],
        bags=["word"],
        num_numbers=2,
        present=everywhere(4),
        dim=2,
    ).double()
    assert embedding.number_vector is not None
    with torch.no_grad():
        embedding.number_vector.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    x = features([[3], [4]], (bag([1, 2, 8, 8], []),), [[0.5, -1.0], [2.0, 10.0]])
    y: Tensor = embedding(x, DomainSlices((0, 1, 2)))
    expected = [
        # the words 1, 2, 8 and 8 sum to (19, 190), by sqrt(4)
        [[3, 30], [9.5, 95], [0.5, 1], [-3, -4]],
        # no word at all; 2 (1, 2) and 10 (3, 4)
        [[4, 40], [0, 0], [2, 4], [30, 40]],
    ]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float64))


def test_a_list_is_its_sum_over_the_root_of_its_length() -> None:
    embedding = FieldEmbedding(
        {"word": counting_table(9)}, categorical=[], bags=["word"], num_numbers=0, present=everywhere(1), dim=2
    )
    x = features([[], [], []], (bag([5], [1, 2, 3], [0, 4]),))
    y: Tensor = embedding(x, DomainSlices((0, 2, 3)))
    assert y[:, 0, 0].tolist() == pytest.approx([5, 6 / sqrt(3), 4 / sqrt(2)])


def test_a_new_tables_row_of_unseen_values_is_zero_in_every_domains_block() -> None:
    torch.manual_seed(0)
    table = new_table(400, 50, std=0.1, num_domains=3)
    assert table.weight.shape == (1200, 50)
    assert (table.weight.abs().sum(dim=1) == 0).nonzero()[:, 0].tolist() == [0, 400, 800]
    # 59,850 normal numbers: their deviation is 0.1 within 1 percent
    assert table.weight.std().item() == pytest.approx(0.1, rel=0.01)
    assert table.weight.mean().item() == pytest.approx(0.0, abs=0.002)


def test_an_absent_field_is_zero_for_its_domain_and_learns_nothing_there() -> None:
    tables = {"colour": counting_table(5), "size": counting_table(4), "word": counting_table(9)}
    embedding = FieldEmbedding(
        tables,
        categorical=["colour", "size"],
        bags=["word"],
        num_numbers=1,
        present=[[True, True, False, True], [True, False, True, False]],
        dim=2,
    ).double()
    x = features([[1, 1], [1, 2], [1, 3]], (bag([1], [2], [3]),), [[1.0], [1.0], [1.0]])
    y: Tensor = embedding(x, DomainSlices((0, 1, 3)))
    is_zero = (y == 0).all(dim=2).tolist()
    assert is_zero == [[False, False, True, False], [False, True, False, True], [False, True, False, True]]
    torch.autograd.backward(y.sum())
    assert tables["size"].weight.grad is not None
    assert tables["size"].weight.grad.to_dense()[:, 0].tolist() == [0, 1, 0, 0]


def test_fields_of_one_table_share_its_vectors() -> None:
    table = counting_table(9)
    user = FieldEmbedding(
        {"item": table}, categorical=[], bags=["item", "item"], num_numbers=0, present=everywhere(2), dim=2
    )
    item = FieldEmbedding({"item": table}, categorical=["item"], bags=[], num_numbers=0, present=everywhere(1), dim=2)
    slices = DomainSlices((0, 1, 1))
    y: Tensor = user(features([[]], (bag([4]), bag([7]))), slices)
    z: Tensor = item(features([[4]]), slices)
    assert y[0].tolist() == [[4, 40], [7, 70]]
    assert torch.equal(z[0, 0], y[0, 0])
    assert len({id(p) for module in (user, item) for p in module.parameters()}) == 1


def test_two_domains_share_no_vector_where_tables_are_by_domain() -> None:
    table = new_table(4, 2, std=1.0, num_domains=3).double()
    embedding = FieldEmbedding(
        {"item": table},
        categorical=["item"],
        bags=["item"],
        num_numbers=0,
        present=everywhere(2, 3),
        dim=2,
        tables_by_domain=True,
    )
    x = features([[1], [1], [3]], (bag([2, 3], [], [1]),))
    slices = DomainSlices((0, 1, 1, 3))
    y: Tensor = embedding(x, slices)
    weight = table.weight.detach()
    torch.testing.assert_close(y[:, 0].detach(), weight[[1, 9, 11]])  # 4 rows a domain: domain 2 begins at 8
    expected = torch.stack([(weight[2] + weight[3]) / sqrt(2), torch.zeros(2).double(), weight[9]])
    torch.testing.assert_close(y[:, 1].detach(), expected)
    torch.autograd.backward(y.sum())
    assert table.weight.grad is not None
    touched = table.weight.grad.to_dense().abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert touched == [1, 2, 3, 9, 11]


def test_gradients_name_only_the_rows_of_the_step() -> None:
    tables = {"item": counting_table(1000), "colour": counting_table(5)}
    embedding = FieldEmbedding(
        tables,
        categorical=["colour"],
        bags=["item"],
        num_numbers=0,
        present=everywhere(2),
        dim=2,
    )
    y: Tensor = embedding(features([[3], [3]], (bag([7, 9], [9]),)), DomainSlices((0, 2, 2)))
    torch.autograd.backward(y.sum())
    rows = {}
    for name, table in tables.items():
        gradient = table.weight.grad
        assert gradient is not None
        assert gradient.is_sparse
        rows[name] = gradient.coalesce().indices()[0].tolist()
    assert rows == {"colour": [3], "item": [7, 9]}


@pytest.mark.parametrize("name", ["type", "items", "values", "item.brand", "forward", "user id"])
def test_a_table_may_have_any_declared_name(name: str) -> None:
    embedding = FieldEmbedding(
        {name: counting_table(5)}, categorical=[name], bags=[], num_numbers=0, present=everywhere(1), dim=2
    )
    y: Tensor = embedding(features([[2]]), DomainSlices((0, 1, 1)))
    assert y.tolist() == [[[2, 20]]]


@pytest.mark.parametrize("counts", [(0, 0), (0, 3)])
def test_a_batch_may_lack_rows_of_a_domain_or_of_all(counts: tuple[int, int]) -> None:
    embedding = FieldEmbedding(
        {"colour": counting_table(5), "word": counting_table(9)},
        categorical=["colour"],
        bags=["word"],
        num_numbers=1,
        present=[[True, False, True], [True, True, True]],
        dim=2,
    ).double()
    rows = sum(counts)
    x = Features(torch.ones(rows, 1, dtype=torch.int64), (bag(*[[1]] * rows),), torch.ones(rows, 1).double())
    y: Tensor = embedding(x, DomainSlices.from_counts(counts))
    assert y.shape == (rows, 3, 2)


def test_a_text_is_mapped_linearly_stands_last_and_is_zero_without_known_words() -> None:
    embedding = FieldEmbedding(
        {"colour": counting_table(5)},
        categorical=["colour"],
        bags=[],
        num_numbers=1,
        present=everywhere(4),
        dim=2,
        text_dims=(3, 1),
    ).double()
    assert embedding.number_vector is not None
    with torch.no_grad():
        embedding.number_vector.copy_(torch.tensor([[1.0, 0.0]]))
        embedding.text_maps[0].get_parameter("weight").copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 5.0]]))
        embedding.text_maps[1].get_parameter("weight").copy_(torch.tensor([[7.0], [8.0]]))
    texts = (torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]).double(), torch.tensor([[1.0], [-1.0]]).double())
    x = Features(torch.tensor([[3], [4]]), (), torch.tensor([[2.0], [0.0]]).double(), texts)
    y: Tensor = embedding(x, DomainSlices((0, 1, 2)))
    # (1, 2, 3) maps to (1 + 4, 15)
    assert y.tolist() == [[[3, 30], [2, 0], [5, 15], [7, 8]], [[4, 40], [0, 0], [0, 0], [-7, -8]]]


def test_an_absent_text_is_zero_for_its_domain_and_learns_nothing_there() -> None:
    embedding = FieldEmbedding(
        {}, categorical=[], bags=[], num_numbers=0, present=[[True], [False]], dim=2, text_dims=(3,)
    )
    x = Features(torch.empty(2, 0, dtype=torch.int64), (), torch.empty(2, 0), (torch.ones(2, 3),))
    y: Tensor = embedding(x, DomainSlices((0, 1, 2)))
    assert y[1].tolist() == [[0, 0]]
    alone: Tensor = embedding(x, DomainSlices((0, 0, 2)))
    assert alone.tolist() == [[[0, 0]]] * 2
    assert not alone.requires_grad
    torch.autograd.backward(y.sum())
    gradient = embedding.text_maps[0].get_parameter("weight").grad
    assert gradient is not None
    assert gradient.tolist() == [[1, 1, 1]] * 2


def one_field(*tables: str, numbers: int = 0, present: tuple[tuple[bool, ...], ...] | None = None) -> FeatureSizes:
    """Sizes of single-valued fields of the named tables, and of numbers."""
    names = (*tables, *(f"number {place}" for place in range(numbers)))
    return FeatureSizes(names, tables, (), numbers, present or ((True,) * len(names),) * 2)


def test_a_click_models_fields_are_the_users_the_items_and_the_rows() -> None:
    tables = {"item": counting_table(9), "user": counting_table(5)}
    sizes = RankingSizes(
        one_field("user", "item"), one_field("item"), one_field(numbers=1, present=((True,), (False,)))
    )
    embedding = RankingEmbedding(tables, sizes, 2).double()
    assert embedding.row is not None
    assert embedding.row.number_vector is not None
    with torch.no_grad():
        embedding.row.number_vector.copy_(torch.tensor([[1.0, -1.0]]))
    x = RankingFeatures(features([[1, 7], [2, 8]]), features([[7], [3]]), features([[], []], (), [[0.5], [0.5]]))
    y: Tensor = embedding(x, DomainSlices((0, 1, 2)))
    # The user's last item and the item shown are looked up in one table; domain 1 has no number.
    assert y.tolist() == [
        [[1, 10], [7, 70], [7, 70], [0.5, -0.5]],
        [[2, 20], [8, 80], [3, 30], [0, 0]],
    ]
    assert (embedding.num_fields, embedding.dim) == (4, 2)
    assert sum(parameter.numel() for parameter in embedding.parameters()) == 9 * 2 + 5 * 2 + 2


def test_a_side_of_no_fields_adds_none() -> None:
    sizes = RankingSizes(one_field("user"), one_field("item"), one_field())
    embedding = RankingEmbedding({"item": counting_table(9), "user": counting_table(5)}, sizes, 2)
    nothing = Features(torch.empty(1, 0, dtype=torch.int64), (), torch.empty(1, 0))
    y: Tensor = embedding(RankingFeatures(features([[4]]), features([[6]]), nothing), DomainSlices((0, 0, 1)))
    assert y.tolist() == [[[4, 40], [6, 60]]]
