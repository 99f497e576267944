import pytest
import torch

from isthmus.index.hnsw import HNSWIndex


def test_k_is_filled_where_the_graph_falls_apart() -> None:
    # thirty tight clusters far from each other, and two links an item: a walk does not leave its cluster
    generator = torch.Generator().manual_seed(0)
    centre = 20 * torch.randn(30, 1, 8, generator=generator)
    vectors = (centre + 0.01 * torch.randn(30, 10, 8, generator=generator)).flatten(0, 1)
    index = HNSWIndex.build(vectors, torch.arange(300), links_per_item=2, build_breadth=2, search_breadth=1)
    query = torch.randn(1, 8, generator=generator)
    found = index.search(query, 300)
    assert sorted(found.item_row[0].tolist()) == list(range(300))
    torch.testing.assert_close(found.score, (query @ vectors.T).sort(descending=True).values)


@pytest.mark.parametrize(("links", "build_breadth", "search_breadth"), [(1, 9, 9), (8, 0, 9), (8, 9, 0)])
def test_sizes_of_the_graph_are_checked(links: int, build_breadth: int, search_breadth: int) -> None:
    with pytest.raises(ValueError, match=f"got {links}, {build_breadth} and {search_breadth}"):
        HNSWIndex.build(
            torch.eye(3),
            torch.arange(3),
            links_per_item=links,
            build_breadth=build_breadth,
            search_breadth=search_breadth,
        )
