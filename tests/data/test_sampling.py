from math import log

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.tiny import Positive, rich_dataset, tiny_dataset, tiny_schema
from torch import Tensor

from isthmus.batch import Bag, Features, ItemBlock, RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler, Negatives, PositiveWeight, read_corpora
from isthmus.domains import DomainSlices

KINDS: tuple[Negatives, ...] = ("full", "uniform", "popularity", "in_batch", "mixed")

# Domain a may show its own items 1 2 3 4 and b's 4 5 6; b its own; c, without rows, a's.
TAKEN = {0: {1: 5, 2: 3, 3: 1, 4: 1}, 1: {4: 1, 5: 2, 6: 1}, 2: {}}
CORPORA = {"a": ("a", "b"), "c": ("a",)}
COUNTS_A = [5, 3, 1, 1, 1, 1]  # 5 and 6, which a never took, count as if taken once


def dataset() -> Dataset:
    train: list[Positive] = [
        (1, item, domain, 0) for domain, items in TAKEN.items() for item, times in items.items() for _ in range(times)
    ]
    return tiny_dataset(train, num_users=2, num_items=8, schema=tiny_schema(corpora=CORPORA))


def batch_of(items: list[list[int]]) -> RetrievalBatch:
    """A batch of the given positives of each domain; nothing else of it is read by the sampler."""
    flat = [item for own in items for item in own]
    none = Bag(torch.empty(0, dtype=torch.int64), torch.zeros(len(flat) + 1, dtype=torch.int64))
    features = Features(torch.empty(len(flat), 0, dtype=torch.int64), (), torch.empty(len(flat), 0))
    slices = DomainSlices.from_counts([len(own) for own in items])
    return RetrievalBatch(features, torch.tensor(flat), none, slices)


def sampler(kind: Negatives, count: int, positive_weight: PositiveWeight = "letter") -> CandidateSampler:
    return CandidateSampler(dataset(), kind, count, None, positive_weight)


def weights(block: ItemBlock, domain: int) -> dict[int, float]:
    columns = block.domain_slices[domain]
    return dict(zip(block.item_row[columns].tolist(), block.log_weight[columns].tolist(), strict=True))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_corpus_is_what_the_domain_may_show() -> None:
    assert [corpus.item_row.tolist() for corpus in read_corpora(dataset())] == [
        [1, 2, 3, 4, 5, 6],
        [4, 5, 6],
        [1, 2, 3, 4],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_distinct_ascending_items_of_the_domains_own_corpus(kind: Negatives) -> None:
    for seed in range(20):
        block, positives = sampler(kind, 3).block(batch_of([[2, 5, 2], [6, 4], []]), seeded(seed))
        assert block.domain_slices.counts[2] == 0
        for domain, positive in ((0, [2, 5, 2]), (1, [6, 4])):
            items = block.item_row[block.domain_slices[domain]]
            assert bool((items[1:] > items[:-1]).all())
            assert set(items.tolist()) <= ({1, 2, 3, 4, 5, 6} if domain == 0 else {4, 5, 6})
            rows = slice(0, 3) if domain == 0 else slice(3, 5)
            assert items[positives.column[rows]].tolist() == positive
        assert bool(block.log_weight[block.log_weight > -torch.inf].isfinite().all())
        assert not bool(block.log_weight.isnan().any())
        assert bool(positives.log_weight.isfinite().all())
        assert block.item.categorical[:, 0].tolist() == block.item_row.tolist()


def test_full_takes_the_corpus_once_at_weight_one() -> None:
    block, positives = sampler("full", 1).block(batch_of([[2], [6]]), seeded(0))
    assert weights(block, 0) == dict.fromkeys([1, 2, 3, 4, 5, 6], 0.0)
    assert weights(block, 1) == dict.fromkeys([4, 5, 6], 0.0)
    assert positives.log_weight.tolist() == [0.0, 0.0]


def test_uniform_takes_a_corpus_that_is_no_larger_whole() -> None:
    block, positives = sampler("uniform", 3).block(batch_of([[2], [6]]), seeded(0))
    assert weights(block, 1) == dict.fromkeys([4, 5, 6], 0.0)  # three items, three draws
    assert positives.log_weight.tolist() == pytest.approx([log(6), 0.0])  # six items: 3 draws at Q = 1 / 6


Q = {
    "uniform": [1 / 6] * 6,
    "popularity": [count / 12 for count in COUNTS_A],
    # two of six places come from the batch, by popularity; four are uniform
    "mixed": [2 / 6 * count / 12 + 4 / 6 / 6 for count in COUNTS_A],
}


@pytest.mark.parametrize(("kind", "q"), Q.items())
def test_a_weight_is_the_log_of_the_draws_less_log_q(kind: Negatives, q: list[float]) -> None:
    seen_counts = set()
    for seed in range(30):
        block, positives = sampler(kind, 4).block(batch_of([[2, 3]]), seeded(seed))
        assert positives.log_weight.tolist() == pytest.approx([-log(q[1]), -log(q[2])], rel=1e-6)
        total = 0.0
        for item, weight in weights(block, 0).items():
            times = float(np.exp(weight + log(q[item - 1])))
            assert times == pytest.approx(round(times), abs=1e-5)
            assert times > 0 or item in (2, 3)  # without a draw an item is here as a positive only
            total += round(times)
            seen_counts.add(round(times))
        assert total == (6 if kind == "mixed" else 4)
    assert seen_counts >= {1, 2}
    assert (0 in seen_counts) == (kind != "mixed")  # there the positives are draws


def test_in_batch_counts_the_batchs_positives() -> None:
    block, positives = sampler("in_batch", 1).block(batch_of([[2, 1, 2], [5]]), seeded(0))
    # Q is the domain's own popularity: of a, 5 / 12 and 3 / 12; of b, 2 / 4
    assert weights(block, 0) == pytest.approx({1: log(1 * 12 / 5), 2: log(2 * 12 / 3)}, rel=1e-6)
    assert weights(block, 1) == pytest.approx({5: log(4 / 2)}, rel=1e-6)
    assert positives.log_weight.tolist() == pytest.approx([log(4), log(12 / 5), log(4), log(2)], rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "num_draws"), [("uniform", 4), ("popularity", 4), ("in_batch", 2), ("mixed", 6), ("full", 1)]
)
def test_the_expected_weight_of_a_positive_is_the_log_of_the_draws(kind: Negatives, num_draws: int) -> None:
    _, positives = sampler(kind, 4, "expected").block(batch_of([[2, 3]]), seeded(0))
    assert positives.log_weight.tolist() == pytest.approx([log(num_draws)] * 2)


def draws(kind: Negatives, rounds: int, count: int) -> Tensor:
    """How often each item of domain a was drawn, from the weights that the block gives."""
    total = torch.zeros(6, dtype=torch.float64)
    q = torch.tensor(Q[kind], dtype=torch.float64).log()
    generator, chance = seeded(11), seeded(12)
    popularity = torch.tensor(COUNTS_A, dtype=torch.float64)
    drawing = sampler(kind, count)
    for _ in range(rounds):
        taken = torch.multinomial(popularity, count // 2, replacement=True, generator=chance) + 1
        block, _ = drawing.block(batch_of([taken.tolist()]), generator)
        items = block.item_row - 1
        total[items] += (block.log_weight.double() + q[items]).exp().round()
    return total


@pytest.mark.parametrize("kind", ["popularity", "mixed"])
def test_items_are_drawn_as_often_as_q_says(kind: Negatives) -> None:
    # "mixed" draws half as many from the batch as uniformly: the shares 2 / 6 and 4 / 6 of Q
    seen = draws(kind, rounds=20, count=400)
    assert seen.sum().item() == 20 * (600 if kind == "mixed" else 400)
    expected = torch.tensor(Q[kind], dtype=torch.float64) * seen.sum()
    assert chisquare(seen.numpy(), expected.numpy()).pvalue > 0.01


def test_uniform_draws_each_item_as_often() -> None:
    total = torch.zeros(6, dtype=torch.float64)
    generator = seeded(5)
    drawing = sampler("uniform", 5)
    for _ in range(600):
        block, _ = drawing.block(batch_of([[1]]), generator)
        total[block.item_row - 1] += (block.log_weight.double() - log(6)).exp().round()
    assert total.sum().item() == 3000
    assert chisquare(total.numpy()).pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_only_another_domain_took_has_a_finite_weight(kind: Negatives) -> None:
    # so it is where self-training labels b's rows for a, or in a domain that has no rows yet
    block, positives = sampler(kind, 4).block(batch_of([[5, 6], [], [1]]), seeded(0))
    assert bool(positives.log_weight.isfinite().all())
    assert not bool((block.log_weight.isnan() | (block.log_weight == torch.inf)).any())


def test_which_items_a_domain_may_show() -> None:
    items = torch.tensor([7, 0, 5, 1, 6])
    drawing = sampler("uniform", 4)
    assert drawing.is_in_corpus(0, items).tolist() == [False, False, True, True, True]
    assert drawing.is_in_corpus(1, items).tolist() == [False, False, True, False, True]
    empty = CandidateSampler(
        tiny_dataset([(1, 1, 0, 0)], num_users=2, num_items=3, schema=tiny_schema()), "full", 1, None
    )
    assert empty.is_in_corpus(2, items).tolist() == [False] * 5


def test_items_are_read_as_the_domain_of_their_slice_shows_them() -> None:
    rich = rich_dataset(corpora={"b": ("a", "b", "c")})
    batch = next(RetrievalLoader(rich, batch_size=100, seed=0).epoch(0))
    block, _ = CandidateSampler(rich, "full", 1, None).block(batch, seeded(0))
    price = rich.features["price"]
    assert isinstance(price, np.ndarray)
    places = (block.domain_slices.row_domain() * 21 + block.item_row).numpy()
    assert block.item.number[:, 0].tolist() == price[places].tolist()


def test_no_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="negatives must be 1 or more, got 0"):
        sampler("uniform", 0)
