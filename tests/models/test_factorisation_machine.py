import pytest
import torch
from pydantic import ValidationError
from tests.tiny_ranking import random_features, ranking_sizes, slices, take
from torch import Tensor, nn

from isthmus.batch import Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.layers.embedding import FieldEmbedding
from isthmus.models.factorisation_machine import FactorisationMachine, FactorisationMachineSettings

TABLE_ROWS = {"user": 7, "item": 9}


def set_row(side: FieldEmbedding, row: int, vector: list[float]) -> None:
    with torch.no_grad():
        table = side.tables[0]
        assert isinstance(table, nn.Embedding)
        table.weight[row] = torch.tensor(vector)


def set_number(side: FieldEmbedding | None, vector: list[float]) -> None:
    assert side is not None
    assert side.number_vector is not None
    with torch.no_grad():
        side.number_vector.copy_(torch.tensor([vector]))


def test_a_score_is_worked_by_hand() -> None:
    # A user, an item, a number of the row; domain 1 has no number.
    sizes = RankingSizes(
        FeatureSizes(("user",), ("user",), (), 0, ((True,), (True,))),
        FeatureSizes(("item",), ("item",), (), 0, ((True,), (True,))),
        FeatureSizes(("mean",), (), (), 1, ((True,), (False,))),
    )
    settings = FactorisationMachineSettings(embedding_dim=2)
    model = FactorisationMachine(settings, num_domains=2, sizes=sizes, table_rows=TABLE_ROWS)
    vectors, weights = model.embedding, model.first_order.embedding
    set_row(vectors.user, 3, [1.0, 2.0])
    set_row(vectors.item, 4, [3.0, -1.0])
    set_number(vectors.row, [2.0, 0.5])
    set_row(weights.user, 3, [0.5])
    set_row(weights.item, 4, [-1.0])
    set_number(weights.row, [0.25])
    with torch.no_grad():
        model.own_biases[1].fill_(7.0)
    both = torch.tensor([[3], [3]]), torch.tensor([[4], [4]])
    none = torch.empty(2, 0)
    row = Features(torch.empty(2, 0, dtype=torch.int64), (), torch.tensor([[2.0], [2.0]]))
    features = RankingFeatures(Features(both[0], (), none), Features(both[1], (), none), row)
    # The number 2 is (4, 1). Pairs: user and item 3 - 2 = 1, user and number 4 + 2 = 6, item and number 12 - 1 = 11.
    # First order .5 - 1 + .25 * 2 = 0. Domain 0: 18. Domain 1, without the number: 1 - .5, and its bias 7.
    scores: Tensor = model(features, slices([1, 1]))
    assert scores.tolist() == [18.0, 7.5]


def machine(num_domains: int = 3) -> FactorisationMachine:
    torch.manual_seed(0)
    settings = FactorisationMachineSettings(embedding_dim=3, initial_std=0.5)
    sizes = ranking_sizes(num_domains)
    return FactorisationMachine(settings, num_domains=num_domains, sizes=sizes, table_rows=TABLE_ROWS)


def test_first_order_weights_and_biases_start_at_zero_and_learn() -> None:
    model = machine()
    first = dict(model.first_order.named_parameters())
    assert first
    assert all(not parameter.any() for parameter in [*first.values(), *model.own_biases])
    torch.autograd.backward(model(random_features([9, 9, 9]), slices([9, 9, 9])).sum())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.to_dense().abs().max() > 0, name


def test_the_bias_alone_tells_apart_two_domains_of_the_same_fields() -> None:
    model = machine()
    with torch.no_grad():
        model.own_biases[0].fill_(-1.0)
        model.own_biases[1].fill_(2.0)
    rows = take(random_features([4, 0, 0]), [0, 1, 2, 3, 0, 1, 2, 3])
    scores: Tensor = model(rows, slices([4, 4, 0]))
    torch.testing.assert_close(scores[4:] - scores[:4], torch.full((4,), 3.0))


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 1, 0], [2, 0, 3]])
def test_a_batch_may_lack_rows_of_a_domain_or_of_all(counts: list[int]) -> None:
    scores: Tensor = machine()(random_features(counts), slices(counts))
    assert scores.shape == (sum(counts),)
    assert scores.isfinite().all()


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValidationError):
        FactorisationMachineSettings(embedding_dim=0)
    with pytest.raises(ValidationError, match="rank"):
        FactorisationMachineSettings.model_validate({"rank": 4})
