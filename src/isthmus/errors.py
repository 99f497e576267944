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
CHECKED = re.compile(r"function-.*\W(\w+)\]")


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


def joined_names(names: Iterable[str]) -> str:
    """Names joined by commas, one that holds a comma itself in quotes."""
    return ", ".join(repr(name) if "," in name else name for name in names)


def explain(error: ValidationError, file: Path, model: type[BaseModel]) -> str:
    """What is wrong with a settings file, in one line: the file, and of each mistake key, value and what is allowed.

    Args:
        model: the model that refused the file's content; its fields are what unknown keys are compared with.
    """
    every = _mistakes(error, model)
    # A value that may have one of several forms is told what is wrong with the form that it has.
    formed = [details["loc"] for details in every if not details["type"].endswith("_type")]
    told = []
    for details in every:
        within = [place for place in formed if place[: len(details["loc"])] == details["loc"]]
        is_of_another_form = within if details["type"].endswith("_type") else set(within) - {details["loc"]}
        if not is_of_another_form:
            told.append(details)
    mistakes = [_explain_one(details, model) for details in told]
    if len(mistakes) > MOST_SHOWN:
        mistakes = [*mistakes[:MOST_SHOWN], f"and {len(mistakes) - MOST_SHOWN} more mistakes"]
    return f"{file}: {'; '.join(mistakes)}"


def mistaken_keys(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """The keys that a settings file got wrong, as `explain` names them."""
    return [".".join(_followed(details["loc"], model)[0]) for details in _mistakes(error, model)]


def _mistakes(error: ValidationError, model: type[BaseModel]) -> list[dict[str, Any]]:
    """What Pydantic found, at places as a file has them, without the names that it gives to the forms of a value."""
    names = _class_names(model)
    every = [{**details, "loc": _with_classes(details["loc"], names)} for details in error.errors(include_url=False)]
    return _of_the_form_meant(every, names)


def _with_classes(location: tuple[int | str, ...], names: set[str]) -> tuple[int | str, ...]:
    """The place with no names of forms but those of classes, a class with a check of its own by its plain name."""
    parts = []
    for part in location:
        checked = CHECKED.fullmatch(part) if isinstance(part, str) else None
        if checked is not None and checked[1] in names:
            parts.append(checked[1])
        elif not (isinstance(part, str) and FORM.match(part)):
            parts.append(part)
    return tuple(parts)


def _of_the_form_meant(mistakes: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """The mistakes, of a value that may be of several classes only those of the class whose keys it has."""
    misfits: dict[tuple[int | str, ...], dict[str, int]] = {}
    for details in mistakes:
        for place, part in enumerate(details["loc"]):
            if part in names:
                counts = misfits.setdefault(details["loc"][:place], {})
                is_misfit = details["type"] in ("missing", "extra_forbidden")
                counts[part] = counts.get(part, 0) + is_misfit
    kept = []
    for details in mistakes:
        location = details["loc"]
        chosen = {place: min(counts, key=lambda name: counts[name]) for place, counts in misfits.items()}
        if all(part not in names or part == chosen[location[:place]] for place, part in enumerate(location)):
            kept.append({**details, "loc": tuple(part for part in location if part not in names)})
    return kept


def _class_names(model: type[BaseModel]) -> set[str]:
    """The names of the classes within a model."""
    inner = [found for field in model.model_fields.values() for found in _models_in(field.annotation)]
    return {found.__name__ for found in inner}.union(*map(_class_names, inner))


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
        case "tuple_type" | "list_type":
            return f"{key}: {_short(details['input'])}: a list is wanted, such as [a, b]"
        case "too_short":
            least = details["ctx"]["min_length"]
            return f"{key}: {_short(details['input'])}: give at least {'one' if least == 1 else least}"
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
