from math import exp, inf, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isthmus.losses import augmentation_loss, click_loss, sampled_softmax_loss, translation_loss


def random_case(seed: int, batch: int = 5, items: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(batch, items, generator=generator, dtype=torch.float64)
    positive = torch.randint(items, (batch,), generator=generator)
    log_weight = torch.randn(items, generator=generator, dtype=torch.float64)
    log_weight[0] = -inf
    positive_log_weight = torch.randn(batch, generator=generator, dtype=torch.float64)
    known = torch.rand(batch, items, generator=generator) < 0.3
    known[torch.arange(batch), positive] = True
    return score, positive, log_weight, positive_log_weight, known


def plain_loss(
    score: Tensor, positive: Tensor, log_weight: Tensor, positive_log_weight: Tensor, known: Tensor, temperature: float
) -> Tensor:
    """The same in the words of the definition, differentiated by autograd."""
    chosen = score.gather(1, positive[:, None])[:, 0] / temperature + positive_log_weight
    negative = (score / temperature + log_weight).masked_fill(known, -inf)
    return torch.cat([chosen[:, None], negative], dim=1).logsumexp(dim=1) - chosen


def test_in_batch_loss_of_identity_towers_is_worked_by_hand() -> None:
    # two users, two items, each user's score is 1 for the own item and 0 for the other; q = (.8, .2), each drawn once:
    # row 0: positive e^1 / .8, negative e^0 / .2, loss log(1 + (1 / .2) / (e / .8)) = log(1 + 4 / e)
    # row 1: positive e^1 / .2, negative e^0 / .8, loss log(1 + (1 / .8) / (e / .2)) = log(1 + 1 / (4 e))
    log_q = torch.tensor([0.8, 0.2]).log()
    positive = torch.tensor([0, 1])
    loss = sampled_softmax_loss(torch.eye(2), positive, -log_q, -log_q, torch.eye(2) > 0, temperature=1.0)
    assert loss.tolist() == pytest.approx([log(1 + 4 / exp(1)), log(1 + 1 / (4 * exp(1)))], rel=1e-5)


def test_temperature_divides_before_the_correction() -> None:
    # scores 1 and .5 at temperature .5 are 2 and 1; q = .1 of both: log(1 + e^(1 + log 10) / e^(2 + log 10))
    weight = torch.tensor([10.0, 10.0]).log()
    known = torch.tensor([[True, False]])
    loss = sampled_softmax_loss(
        torch.tensor([[1.0, 0.5]]), torch.tensor([0]), weight, weight[:1] + log(2), known, temperature=0.5
    )
    assert loss.tolist() == pytest.approx([log(1 + exp(1) / exp(2) / 2)])


def test_an_item_drawn_three_times_counts_three_times_and_an_undrawn_one_not_at_all() -> None:
    # scores 0; positive weight 1 (q = 1 to the letter), column 1 drawn 3 times at q = .5, column 2 not drawn
    log_weight = torch.tensor([-inf, log(3 / 0.5), -inf])
    loss = sampled_softmax_loss(
        torch.zeros(1, 3),
        torch.tensor([0]),
        log_weight,
        torch.zeros(1),
        torch.tensor([[True, False, False]]),
        temperature=1.0,
    )
    assert loss.tolist() == pytest.approx([log(1 + 6)])


def test_known_positives_are_never_negatives() -> None:
    # full softmax over four items; column 1 is the positive, columns 1 and 3 are known: e^2 against e^1 and e^3
    score = torch.tensor([[1.0, 2.0, 3.0, 40.0]], requires_grad=True)
    known = torch.tensor([[False, True, False, True]])
    loss = sampled_softmax_loss(score, torch.tensor([1]), torch.zeros(4), torch.zeros(1), known, temperature=1.0)
    assert loss.tolist() == pytest.approx([log(1 + exp(-1) + exp(1))])
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    total = exp(1) + exp(2) + exp(3)
    assert gradient[0].tolist() == pytest.approx([exp(1) / total, exp(2) / total - 1, exp(3) / total, 0.0])


def test_a_row_without_negatives_has_no_loss_and_no_gradient() -> None:
    score = torch.tensor([[3.0, 5.0], [3.0, 5.0]], requires_grad=True)
    known = torch.tensor([[True, True], [True, False]])
    loss = sampled_softmax_loss(
        score, torch.tensor([0, 0]), torch.tensor([-inf, -inf]), torch.tensor([-1.0, 9.0]), known, temperature=0.1
    )
    assert loss.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_the_plain_formula(seed: int) -> None:
    score, positive, log_weight, positive_log_weight, known = random_case(seed)
    score.requires_grad_()
    upstream = torch.arange(1.0, 6.0, dtype=torch.float64)
    ours = sampled_softmax_loss(score, positive, log_weight, positive_log_weight, known, temperature=0.3)
    plain = plain_loss(score, positive, log_weight, positive_log_weight, known, 0.3)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    our_gradient, plain_gradient = (torch.autograd.grad((loss * upstream).sum(), score)[0] for loss in (ours, plain))
    torch.testing.assert_close(our_gradient, plain_gradient, rtol=1e-12, atol=1e-12)


def test_gradient_passes_a_numerical_check() -> None:
    score, *rest = random_case(9)

    def loss_of(score: Tensor) -> Tensor:
        return sampled_softmax_loss(score, *rest, temperature=0.7)

    assert torch.autograd.gradcheck(loss_of, (score.requires_grad_(),))


def test_far_logits_neither_overflow_nor_vanish() -> None:
    # 1000 and -1000 at temperature .1: 20,000 nats apart in either direction
    score = torch.tensor([[-1000.0, 1000.0], [1000.0, -1000.0]])
    known = torch.tensor([[True, False], [True, False]])
    loss = sampled_softmax_loss(score, torch.tensor([0, 0]), torch.zeros(2), torch.zeros(2), known, temperature=0.1)
    assert loss.tolist() == pytest.approx([20000.0, 0.0])


def test_half_precision_scores_keep_full_precision_weights() -> None:
    score = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([0.0, log(1.001)])
    known = torch.tensor([[True, False]])
    loss = sampled_softmax_loss(score, torch.tensor([0]), weight, torch.zeros(1), known, temperature=1.0)
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([log(1 + exp(-0.5) * 1.001)], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert gradient.dtype == torch.bfloat16


@given(constant=st.floats(-50, 50), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_constant_added_to_every_log_q_changes_nothing(constant: float, seed: int) -> None:
    score, positive, log_weight, positive_log_weight, known = random_case(seed)
    before = sampled_softmax_loss(score, positive, log_weight, positive_log_weight, known, temperature=0.5)
    after = sampled_softmax_loss(
        score, positive, log_weight - constant, positive_log_weight - constant, known, temperature=0.5
    )
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000), order=st.permutations(range(7)))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_columns_changes_nothing(seed: int, order: list[int]) -> None:
    score, positive, log_weight, positive_log_weight, known = random_case(seed)
    before = sampled_softmax_loss(score, positive, log_weight, positive_log_weight, known, temperature=0.5)
    columns = torch.tensor(order)
    after = sampled_softmax_loss(
        score[:, columns],
        columns.argsort()[positive],
        log_weight[columns],
        positive_log_weight,
        known[:, columns],
        temperature=0.5,
    )
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_above_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, got {temperature}"):
        sampled_softmax_loss(*random_case(0), temperature=temperature)


def test_a_clicks_loss_is_worked_by_hand() -> None:
    # logit 0 is a fair coin; logit log 3 is probability 3/4: a click costs log(4/3), none log 4
    loss = click_loss(torch.tensor([0.0, log(3), log(3)]), torch.tensor([1.0, 1.0, 0.0]))
    assert loss.tolist() == pytest.approx([log(2), log(4 / 3), log(4)])


def test_a_clicks_loss_of_a_far_logit_is_the_logit_and_its_gradient_is_bounded() -> None:
    logit = torch.tensor([-1000.0, 1000.0, 1000.0], requires_grad=True)
    loss = click_loss(logit, torch.tensor([1.0, 0.0, 1.0]))
    assert loss.tolist() == [1000.0, 1000.0, 0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), logit)
    assert gradient.tolist() == [-1.0, 1.0, 0.0]


CROSS = torch.tensor([[0.0, log(3)], [log(3), log(3)]])
CYCLE = torch.tensor([[2.0, 4.0], [0.0, 1.0]])


def test_what_a_row_has_with_the_other_domains_counts_by_its_mean() -> None:
    # row 0, a click: own log 2; across (log 2 + log 4/3) / 2; cycles (2 + 4) / 2 = 3
    # row 1, none: own log 4/3 (logit -log 3); across log 4 twice; cycles .5
    logit, label = torch.tensor([0.0, -log(3)]), torch.tensor([1.0, 0.0])
    loss = translation_loss(logit, CROSS, CYCLE, label, alpha=0.5, beta=0.1)
    expected = [log(2) + (log(2) + log(4 / 3)) / 4 + 0.3, log(4 / 3) + 0.5 * log(4) + 0.05]
    assert loss.tolist() == pytest.approx(expected)
    augmented = augmentation_loss(logit, CYCLE, label, beta=0.1)
    assert augmented.tolist() == pytest.approx([log(2) + 0.3, log(4 / 3) + 0.05])


def test_without_other_domains_or_weights_both_objectives_are_the_clicks() -> None:
    logit, label, none = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0]), torch.empty(2, 0)
    plain = click_loss(logit, label)
    assert torch.equal(translation_loss(logit, none, none, label, alpha=0.5, beta=0.1), plain)
    assert torch.equal(translation_loss(logit, CROSS, CYCLE, label, alpha=0.0, beta=0.0), plain)
    assert torch.equal(augmentation_loss(logit, none, label, beta=0.1), plain)
    assert torch.equal(augmentation_loss(logit, CYCLE, label, beta=0.0), plain)


@given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_other_domains_changes_nothing(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logit, label = torch.randn(3, generator=generator), torch.tensor([1.0, 0.0, 1.0])
    cross, cycle = torch.randn(2, 3, 4, generator=generator)
    before = translation_loss(logit, cross, cycle, label, alpha=0.3, beta=0.2)
    after = translation_loss(logit, cross[:, order], cycle[:, order], label, alpha=0.3, beta=0.2)
    torch.testing.assert_close(before, after)
