"""The statistics of an experiment: ratios whose unit is the user, their differences, many at once, and shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, expm1, inf, log, sqrt

from scipy.special import chdtrc, stdtr, stdtrit

ROUNDING = 1e-12  # a spread below this share of the squares it is a difference of is rounding, not spread


@dataclass(frozen=True)
class Moments:
    """Sums over the users of a group: of each quantity, and of the products of two.

    Attributes:
        sums: by name, such as `clicks`.
        products: by two names; (a, b) alone where (b, a) would be the same.
    """

    num_users: int
    sums: Mapping[str, float]
    products: Mapping[tuple[str, str], float]

    def product(self, a: str, b: str) -> float:
        return self.products[(a, b) if (a, b) in self.products else (b, a)]


@dataclass(frozen=True)
class Ratio:
    """Sum by sum, with the variance that it has because other users might have come.

    Attributes:
        variance: None with fewer than two users.
    """

    value: float
    variance: float | None
    num_users: int


@dataclass(frozen=True)
class Difference:
    """A variant's ratio by the control's, less 1.

    Attributes:
        low, high: the interval; None where `why_no_interval` says why.
        p_value: two-sided.
    """

    estimate: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    why_no_interval: str = ""


@dataclass(frozen=True)
class SampleRatio:
    """Whether users came in the shares that were declared: Pearson's chi-square test."""

    observed: Mapping[str, int]
    expected: Mapping[str, float]
    statistic: float
    p_value: float


def ratio(moments: Moments, numerator: str, denominator: str) -> Ratio | None:
    """Sum of `numerator` by sum of `denominator`, by the delta method; None where the latter is 0.

    With r = sum(n) / sum(d), the user's part is e = n - r d, and the variance of r is
    m / (m - 1) * sum(e^2) / sum(d)^2 over m users: users are independent, what one user was shown is not.
    """
    total = moments.sums[denominator]
    if total == 0:
        return None
    value, m = moments.sums[numerator] / total, moments.num_users
    if m < 2:
        return Ratio(value, None, m)
    squares, mixed, base = (
        moments.product(*pair)
        for pair in ((numerator, numerator), (numerator, denominator), (denominator, denominator))
    )
    spread = squares - 2 * value * mixed + value**2 * base
    if spread <= ROUNDING * (squares + value**2 * base):
        spread = 0.0
    return Ratio(value, m / (m - 1) * spread / total**2, m)


def relative_difference(variant: Ratio | None, control: Ratio | None, *, level: float = 0.95) -> Difference:
    """How far a variant's ratio is above the control's, as a share of the control's, with its interval.

    By the delta method on the logarithm of the quotient, so that no interval goes below -100 % and swapping the two
    says the same; Student's t with Welch's degrees of freedom, which matters where users are few.
    """
    if control is None or variant is None:
        return Difference(None, why_no_interval=f"nothing to divide by in the {_which(control is None)}")
    if control.value <= 0:
        return Difference(None, why_no_interval="the control's is not above 0")
    estimate = variant.value / control.value - 1
    if variant.value <= 0:
        return Difference(estimate, why_no_interval="the variant's is not above 0")
    if variant.variance is None or control.variance is None:
        return Difference(estimate, why_no_interval=f"a single user in the {_which(control.variance is None)}")
    parts = [(side.variance or 0.0) / side.value**2 for side in (variant, control)]
    variance = sum(parts)
    if variance == 0:
        return Difference(estimate, why_no_interval="users do not differ in it")
    freedom = variance**2 / sum(
        part**2 / (side.num_users - 1) for part, side in zip(parts, (variant, control), strict=True)
    )
    distance = log(variant.value / control.value)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance)
    p_value = min(1.0, 2 * float(stdtr(freedom, -abs(distance) / sqrt(variance))))
    high = expm1(distance + reach) if distance + reach < 700 else inf  # beyond, exp overflows
    return Difference(estimate, exp(distance - reach) - 1, high, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value such that rejecting those below a level errs once or more with at most that probability.

    Source: Holm 1979: the i-th smallest of m, from 0, times m - i, and none below one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, p_values[number] * (len(p_values) - place)))
        adjusted[number] = largest
    return adjusted


def sample_ratio(observed: Mapping[str, int], shares: Mapping[str, float]) -> SampleRatio:
    """Test users by variant against the declared shares, a variant without users counting too.

    Raises:
        ValueError: there are no users, or fewer than two variants.
    """
    total = sum(observed.values())
    if total == 0 or len(shares) < 2:
        raise ValueError(f"{total} users of {len(shares)} variants: nothing to test")
    counts = {name: observed.get(name, 0) for name in shares}
    expected = {name: total * share for name, share in shares.items()}
    statistic = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in shares)
    return SampleRatio(counts, expected, statistic, float(chdtrc(len(shares) - 1, statistic)))


def _which(is_control: bool) -> str:
    return "control" if is_control else "variant"
