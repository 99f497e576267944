"""One suite for every index."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isthmus.batch import Bag
from isthmus.index.exact import ExactIndex
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.index.hnsw import HNSWIndex
from isthmus.index.protocol import Index

Build = Callable[[Tensor, Tensor], Index]


def build_ivf(vectors: Tensor, item_row: Tensor, *, eight_bits: bool) -> IVFIndex:
    num_lists = max(1, item_row.numel() // 32)
    return IVFIndex.build(
        vectors, item_row, num_lists=num_lists, num_probes=max(1, num_lists // 2), eight_bits=eight_bits, seed=1
    )


def build_hnsw(vectors: Tensor, item_row: Tensor) -> HNSWIndex:
    return HNSWIndex.build(vectors, item_row, links_per_item=32, build_breadth=200, search_breadth=400)


@dataclass(frozen=True)
class Kind:
    """A way to build an index, what it must reach against exact search, and how far its scores may lie off."""

    build: Build
    load: Callable[[Path], Index]
    recall: float
    error: float


KINDS = {
    "exact": Kind(ExactIndex, ExactIndex.load, recall=1.0, error=1e-5),
    "ivf": Kind(lambda v, i: build_ivf(v, i, eight_bits=False), IVFIndex.load, recall=0.9, error=1e-5),
    "ivf-sq8": Kind(lambda v, i: build_ivf(v, i, eight_bits=True), IVFIndex.load, recall=0.9, error=0.1),
    "hnsw": Kind(build_hnsw, HNSWIndex.load, recall=0.98, error=1e-5),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def normal_corpus(num_items: int = 1000, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Vectors of differing norms, and item rows that are neither sorted nor without gaps."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_items, dim, generator=generator) * torch.rand(num_items, 1, generator=generator)
    return vectors, torch.randperm(3 * num_items, generator=generator)[:num_items]


def normal_queries(num_queries: int = 40, dim: int = 16) -> Tensor:
    return torch.randn(num_queries, dim, generator=torch.Generator().manual_seed(1))


def bag(lists: list[list[int]]) -> Bag:
    lengths = torch.tensor([0] + [len(values) for values in lists])
    values = torch.tensor([value for values in lists for value in values], dtype=torch.int64)
    return Bag(values, lengths.cumsum(0))


def test_every_kind_of_index_is_in_the_suite() -> None:
    assert len(KINDS) == 4


def test_planted_answers_are_found_best_first(kind: Kind) -> None:
    vectors, item_row = normal_corpus()
    queries = torch.linalg.qr(normal_queries(8).T).Q.T.contiguous()  # orthonormal: no query meets another's items
    # three items along each query, with inner products 8, 7 and 6; those of all other items stay below 5
    lengths = torch.tensor([8.0, 7.0, 6.0])
    for query in range(8):
        vectors[10 * query : 10 * query + 3] = lengths[:, None] * queries[query]
    assert int((queries @ vectors.T > 5).sum()) == 24
    found = kind.build(vectors, item_row).search(queries, 3)
    for query in range(8):
        assert found.item_row[query].tolist() == item_row[10 * query : 10 * query + 3].tolist()
        assert found.score[query].tolist() == pytest.approx([8.0, 7.0, 6.0], abs=kind.error)


def test_recall_against_exact_search_and_scores_are_as_stated(kind: Kind) -> None:
    vectors, item_row = normal_corpus()
    queries = normal_queries()
    found = kind.build(vectors, item_row).search(queries, 20)
    exact = (queries @ vectors.T).topk(20)
    best = item_row[exact.indices]
    assert (found.item_row[:, :, None] == best[:, None, :]).any(dim=2).double().mean().item() >= kind.recall
    row_of_item = torch.full((3000,), -1)
    row_of_item[item_row] = torch.arange(1000)
    score = torch.einsum("qd,qkd->qk", queries, vectors[row_of_item[found.item_row]])
    torch.testing.assert_close(found.score, score, atol=kind.error, rtol=0)
    assert bool((found.score[:, 1:] <= found.score[:, :-1]).all())


def test_excluded_items_never_come_back_and_k_is_filled(kind: Kind) -> None:
    vectors, item_row = normal_corpus()
    queries = normal_queries(6)
    best = item_row[(queries @ vectors.T).topk(300).indices].tolist()
    # the best 0, 1, 10, 100 and 300; a row of no item of the corpus, and one said twice, are no matter
    absent = next(row for row in range(3000) if row not in set(item_row.tolist()))
    lists = [[], best[1][:1], best[2][:10], best[3][:100] * 2, best[4], [absent, 10**9]]
    found = kind.build(vectors, item_row).search(queries, 50, bag(lists))
    assert bool((found.item_row >= 0).all())
    for query, excluded in enumerate(lists):
        rows = found.item_row[query].tolist()
        assert len(set(rows)) == 50
        assert not set(rows) & set(excluded)
    # what comes next after the excluded is what is found
    after = item_row[(queries @ vectors.T).topk(350).indices]
    num_right = 0
    for query, skipped in ((1, 1), (2, 10), (3, 100), (4, 300)):
        expected = set(after[query, skipped : skipped + 50].tolist())
        num_right += len(expected & set(found.item_row[query].tolist()))
    assert num_right / 200 >= kind.recall - 0.1


def test_excluding_a_row_that_the_corpus_lacks_leaves_its_neighbours_alone(kind: Kind) -> None:
    vectors, _ = normal_corpus(64)
    found = kind.build(vectors, 2 * torch.arange(64)).search(vectors[5:6], 64, bag([[*range(-1, 128, 2), 10**9]]))
    assert sorted(found.item_row[0].tolist()) == list(range(0, 128, 2))


def test_k_above_the_corpus_gives_every_item_and_then_nothing(kind: Kind) -> None:
    vectors, item_row = normal_corpus(40)
    queries = normal_queries(3)
    found = kind.build(vectors, item_row).search(queries, 45, bag([[], item_row[:7].tolist(), item_row.tolist()]))
    for query, num_left in enumerate((40, 33, 0)):
        rows = found.item_row[query].tolist()
        assert len(set(rows[:num_left]) & set(item_row.tolist())) == num_left
        assert rows[num_left:] == [-1] * (45 - num_left)
        assert found.score[query, num_left:].tolist() == [-inf] * (45 - num_left)
        assert bool(found.score[query, :num_left].isfinite().all())


def test_k_is_filled_when_most_of_a_neighbourhood_is_excluded(kind: Kind) -> None:
    # two far clusters; the one that the query points to is excluded whole, and half of the other
    generator = torch.Generator().manual_seed(4)
    far = torch.cat([torch.full((300, 8), 3.0), torch.full((300, 8), -3.0)])
    vectors = far + 0.1 * torch.randn(600, 8, generator=generator)
    item_row = torch.arange(600)
    found = kind.build(vectors, item_row).search(torch.ones(1, 8), 150, bag([list(range(450))]))
    assert sorted(found.item_row[0].tolist()) == list(range(450, 600))


def test_a_corpus_of_one_item_is_searched(kind: Kind) -> None:
    index = kind.build(torch.tensor([[1.0, 2.0]]), torch.tensor([7]))
    found = index.search(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]), 2, bag([[], [7]]))
    assert index.num_items == 1
    assert found.item_row.tolist() == [[7, -1], [-1, -1]]
    assert found.score[0].tolist() == pytest.approx([5.0, -inf])


def test_an_empty_batch_of_queries_gives_an_empty_answer(kind: Kind) -> None:
    index = kind.build(*normal_corpus(64))
    for excluded in (None, bag([])):
        found = index.search(torch.empty(0, 16), 5, excluded)
        assert found.item_row.shape == (0, 5)
        assert found.score.shape == (0, 5)


def test_an_answer_does_not_depend_on_the_queries_beside_it(kind: Kind) -> None:
    index = kind.build(*normal_corpus())
    queries = normal_queries(12)
    lists = bag([[row] * (row % 2) for row in range(12)])
    together = index.search(queries, 9, lists)
    for query in range(12):
        alone = index.search(queries[query : query + 1], 9, lists.select(slice(query, query + 1)))
        assert alone.item_row[0].tolist() == together.item_row[query].tolist()
        torch.testing.assert_close(alone.score[0], together.score[query])


def test_equal_scores_are_ordered_by_item_row(kind: Kind) -> None:
    # a query of zeros ties all items
    vectors, item_row = normal_corpus(30)
    found = kind.build(vectors, item_row).search(torch.zeros(1, 16), 30)
    assert found.item_row[0].tolist() == sorted(item_row.tolist())


def test_a_saved_index_answers_as_before(kind: Kind, tmp_path: Path) -> None:
    vectors, item_row = normal_corpus()
    index = kind.build(vectors, item_row)
    index.save(tmp_path / "index")
    for file in (tmp_path / "index").iterdir():
        file.chmod(0o444)
    again = kind.load(tmp_path / "index")
    lists = bag([[row] for row in item_row[:40].tolist()])
    before, after = (each.search(normal_queries(), 10, lists) for each in (index, again))
    assert again.num_items == 1000
    assert before.item_row.tolist() == after.item_row.tolist()
    assert before.score.tolist() == after.score.tolist()


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_one_or_more(kind: Kind, k: int) -> None:
    with pytest.raises(ValueError, match=f"1 or more, got {k}"):
        kind.build(*normal_corpus(40)).search(normal_queries(), k)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_queries_and_items_must_be_finite(kind: Kind, bad: float) -> None:
    vectors, item_row = normal_corpus(40)
    queries = normal_queries()
    queries[3, 2] = bad
    with pytest.raises(ValueError, match="query is not finite"):
        kind.build(vectors, item_row).search(queries, 5)
    vectors[2, 1] = bad
    with pytest.raises(ValueError, match="item vector is not finite"):
        kind.build(vectors, item_row)


def test_queries_and_exclusions_must_fit(kind: Kind) -> None:
    index = kind.build(*normal_corpus(40))
    with pytest.raises(ValueError, match="width 5, the items 16"):
        index.search(torch.zeros(2, 5), 3)
    with pytest.raises(ValueError, match="1 exclusion lists for 2 queries"):
        index.search(torch.zeros(2, 16), 3, bag([[4]]))


@pytest.mark.parametrize(("rows", "message"), [([3, 1, 3], "3 stands twice"), ([1, -1, 0], "got -1"), ([], "one item")])
def test_a_corpus_must_have_distinct_item_rows(kind: Kind, rows: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.build(torch.ones(len(rows), 4), torch.tensor(rows, dtype=torch.int64))


def test_building_twice_gives_the_same_answers(kind: Kind) -> None:
    vectors, item_row = normal_corpus()
    one, other = (kind.build(vectors, item_row).search(normal_queries(), 10) for _ in range(2))
    assert one.item_row.tolist() == other.item_row.tolist()
