"""A learned vector for each domain: what ADI's gates read."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DomainIndicator(nn.Module):
    """The embedding of the domain indicator, `f_domain` in the ADI paper; starts from a standard normal.

    One parameter a domain rather than one table, so that a step without a domain's rows leaves its vector alone.
    """

    def __init__(self, num_domains: int, dim: int) -> None:
        super().__init__()
        self.own_vectors = nn.ParameterList(nn.Parameter(torch.empty(dim).normal_()) for _ in range(num_domains))

    def forward(self, domain: int) -> Float[Tensor, " indicator"]:
        vector: Tensor = self.own_vectors[domain]
        return vector
