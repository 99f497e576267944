"""The page of all settings, `docs/settings.md`, from the classes that read them.

python -m tests.settings_page       writes it anew
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from isthmus.files import markdown_table
from isthmus.settings import RankingRunSettings, RunSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# All settings

Every key of a settings file, with its default and what it may be. [usage.md](usage.md) says how such a file is given.
This page is written from the classes that read the settings (`python -m tests.settings_page`); a test holds it so.

A key without a default must be given. `backbone`, `extractor`, `index` and `ranking` take one of several forms, told
apart by `kind`. What a run had, defaults among them, stands in its folder's `settings.yaml`.

Keys that backbones share:

- `hidden_dims`: widths of the hidden layers of each network.
- `forward_dims`: hidden widths of each domain's own network behind them: ADI's forward network, the baselines' tower.
- `num_shared`, `num_specific`, `num_experts`: networks of all domains, of each domain, and MMoE's of all domains.
- `norm`: batch normalisation: `shared` by all domains, of each `domain` (DSBN), STAR's (`partitioned`), or `none`.
- `gate`, of ADI's shared networks: `softmax`, or eq. 8 as it is written (`linear`).
- `fusion`: `concat` (eq. 13), `sum` (eq. 15), `network_mul` (eq. 17).
- `fusion_gate`: one weight a unit, or one in all (`scalar`).
- `indicator_dim`: width of the domain's vector that ADI's gates read.
"""
NOT_EMPTY = "not empty"
BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}", "min_length": NOT_EMPTY}
YAML = {"None": "`null`", "False": "`false`"}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    done: set[type[BaseModel]] = set()
    for root, task in ((RunSettings, "Retrieval"), (RankingRunSettings, "Ranking")):
        parts.append(f"## {task}: the file\n\n{table(root)}\n")
        for key, model in sections(root):
            if model not in done:
                done.add(model)
                parts.append(f"### {title(key, model)}\n\n{meaning(model)}{table(model)}\n")
    return "\n".join(parts)


def sections(model: type[BaseModel], key: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The models within a model, each with the key that leads to it."""
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            place = f"{key}.{name}" if key else name
            yield place, inner
            yield from sections(inner, place)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def title(key: str, model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return f"`{key}`" if kind is None else f"`{key}`, `kind: {get_args(kind.annotation)[0]}`"


def meaning(model: type[BaseModel]) -> str:
    """What the class says of its settings: its first paragraph, and an item a key that it explains."""
    text = inspect.cleandoc(model.__doc__) if model.__doc__ else ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    shown = []
    for line in lines:
        named = [name.strip("`") for name in line.partition(":")[0].split(", ")]
        is_item = bool(set(named) & set(model.model_fields))
        shown.append(f"- {', '.join(f'`{name}`' for name in named)}:{line.partition(':')[2]}" if is_item else line)
    return re.sub(r"\b(None|False)\b", lambda word: YAML[word[0]], "\n".join(shown)) + "\n\n" if text else ""


def table(model: type[BaseModel]) -> str:
    """A line a key; `kind` stands in the title."""
    rows = [
        [f"`{name}`", default(field), allowed(field)] for name, field in model.model_fields.items() if name != "kind"
    ]
    return markdown_table(["key", "default", "what it may be"], rows, num_left=3) if rows else "It has no keys."


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return ""
    if isinstance(field.default, BaseModel):
        return f"`{{kind: {field.default.model_dump()['kind']}}}`"
    return f"`{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"


def allowed(field: FieldInfo) -> str:
    words, own = in_words(field.annotation), bounds(field.metadata)
    return words.replace("a list", "a list, not empty", 1) if own == [NOT_EMPTY] else ", ".join([words, *own])


def in_words(annotation: Any) -> str:
    """A type as a reader of YAML calls it."""
    parts = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return ", ".join([in_words(parts[0]), *bounds(parts[1:])])
        case origin if origin is Literal:
            return ", ".join(f"`{part}`" for part in parts)
        case origin if origin in (Union, UnionType):
            kinds = [m.model_fields["kind"] for m in models_in(annotation) if "kind" in m.model_fields]
            if kinds:
                return "a form of kind " + ", ".join(f"`{get_args(kind.annotation)[0]}`" for kind in kinds)
            return " or ".join(in_words(part) for part in parts if part is not type(None))
        case origin if origin is tuple:
            return f"a list, each item {in_words(parts[0])}"
        case origin if origin is not None:
            return f"a mapping, each value {in_words(parts[1])}"
        case _ if models_in(annotation):
            return "its own keys, below"
        case _:
            return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[annotation]


def bounds(metadata: Any) -> list[str]:
    found = [part for given in metadata for part in getattr(given, "metadata", [given])]
    return [text.format(getattr(part, name)) for part in found for name, text in BOUNDS.items() if hasattr(part, name)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
