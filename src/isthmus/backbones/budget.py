"""Widths that give several backbones the same number of parameters, so that methods are compared and not sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DCNSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
    build_backbone,
)
from isthmus.layers.shapes import only_shapes

BISECTIONS = 30


@dataclass(frozen=True)
class Budgeted:
    """Settings whose widths were fitted to a budget.

    Attributes:
        num_parameters: trainable numbers of the backbone they build.
    """

    settings: AnyBackboneSettings
    num_parameters: int


def count_parameters(settings: AnyBackboneSettings, *, num_domains: int, in_dim: int, out_dim: int) -> int:
    """Trainable numbers of a backbone, without giving them memory."""
    with only_shapes():
        backbone = build_backbone(settings, num_domains=num_domains, in_dim=in_dim, out_dim=out_dim)
    return sum(parameter.numel() for parameter in backbone.parameters())


def scale_widths(settings: AnyBackboneSettings, factor: float) -> AnyBackboneSettings:
    """The settings with every hidden width times `factor`, rounded, at least 1."""

    def scaled(dims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(dim * factor)) for dim in dims)

    hidden_dims = scaled(settings.hidden_dims)
    match settings:
        case DNNSettings() | DCNSettings() | IndependentSettings() | CrossStitchSettings() | StarSettings():
            return settings.model_copy(update={"hidden_dims": hidden_dims})
        case SharedBottomSettings() | MMoESettings() | PLESettings() | ADISettings():
            forward_dims = scaled(settings.forward_dims)
            return settings.model_copy(update={"hidden_dims": hidden_dims, "forward_dims": forward_dims})
        case other:
            assert_never(other)


def parameter_budget(
    methods: Mapping[str, AnyBackboneSettings],
    *,
    num_domains: int,
    in_dim: int,
    out_dim: int,
    target: int,
    tolerance: float = 0.02,
) -> dict[str, Budgeted]:
    """Each method with all its hidden widths scaled by one factor: the largest that stays within the budget.

    Args:
        target: number of trainable numbers that no backbone may exceed.
        tolerance: by how much of the target a backbone may fall short.

    Raises:
        ValueError: a method cannot come as close (its widths are whole numbers), or exceeds the target at width 1.
    """
    budgeted = {}
    for name, settings in methods.items():
        fitted = _fit(settings, num_domains=num_domains, in_dim=in_dim, out_dim=out_dim, target=target)
        if not (1 - tolerance) * target <= fitted.num_parameters <= target:
            raise ValueError(
                f"{name}: {fitted.num_parameters} parameters at hidden_dims {fitted.settings.hidden_dims}; "
                f"no width comes within {tolerance:.1%} below {target}"
            )
        budgeted[name] = fitted
    return budgeted


def _fit(settings: AnyBackboneSettings, *, num_domains: int, in_dim: int, out_dim: int, target: int) -> Budgeted:
    def at(factor: float) -> Budgeted:
        scaled = scale_widths(settings, factor)
        return Budgeted(scaled, count_parameters(scaled, num_domains=num_domains, in_dim=in_dim, out_dim=out_dim))

    low, high = 0.0, 1.0
    while at(high).num_parameters <= target:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).num_parameters <= target else (low, middle)
    return at(low)
