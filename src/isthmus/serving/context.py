"""What a request says of its context, checked once and the same way for every path, and what may come of it."""

from collections.abc import Mapping, Sequence

from isthmus.errors import InputError, did_you_mean
from isthmus.serving.view import ContextValue, View


def require_context(context: Mapping[str, ContextValue], names: Sequence[str], views: Sequence[View]) -> None:
    """Check all of a request's context for every model of a bundle, before any path is taken.

    Args:
        names: the fields that a request may give.

    Raises:
        InputError: a field is unknown, or a value is not what its field is.
    """
    for name in context:
        if name not in names:
            known = ", ".join(names) or "none"
            hint = did_you_mean(name, names) or f"; known are {known}"
            raise InputError(f"context.{name}: unknown context field{hint}")
    for view in views:
        view.require(context)


def require_finite(is_finite: bool, context: Mapping[str, ContextValue]) -> None:
    """Refuse to answer what is no number: of a context far from training's a network may make one that overflows.

    Raises:
        InputError: the context has numbers, which then are to blame.
        ArithmeticError: it has none.
    """
    if is_finite:
        return
    numbers = [f"context.{name}" for name, value in context.items() if isinstance(value, int | float)]
    if numbers:
        raise InputError(
            f"{', '.join(numbers)}: so far from the numbers of training that a model's score is none; give smaller ones"
        )
    raise ArithmeticError("a model's score is not finite")
