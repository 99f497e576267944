"""What every backbone is: a network from embedded features to a latent vector, for rows sorted by domain."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from isthmus.domains import DomainSlices


class Backbone(Protocol):
    """A multi-domain network; `out_dim` is the width of the latent vector it gives."""

    out_dim: int

    def __call__(
        self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
    ) -> Float[Tensor, "batch out_dim"]: ...
