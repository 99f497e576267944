"""CDAnet's translator: a linear map from one domain's latent space to another's (CDAnet eq. 3-5)."""

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.layers.products import Linear, linear


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
        away = linear(translated, self.linear.weight.T) - z
        return away.square().sum(dim=1)
