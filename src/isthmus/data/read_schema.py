"""From a YAML file to a Schema."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from isthmus.errors import InputError, explain
from isthmus.schema import Schema


def read_schema(file: Path) -> Schema:
    """The declaration in a YAML file.

    Raises:
        InputError: there is no such file, it is not YAML, a key stands twice, or it declares what does not fit.
    """
    content = read_yaml(file)
    try:
        return Schema.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, file, Schema)) from error


def read_yaml(file: Path) -> dict[str, object]:
    """The mapping in a YAML file; raises InputError where it has none, or one with a key that stands twice."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; 'isthmus init LOG' drafts one from a log")
    try:
        text = file.read_text(encoding="utf-8")
        if (node := yaml.compose(text, Loader=yaml.SafeLoader)) is not None:
            _refuse_repeated_keys(node, file)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no keys; 'isthmus init LOG' drafts a file to start from")
    return content


def _refuse_repeated_keys(node: yaml.Node, file: Path) -> None:
    # PyYAML keeps the last of two equal keys and says nothing.
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise InputError(f"{file}: line {key.start_mark.line + 1}: key {key.value!r} stands twice; keep one")
            seen.add(key.value)
            _refuse_repeated_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(value, file)
