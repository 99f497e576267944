"""What an experiment is measured by: ratios of what users did, as ADI's Table 9 and CDAnet's Table 3 report them."""

from dataclasses import dataclass
from typing import Literal, assert_never

Revenue = Literal["click", "order"]
Event = Literal["impressions", "clicks", "orders"]


@dataclass(frozen=True)
class Metric:
    """Sum of `numerator` by sum of `denominator`, times `factor`; all sums are over users.

    Attributes:
        event: what must have happened to a user for the metric to know more than that it did not.
    """

    name: str
    numerator: str
    denominator: str
    factor: int
    event: Event
    meaning: str


CTR = Metric("ctr", "clicks", "impressions", 1, "clicks", "clicks by impressions")
ORDERS = Metric("orders_per_mille", "orders", "impressions", 1000, "orders", "orders per thousand impressions")
PPC = Metric("ppc", "revenue", "clicks", 1, "clicks", "pay per click, revenue by clicks")
ORDER_VALUE = Metric("order_value", "revenue", "orders", 1, "orders", "revenue by orders")
ORDERS_PER_USER = Metric("orders_per_user", "orders", "users", 1, "orders", "orders by users")
REVENUE_PER_USER = Metric("revenue_per_user", "revenue", "users", 1, "orders", "revenue by users")
SHOWN = Metric("impressions_per_user", "impressions", "users", 1, "impressions", "impressions by users")


def rpm(event: Event) -> Metric:
    """Revenue per mille; of clicks it is 1000 * CTR * PPC, as in ADI's Table 9."""
    return Metric("rpm", "revenue", "impressions", 1000, event, "revenue per thousand impressions")


def metrics_of(revenue: Revenue, *, has_prices: bool) -> tuple[Metric, ...]:
    """What is reported where clicks pay (ADI's RPM, PPC, CTR) and where orders do (CDAnet's CTR, deals, GMV).

    Deals and GMV are counts in the paper; variants have different shares of the users, so both are by user here.
    """
    match revenue:
        case "click":
            return (CTR, ORDERS, *((rpm("clicks"), PPC) if has_prices else ()), SHOWN)
        case "order":
            priced = (rpm("orders"), ORDER_VALUE, REVENUE_PER_USER) if has_prices else ()
            return (CTR, ORDERS, ORDERS_PER_USER, *priced, SHOWN)
        case other:
            assert_never(other)
