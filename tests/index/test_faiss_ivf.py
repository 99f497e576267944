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
