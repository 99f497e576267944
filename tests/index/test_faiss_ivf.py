from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.batch import Bag
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.index.filtered import faiss


@pytest.mark.parametrize(("num_lists", "num_probes"), [(4, 1), (3, 4), (2, 0)])
def test_numbers_of_lists_and_probes_are_checked(num_lists: int, num_probes: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_probes}, {num_lists} and 3"):
        IVFIndex.build(
            torch.eye(3), torch.arange(3), num_lists=num_lists, num_probes=num_probes, eight_bits=False, seed=0
        )


def test_reading_every_list_is_exact() -> None:
    vectors = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    index = IVFIndex.build(vectors, torch.arange(500), num_lists=10, num_probes=10, eight_bits=False, seed=0)
    queries = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    assert index.search(queries, 15).item_row.tolist() == (queries @ vectors.T).topk(15).indices.tolist()


def test_tuning_reads_the_fewest_lists_that_find_the_share() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(600, 8, generator=generator)
    queries, rows = torch.randn(30, 8, generator=generator), torch.arange(1, 601)
    index = IVFIndex.build(items, rows, num_lists=24, num_probes=1, eight_bits=False, seed=0)
    best = rows[(queries @ items.T).topk(20, dim=1).indices]

    def share() -> float:
        near = index.search(queries, 20).item_row
        hits = [len(set(one.tolist()) & set(other.tolist())) for one, other in zip(near, best, strict=True)]
        return sum(hits) / best.numel()

    found = index.tune(queries, best, recall=0.9)
    assert found == pytest.approx(share())
    assert found >= 0.9
    num_probes = index.inverted_file.nprobe
    assert 1 < num_probes < 24
    index.inverted_file.nprobe = num_probes - 1
    assert share() < 0.9
    assert index.tune(queries, best, recall=1.1) == 1.0  # more than there is: all lists
    assert index.inverted_file.nprobe == 24


@pytest.mark.parametrize("num_excluded", [0, 3, 60, 395])
@pytest.mark.parametrize("k", [1, 20, 500])
def test_one_query_finds_what_it_finds_among_many(k: int, num_excluded: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(400, 8, generator=generator)
    vectors[200:210] = vectors[0]  # equal scores: the lower row is the better
    rows, queries = torch.arange(5, 405), torch.randn(6, 8, generator=generator)
    index = IVFIndex.build(vectors, rows, num_lists=16, num_probes=2, eight_bits=False, seed=0)
    for query in [*queries, vectors[0]]:
        excluded = np.sort(torch.randperm(400, generator=generator)[:num_excluded].numpy())
        bag = Bag(rows[excluded], torch.tensor([0, num_excluded]))
        many = index.search(query[None], k, excluded=bag)
        place, score = index.nearest(query.numpy(), k, excluded)
        is_found = many.item_row[0] >= 0
        assert rows[place].tolist() == many.item_row[0][is_found].tolist()
        assert score == pytest.approx(many.score[0][is_found].numpy(), abs=1e-6)
        assert len(place) == min(k, 400 - num_excluded)
    with pytest.raises(ValueError, match="a query is not finite"):
        index.nearest(np.full(8, np.nan, np.float32), k, np.empty(0, np.int64))


def test_a_loaded_index_starts_no_threads_that_read_ahead(tmp_path: Path) -> None:
    vectors = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    IVFIndex.build(vectors, torch.arange(300), num_lists=30, num_probes=30, eight_bits=False, seed=0).save(tmp_path)
    loaded = IVFIndex.load(tmp_path)
    assert faiss.downcast_InvertedLists(loaded.inverted_file.invlists).prefetch_nthread == 0
    assert loaded.search(vectors[:1], 10).item_row.tolist() == (vectors[:1] @ vectors.T).topk(10).indices.tolist()
