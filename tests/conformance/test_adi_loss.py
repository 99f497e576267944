"""ADI eq. 1-5 as scalar loops in float64, and where the sampled gradient goes as draws grow."""

from math import exp, log

import pytest
import torch
from torch import Tensor

from isthmus.index.exact import ExactIndex
from isthmus.losses import sampled_softmax_loss

NUM_ITEMS = 6


def scalar_case(seed: int) -> tuple[list[list[float]], list[int], list[float]]:
    """f(v | u, d) for four users, the item each took, and Q over the corpus."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(4, NUM_ITEMS, generator=generator, dtype=torch.float64).mul(2).tolist()
    taken = torch.randint(NUM_ITEMS, (4,), generator=generator).tolist()
    popularity = torch.rand(NUM_ITEMS, generator=generator, dtype=torch.float64).pow(3) + 1e-3
    return f, taken, (popularity / popularity.sum()).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_equation_1_retrieves_the_k_items_of_largest_inner_product(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    corpus = torch.randn(NUM_ITEMS, 3, generator=generator, dtype=torch.float64)
    found = ExactIndex(corpus, torch.arange(NUM_ITEMS)).search(users, 4)
    for u in range(4):
        f_u = []
        for v in range(NUM_ITEMS):
            f_u.append(sum(float(users[u, i]) * float(corpus[v, i]) for i in range(3)))
        s_u = sorted(range(NUM_ITEMS), key=f_u.__getitem__, reverse=True)[:4]
        assert found.item_row[u].tolist() == s_u
        assert found.score[u].tolist() == pytest.approx([f_u[v] for v in s_u], abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_equations_2_and_3_are_the_loss_with_all_items_and_no_weights(seed: int) -> None:
    f, taken, _ = scalar_case(seed)
    expected = 0.0
    for u, v in enumerate(taken):
        denominator = 0.0
        for v_prime in range(NUM_ITEMS):
            denominator += exp(f[u][v_prime])
        expected += -log(exp(f[u][v]) / denominator)
    positive = torch.tensor(taken)
    loss = sampled_softmax_loss(
        torch.tensor(f, dtype=torch.float64),
        positive,
        torch.zeros(NUM_ITEMS, dtype=torch.float64),
        torch.zeros(4, dtype=torch.float64),
        torch.nn.functional.one_hot(positive, NUM_ITEMS) > 0,
        temperature=1.0,
    )
    assert loss.sum().item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_equations_4_and_5_with_repeated_draws_and_accidental_hits(seed: int, temperature: float) -> None:
    f, taken, q = scalar_case(seed)
    draws = [0, 2, 2, 5, 1, 2, 0]  # item 2 three times, items 3 and 4 never
    liked = {0: {taken[0], 2}, 1: {taken[1]}, 2: {taken[2], 0, 5}, 3: {taken[3]}}

    def f_tilde(u: int, v: int) -> float:
        return f[u][v] / temperature - log(q[v])

    expected = []
    for u, v in enumerate(taken):
        total = exp(f_tilde(u, v))
        for v_prime in draws:
            if v_prime not in liked[u]:
                total += exp(f_tilde(u, v_prime))
        expected.append(-f_tilde(u, v) + log(total))

    log_q = torch.tensor(q, dtype=torch.float64).log()
    times_drawn = torch.bincount(torch.tensor(draws), minlength=NUM_ITEMS).double()
    known = torch.zeros(4, NUM_ITEMS, dtype=torch.bool)
    for u, items in liked.items():
        known[u, list(items)] = True
    positive = torch.tensor(taken)
    loss = sampled_softmax_loss(
        torch.tensor(f, dtype=torch.float64),
        positive,
        times_drawn.log() - log_q,
        -log_q[positive],
        known,
        temperature=temperature,
    )
    assert loss.tolist() == pytest.approx(expected, abs=1e-10)


def gradient(score: Tensor, log_weight: Tensor, positive_log_weight: float, temperature: float) -> Tensor:
    """Gradient of one row whose positive is item 0."""
    leaf = score.clone().requires_grad_()
    known = torch.zeros(1, score.shape[1], dtype=torch.bool)
    known[0, 0] = True
    weight = torch.tensor([positive_log_weight], dtype=torch.float64)
    loss = sampled_softmax_loss(leaf, torch.tensor([0]), log_weight, weight, known, temperature=temperature)
    return torch.autograd.grad(loss.sum(), leaf)[0][0]


def sampled_gradient_error(num_draws: int, popularity: Tensor, temperature: float) -> float:
    """Distance of the sampled gradient from the full softmax's, averaged over 20 samples."""
    generator = torch.Generator().manual_seed(7)
    score = torch.randn(1, popularity.numel(), generator=generator, dtype=torch.float64)
    q = popularity / popularity.sum()
    full = gradient(score, torch.zeros_like(q), 0.0, temperature)
    errors = []
    for _ in range(20):
        drawn = torch.multinomial(q, num_draws, replacement=True, generator=generator)
        times_drawn = torch.bincount(drawn, minlength=q.numel()).double()
        errors.append((gradient(score, times_drawn.log() - q.log(), log(num_draws), temperature) - full).norm())
    return float(torch.stack(errors).mean() / full.norm())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_sampled_gradient_tends_to_the_full_softmax_as_draws_grow(temperature: float) -> None:
    popularity = torch.arange(1, 21, dtype=torch.float64) ** -1.5
    few, more, many = (sampled_gradient_error(n, popularity, temperature) for n in (100, 10_000, 1_000_000))
    # the error of a mean falls as the root of the draws: a hundredfold draws, a tenth of it
    assert more < few / 5
    assert many < more / 5
    assert many < 5e-3


def test_probabilities_below_a_millionth_keep_their_correction() -> None:
    # two items carry all but 2e-7 of Q; the two of the tail are drawn about once in 1e7 draws, and weigh as much then
    popularity = torch.tensor([1.0, 1.0, 2e-7, 2e-7], dtype=torch.float64)
    log_q = (popularity / popularity.sum()).log()
    score = torch.tensor([[0.1, 0.5, 0.3, -0.2]], dtype=torch.float64)
    num_draws = 10**9
    # the expected sample itself, so that only the correction is judged
    log_times_drawn = log_q + log(num_draws)
    sampled = gradient(score, log_times_drawn - log_q, log(num_draws), 0.5)
    full = gradient(score, torch.zeros(4, dtype=torch.float64), 0.0, 0.5)
    torch.testing.assert_close(sampled, full, rtol=1e-9, atol=0)


def test_the_letter_of_equation_4_loses_the_positive_as_draws_grow() -> None:
    # its own draws are masked and its single count weighs 1 / Q against the others' n: its probability tends to 0, so
    # its gradient to -1, where the full softmax over scores (0, 0, 0, 0) has 1/4 - 1 = -3/4
    q = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    num_draws = 10**9
    log_weight = torch.full((4,), log(num_draws), dtype=torch.float64)
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    assert gradient(zeros, log_weight, -log(q[0]), 1.0)[0].item() == pytest.approx(-1.0, abs=1e-8)
    assert gradient(zeros, log_weight, log(num_draws), 1.0)[0].item() == pytest.approx(-0.75, abs=1e-12)
