from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.batch import Bag
from isthmus.index import exact
from isthmus.index.exact import ExactIndex


def test_of_items_that_tie_for_the_last_places_the_lower_rows_are_taken() -> None:
    # one item of score 2, two hundred of score 1, some of score 0: topk alone takes any of those of score 1
    vectors = torch.cat([torch.zeros(50), torch.ones(200), torch.full((1,), 2.0)])[:, None]
    order = torch.randperm(251, generator=torch.Generator().manual_seed(0))
    found = ExactIndex(vectors[order], order).search(torch.ones(1, 1), 6)
    assert found.item_row.tolist() == [[250, 50, 51, 52, 53, 54]]
    assert found.score.tolist() == [[2.0, 1.0, 1.0, 1.0, 1.0, 1.0]]


def test_small_blocks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    index = ExactIndex(torch.randn(30, 4, generator=generator), torch.randperm(30, generator=generator))
    queries = torch.randn(11, 4, generator=generator)
    excluded = Bag(torch.randint(30, (33,), generator=generator), torch.arange(0, 34, 3))
    whole = index.search(queries, 5, excluded)
    monkeypatch.setattr(exact, "BLOCK_SCORES", 60)
    blocked = index.search(queries, 5, excluded)
    assert blocked.item_row.tolist() == whole.item_row.tolist()
    torch.testing.assert_close(blocked.score, whole.score)


def test_a_loaded_index_leaves_its_vectors_on_disk(tmp_path: Path) -> None:
    ExactIndex(torch.eye(5), torch.tensor([4, 2, 0, 1, 3])).save(tmp_path)
    index = ExactIndex.load(tmp_path)
    on_disk = np.load(tmp_path / "vectors.npy")
    assert on_disk.tolist() == index.vectors.tolist()
    # a private mapping: what is done to the tensor does not reach the file
    index.vectors.zero_()
    assert np.load(tmp_path / "vectors.npy").tolist() == on_disk.tolist()


def test_double_precision_is_kept() -> None:
    vectors = torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64)
    found = ExactIndex(vectors, torch.tensor([0, 1])).search(torch.ones(1, 1, dtype=torch.float64), 2)
    assert found.item_row.tolist() == [[1, 0]]
    assert found.score.dtype == torch.float64
