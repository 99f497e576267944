import pytest
import torch

from isthmus.index.faiss_ivf import IVFIndex


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
