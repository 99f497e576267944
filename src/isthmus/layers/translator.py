"""CDAnet's translator: a linear map from one domain's latent space to another's (CDAnet eq. 3-5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.layers.products import LEAST_WORK_WITH_GRADIENT, Linear, is_for_onednn, linear


class Translator(nn.Module):
    """A d x d matrix W, without bias. It starts orthogonal, where its way there and back is the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.linear.weight)

    def forward(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """W z of each row."""
        translated: Tensor = self.linear(z)
        return translated

    def cycle_error(
        self, z: Float[Tensor, "batch dim"], translated: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, " batch"]:
        """||W^T W z - z||^2 of each row, `translated` being W z (CDAnet eq. 5)."""
        weight = self.linear.weight
        if is_for_onednn(translated, weight, LEAST_WORK_WITH_GRADIENT):
            away = linear(translated, weight.T) - z
        else:  # one product with the difference in it
            away = torch.addmm(z, translated, weight, beta=-1.0)
        return away.square().sum(dim=1)
