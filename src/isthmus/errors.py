"""What a user can get wrong, and how it is told: the file, the key, the value and the remedy, without a traceback."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

MOST_SHOWN = 8
TAGS = ("kind", "by")  # the settings that say which form the others have
FORM = re.compile(r"(constrained-|function-|nullable$|(dict|list|tuple|literal|union)\[|(float|int|str|bool)$)")


class InputError(ValueError):
    """Something a user can put right: one line that names the file, the key or value, and the remedy.

    The command line shows it without a traceback and ends with exit code 2.
    """


class DivergedError(InputError):
    """Training left the numbers that can be computed with."""

    def __init__(self) -> None:
        super().__init__(
            "training diverged: a loss or a score is not a finite number; lower training.learning_rate and "
            "training.network_learning_rate, and look for fields with very large values"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or an empty text."""
    nearest = get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def explain(error: ValidationError, file: Path, model: type[BaseModel]) -> str:
    """What is wrong with a settings file, one line a mistake: file, key, value and what is allowed.

    Args:
        model: the model that refused the file's content; its fields are what unknown keys are compared with.
    """
    every: list[dict[str, Any]] = [
        {**details, "loc": _as_written(details["loc"])} for details in error.errors(include_url=False)
    ]
    # A value that may have one of several forms is told what is wrong with the form that it has.
    formed = [details["loc"] for details in every if not details["type"].endswith("_type")]
    told = [
        details
        for details in every
        if not details["type"].endswith("_type")
        or not any(place[: len(details["loc"])] == details["loc"] for place in formed)
    ]
    lines = [f"{file}: {_explain_one(details, model)}" for details in told]
    if len(lines) > MOST_SHOWN:
        lines = [*lines[:MOST_SHOWN], f"{file}: and {len(lines) - MOST_SHOWN} more mistakes"]
    return "\n".join(lines)


def mistaken_keys(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """The keys that a settings file got wrong, as `explain` names them."""
    places = (details["loc"] for details in error.errors(include_url=False))
    return [".".join(_followed(_as_written(place), model)[0]) for place in places]


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The place as a file has it, without the names that Pydantic gives to the forms of a value."""
    return tuple(part for part in location if not (isinstance(part, str) and FORM.match(part)))


def _explain_one(details: dict[str, Any], model: type[BaseModel]) -> str:
    location: tuple[int | str, ...] = details["loc"]
    key = ".".join(_followed(location, model)[0]) or "(whole file)"
    match details["type"]:
        case "extra_forbidden":
            known = _known_keys(location[:-1], model)
            hint = did_you_mean(str(location[-1]), known) or f"; known are {', '.join(known)}"
            return f"{key}: unknown setting{hint}"
        case "union_tag_invalid":
            tag, choices = details["ctx"]["tag"], details["ctx"]["expected_tags"]
            return f"{key}.{details['ctx']['discriminator'][1:-1]}: {_none_of(tag, choices)}"
        case "union_tag_not_found":
            return f"{key}.{details['ctx']['discriminator'][1:-1]}: missing, and it has no default"
        case "literal_error":
            return f"{key}: {_none_of(details['input'], details['ctx']['expected'])}"
        case "model_attributes_type" | "model_type" | "dict_type":
            form = " {kind: ...}" if details["type"] == "model_attributes_type" else " {key: value}"
            return f"{key}: {_short(details['input'])}: a mapping is wanted, such as{form}"
        case "missing":
            return f"{key}: missing, and it has no default"
        case "value_error":
            message = str(details["ctx"]["error"])
            return message if not location else f"{key}: {message}"
        case "string_type":
            value = details["input"]
            return f"{key}: {value!r} is {type(value).__name__}, a text is wanted; put it in quotes"
        case _:
            return f"{key}: {_short(details['input'])}: {details['msg'][0].lower()}{details['msg'][1:]}"


def _none_of(value: object, choices: str) -> str:
    """That a value is none of the choices, which Pydantic joins by commas and 'or'."""
    names = re.findall(r"'([^']*)'", choices)
    return f"{_short(value)} is none of {', '.join(map(repr, names))}{did_you_mean(str(value), names)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    return sorted({name for m in _followed(location, model)[1] for name in m.model_fields})


def _followed(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys that lead to a place as the file has them, without the tags of unions, and the models found there."""
    keys: list[str] = []
    models = [model]
    for part in location:
        tagged = [m for m in models if any(part in _choices(m, name) for name in TAGS)]
        if tagged and not any(part in m.model_fields for m in models):
            models = tagged
            continue
        # A list's index and a mapping's key lead to the same models.
        keys.append(str(part))
        found = [m.model_fields[part] for m in models if isinstance(part, str) and part in m.model_fields]
        if found:
            models = [inner for field in found for inner in _models_in(field.annotation)]
    return keys, models


def _choices(model: type[BaseModel], name: str) -> tuple[object, ...]:
    """What a field of few values may hold; nothing where the model has no such field."""
    return get_args(model.model_fields[name].annotation) if name in model.model_fields else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
