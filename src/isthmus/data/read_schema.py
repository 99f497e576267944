"""From a YAML file to a Schema."""

from pathlib import Path

from pydantic import ValidationError

from isthmus.errors import InputError, explain
from isthmus.files import read_yaml
from isthmus.schema import Schema


def read_schema(file: Path) -> Schema:
    """The declaration in a YAML file.

    Raises:
        InputError: there is no such file, it is not YAML, a key stands twice, or it declares what does not fit.
    """
    content = read_yaml(file, remedy="'isthmus init LOG' drafts one from a log")
    try:
        return Schema.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, file, Schema)) from error
