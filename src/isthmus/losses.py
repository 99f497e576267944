"""Training losses: softmax over sampled items, corrected for how they were sampled; and those of click models."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def sampled_softmax_loss(
    score: Float[Tensor, "batch item"],
    positive: Int[Tensor, " batch"],
    log_weight: Float[Tensor, " item"],
    positive_log_weight: Float[Tensor, " batch"],
    known: Bool[Tensor, "batch item"],
    *,
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Softmax cross-entropy of each row's positive against the drawn items that the row's user is not known to like.

    The columns are distinct items. A column's logit is score / temperature + weight, in that order and unclipped. The
    positive stands in the denominator once, by its own weight, whether or not it was drawn; a row without any
    negative has loss 0 and gradient 0. Gradients flow to `score` alone.

    Args:
        positive: column of each row's positive.
        log_weight: log of how often the item was drawn, less log Q(item), Q being the domain's sampling probability;
            minus infinity where the item was not drawn and has a column only as some row's positive. Repeated draws
            in one column are the repeated terms of eq. 5.
        positive_log_weight: of the positive. -log Q(positive) is eq. 4 to the letter. The log of the number of draws
            is what n draws give any item in expectation, and with it the gradient tends to the full softmax's as
            draws grow; by the letter it does not, because the positive's own draws are masked and it is counted once
            while all others are counted n times.
        known: the user's known positives, the row's own among them; they are never negatives of the row.
        temperature: divides the score before the correction; above 0.

    Returns:
        Each row's loss, in nats; the loop averages, over rows or by domain. The full softmax is all weights 0.

    Raises:
        ValueError: temperature is not above 0.

    Source: ADI eq. 2-5; logQ correction, Yi et al. 2019; the positive in the denominator, Khrylchenko et al. 2025.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    arguments = (score, positive, log_weight, positive_log_weight, known, temperature)
    loss: Tensor = _SampledSoftmax.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """One matrix kept for the backward pass: autograd's own chain takes 2.5 times as long and three more matrices."""

    @staticmethod
    def forward(
        ctx: Any,
        score: Tensor,
        positive: Tensor,
        log_weight: Tensor,
        positive_log_weight: Tensor,
        known: Tensor,
        temperature: float,
    ) -> Tensor:
        column = positive[:, None]
        logit = torch.add(log_weight, score, alpha=1 / temperature).masked_fill_(known, -torch.inf)
        positive_logit = score.gather(1, column).to(logit.dtype) / temperature + positive_log_weight[:, None]
        logit.scatter_(1, column, positive_logit)
        largest = logit.amax(dim=1, keepdim=True)
        probability = logit.sub_(largest).exp_()
        total = probability.sum(dim=1, keepdim=True)
        ctx.save_for_backward(probability.div_(total), column)
        ctx.temperature = temperature
        ctx.score_dtype = score.dtype
        return (largest + total.log() - positive_logit)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        probability, column = ctx.saved_tensors
        scale = gradient[:, None] / ctx.temperature
        score_gradient = (probability * scale).scatter_add_(1, column, -scale)
        return score_gradient.to(ctx.score_dtype), None, None, None, None, None


def click_loss(logit: Float[Tensor, " batch"], label: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Cross-entropy of each row, in nats: that of a coin whose probability is the sigmoid of the logit.

    Source: CDAnet eq. 6; the loop takes the mean over rows, or over each domain's rows.
    """
    return functional.binary_cross_entropy_with_logits(logit, label, reduction="none")


def translation_loss(
    logit: Float[Tensor, " batch"],
    cross_logit: Float[Tensor, "batch other"],
    cycle_error: Float[Tensor, "batch other"],
    label: Float[Tensor, " batch"],
    *,
    alpha: float,
    beta: float,
) -> Float[Tensor, " batch"]:
    """Each row's part of CDAnet's first objective.

    With two domains and the mean over each domain's rows it is eq. 7 to the letter, the orthogonality of eq. 5 read as
    a mean over rows. With more domains, what a row has with each other domain counts by its mean.

    Args:
        cross_logit: of the row in each other domain's space; none where nothing is translated.
        cycle_error: squared distance of the row from where its way there and back leads.
        alpha, beta: weights of the cross-supervision and of the orthogonality.

    Source: CDAnet eq. 3-7.
    """
    loss = click_loss(logit, label)
    num_others = cross_logit.shape[1]
    if num_others and alpha:
        cross = functional.binary_cross_entropy_with_logits(
            cross_logit, label[:, None].expand_as(cross_logit), reduction="none"
        )
        loss = loss + alpha * cross.mean(dim=1)
    if num_others and beta:
        loss = loss + beta * cycle_error.mean(dim=1)
    return loss


def augmentation_loss(
    logit: Float[Tensor, " batch"],
    cycle_error: Float[Tensor, "batch other"],
    label: Float[Tensor, " batch"],
    *,
    beta: float,
) -> Float[Tensor, " batch"]:
    """Each target row's part of CDAnet's second objective: cross-entropy, and the target's half of eq. 5.

    Source: CDAnet eq. 9, and the sentence below it.
    """
    loss = click_loss(logit, label)
    return loss + beta * cycle_error.mean(dim=1) if cycle_error.shape[1] and beta else loss
