from math import log2

import pytest
import torch
from tests.tiny import Positive, tiny_dataset, tiny_schema
from torch import Tensor

from isthmus.data.dataset import Dataset
from isthmus.data.features import Rows
from isthmus.evaluation.retrieval import RetrievalResult, evaluate_retrieval, place_in, rank_among, rank_in_corpus
from isthmus.metrics import NEVER_RANKED

# Corpus of a: items 1 2 3 4 5 (5 through b); of b: 5; c has an empty corpus and no rows.
TRAIN: list[Positive] = [(1, 1, 0, 1), (1, 2, 0, 2), (2, 3, 0, 1), (2, 4, 0, 2), (1, 5, 1, 3)]
CANDIDATES = {
    (1, 4, 0, 9): [2, 3, 4, 5],
    (1, 7, 0, 8): [1, 3, 7],  # training never saw 7
    (2, 3, 0, 7): [3, 6],  # taken before, asked for again; 6 is in no corpus
    (1, 5, 1, 9): [5],
}
SCORE = {1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0, 5: 1.0}


def dataset_of(held_out: list[Positive], *, listed: bool = True) -> Dataset:
    return tiny_dataset(
        TRAIN,
        held_out,
        num_users=4,
        num_items=9,
        schema=tiny_schema(corpora={"a": ("a", "b")}),
        candidates=(lambda p: CANDIDATES[p]) if listed else None,
    )


class ByItem:
    """Scores an item the same for every row of a domain."""

    def __init__(self, dataset: Dataset, score: dict[int, float]) -> None:
        self.dataset, self.score = dataset, score
        self.blocks: list[tuple[int, list[int]]] = []

    def __call__(self, domain: int, rows: Rows) -> Tensor:
        self.blocks.append((domain, rows.tolist()))
        corpus = self.dataset.corpus(domain).tolist()
        return torch.tensor([[self.score[item] for item in corpus] for _ in rows]).reshape(len(rows), len(corpus))


def evaluated(dataset: Dataset, score: dict[int, float], *, block: int = 1024) -> RetrievalResult:
    return evaluate_retrieval(ByItem(dataset, score), dataset, "valid", ks=(1, 2, 3), corpus_ks=(1, 2, 3), block=block)


def ranks(result: RetrievalResult, name: str) -> list[float]:
    """Ranks up to 3 as nDCG tells them; 0 for none."""
    return [round(2 ** (1 / v) - 1, 6) if v else 0 for v in result.metrics[f"{name}@3"].tolist()]


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_ranks_worked_by_hand(block: int) -> None:
    result = evaluated(dataset_of(list(CANDIDATES)), SCORE, block=block)
    # By domain, user, time: user 1's rows of items 7 (time 8) and 4 (time 9), user 2's of 3 (time 7), then b's 5.
    assert result.domain.tolist() == [0, 0, 0, 1]
    assert result.user_row.tolist() == [1, 1, 2, 1]
    assert result.item_row.tolist() == [7, 4, 3, 5]
    assert result.item_count.tolist() == [0, 1, 1, 1]
    # Known are the user's own of the domain: 1 and 2, the same, 3 and 4, and 5.
    assert result.known.tolist() == [2, 2, 2, 1]
    # Lists: 7 is a miss; 4 stands behind 2 and 3; 3 is alone with 6, which is not there; 5 is alone.
    assert ranks(result, "ndcg") == [0, 3, 1, 1]
    # Corpus less known items: of 3 4 5, item 4 is second; of 1 2 3 5, item 3 is third; 5 is its own known item.
    assert ranks(result, "corpus_ndcg") == [0, 2, 3, 1]
    assert result.metrics["recall@2"].tolist() == [0, 0, 1, 1]
    assert result.metrics["corpus_recall@2"].tolist() == [0, 1, 0, 1]
    assert result.metrics["ndcg@3"][1].item() == pytest.approx(1 / log2(4))


def test_equal_scores_rank_by_item_row() -> None:
    result = evaluated(dataset_of(list(CANDIDATES)), dict.fromkeys(SCORE, 0.5))
    assert ranks(result, "ndcg") == [0, 3, 1, 1]  # 4 behind 2 and 3, before 5
    assert ranks(result, "corpus_ndcg") == [0, 2, 3, 1]  # 4 behind 3; 3 behind 1 and 2


def test_without_lists_there_are_corpus_metrics_alone() -> None:
    result = evaluated(dataset_of(list(CANDIDATES), listed=False), SCORE)
    assert set(result.metrics) == {f"corpus_{name}@{k}" for name in ("recall", "ndcg") for k in (1, 2, 3)}


def test_each_domain_is_scored_apart_and_one_without_rows_not_at_all() -> None:
    dataset = dataset_of(list(CANDIDATES))
    scorer = ByItem(dataset, SCORE)
    evaluate_retrieval(scorer, dataset, "valid", block=2)
    assert scorer.blocks == [(0, [0, 1]), (0, [2]), (1, [3])]


def test_a_large_corpus_is_scored_for_fewer_rows_at_a_time() -> None:
    dataset = dataset_of(list(CANDIDATES))
    scorer = ByItem(dataset, SCORE)
    # Of a's five items two rows fit into 14 scores, of b's one item all that a block may have.
    result = evaluate_retrieval(scorer, dataset, "valid", ks=(3,), corpus_ks=(3,), most_scores=14)
    assert scorer.blocks == [(0, [0, 1]), (0, [2]), (1, [3])]
    assert ranks(result, "corpus_ndcg") == [0, 2, 3, 1]
    scorer.blocks.clear()
    evaluate_retrieval(scorer, dataset, "valid", most_scores=3)  # less than one row's: one at a time
    assert scorer.blocks == [(0, [0]), (0, [1]), (0, [2]), (1, [3])]


def test_a_split_without_rows_has_empty_metrics() -> None:
    dataset = dataset_of([], listed=False)
    result = evaluated(dataset, SCORE)
    assert result.domain.numel() == 0
    assert {value.numel() for value in result.metrics.values()} == {0}


def test_a_domain_without_a_corpus_misses() -> None:
    dataset = tiny_dataset(
        TRAIN, [(1, 1, 2, 5)], num_users=4, num_items=9, schema=tiny_schema(), candidates=lambda _: [1, 2]
    )
    result = evaluated(dataset, SCORE)
    assert {value.item() for value in result.metrics.values()} == {0.0}


def test_a_user_of_whom_nothing_is_known_is_ranked_in_the_whole_corpus() -> None:
    dataset = tiny_dataset(TRAIN, [(3, 3, 0, 9), (0, 4, 0, 9)], num_users=4, num_items=9, schema=tiny_schema())
    result = evaluated(dataset, SCORE)
    assert result.known.tolist() == [0, 0]
    assert ranks(result, "corpus_ndcg") == [0, 3]  # item 4 is fourth of 1 2 3 4, item 3 third


def test_the_positive_is_found_in_padded_lists() -> None:
    corpus = torch.tensor([2, 4, 6])
    score = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [-5.0, -6.0, -7.0]])
    listed = torch.tensor([[2, 4, 6], [6, -1, -1], [2, 6, -1]])
    assert rank_among(score, corpus, listed, torch.tensor([2, 6, 6])).tolist() == [3, 1, 2]


def test_unseen_and_unlisted_items_are_misses() -> None:
    corpus = torch.tensor([2, 4])
    score = torch.tensor([[1.0, 2.0]]).expand(4, 2)
    listed = torch.tensor([[0, 0, 2], [0, 2, 4], [2, 3, 4], [2, 4, -1]])
    # Unseen items, positive or not, have row 0; 3 is known elsewhere but not shown here; 9 is not on its list.
    positive = torch.tensor([0, 4, 3, 9])
    assert rank_among(score, corpus, listed, positive).tolist() == [NEVER_RANKED, 1, NEVER_RANKED, NEVER_RANKED]


def test_known_items_lose_their_score_the_rows_own_positive_never() -> None:
    corpus = torch.tensor([2, 4, 6, 8])
    score = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 2)
    row, known = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 6, 3, 8])
    assert rank_in_corpus(score, corpus, row, known, torch.tensor([6, 5])).tolist() == [2, NEVER_RANKED]


def test_a_place_in_a_corpus_is_minus_one_for_what_it_lacks() -> None:
    corpus = torch.tensor([2, 4, 6])
    assert place_in(corpus, torch.tensor([[-1, 0, 2], [5, 6, 99]])).tolist() == [[-1, -1, 0], [-1, 2, -1]]
    assert place_in(corpus[:0], torch.tensor([2, -1])).tolist() == [-1, -1]


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        evaluated(dataset_of(list(CANDIDATES)), {**SCORE, 5: float("nan")})
