"""What every click model is: from the features of rows sorted by domain to the logits of their labels."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from isthmus.batch import RankingFeatures
from isthmus.domains import DomainSlices


@runtime_checkable
class ClickModel(Protocol):
    """A ranking model; a sigmoid of what it gives is the probability that the row's label is 1."""

    def __call__(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, " batch"]: ...
