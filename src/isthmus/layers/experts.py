"""Mixtures of experts: the gate that weighs them, and the sum."""

from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

GateForm = Literal["softmax", "linear"]


class Gate(nn.Module):
    """Weights of the experts, from one linear layer; they sum to 1, with nothing behind the normalisation.

    Args:
        form: "softmax", or "linear": the outputs divided by their signed sum, as ADI eq. 8 is written. That sum can
            be 0 or below, where the weights blow up or turn their sign; it is not clamped.

    Source: ADI eq. 8; Ma et al. 2018 (MMoE).
    """

    def __init__(self, in_dim: int, num_experts: int, form: GateForm = "softmax") -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, num_experts)
        self.form = form

    def forward(self, x: Float[Tensor, "*rows in_dim"]) -> Float[Tensor, "*rows expert"]:
        logits: Tensor = self.linear(x)
        match self.form:
            case "softmax":
                return logits.softmax(dim=-1)
            case "linear":
                return logits / logits.sum(dim=-1, keepdim=True)
            case other:
                assert_never(other)


def mix_experts(
    experts: Sequence[Float[Tensor, "batch dim"]], weights: Float[Tensor, "batch expert"]
) -> Float[Tensor, "batch dim"]:
    """Each row's weighted sum over its experts, which stay where they lie: stacking them would copy all, and a product
    of one small matrix a row is far slower than these sums. Source: ADI eq. 9.
    """
    mixed: Tensor | None = None
    # In mixed precision the gate's softmax is float32, and would make the sum so.
    for expert, weight in zip(experts, weights.to(experts[0].dtype).unbind(dim=1), strict=True):
        weight = weight.unsqueeze(1)
        mixed = expert * weight if mixed is None else torch.addcmul(mixed, expert, weight)
    assert mixed is not None
    return mixed
