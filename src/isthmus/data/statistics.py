"""Numbers that training rows alone determine: item counts, and the mean and spread of number fields."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

SAME = 1e-12
"""Values that differ by no more than this part of the largest are one value, in other roundings."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a number field over its training values; 1 where all values are equal."""

    mean: float
    std: float

    def standardise(self, values: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """Standardised values; a missing one (NaN) becomes 0, the mean."""
        standard = ((values - self.mean) / self.std).astype(np.float32)
        standard[np.isnan(standard)] = 0
        return standard


def measure_spread(values: Float[np.ndarray, " row"], is_training: Bool[np.ndarray, " row"]) -> Spread:
    """The spread over training values that are there; mean 0, deviation 1 where there is none."""
    known = values[is_training & ~np.isnan(values)]
    if not len(known):
        return Spread(0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    # The deviation of equal values is not 0 where their mean is rounded, and what is divided by it is noise.
    if high - low <= SAME * max(abs(low), abs(high)):
        return Spread(low, 1.0)
    return Spread(float(known.mean()), float(known.std()))


def count_items(
    item_row: Int[np.ndarray, " train"], domain: Int[np.ndarray, " train"], *, num_items: int, num_domains: int
) -> Int[np.ndarray, "domain item"]:
    """Training positives of each item in each domain."""
    flat = np.bincount(domain.astype(np.int64) * num_items + item_row, minlength=num_domains * num_items)
    return flat.reshape(num_domains, num_items).astype(np.int64)
