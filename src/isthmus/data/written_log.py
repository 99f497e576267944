"""A log that we write ourselves: its folder, which replaces only such a one, and its declaration."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from isthmus.data.read_schema import read_schema
from isthmus.data.write import new_folder
from isthmus.errors import InputError

DECLARATION = "log.yaml"
HEAD = "# Written by Isthmus, which does not replace it once it was changed; SHA-256 of the rest: "


@contextmanager
def new_log_folder(out: Path, name: str) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well.

    It replaces nothing but a log of the same name that we wrote, whose declaration no one has changed since, and no
    folder with a file of anyone else.

    Args:
        name: what the log's declaration calls it.

    Raises:
        InputError: `out` may not be replaced, or the disk is full.
    """
    with new_folder(out, written=lambda folder: _files(folder, name)) as temporary:
        yield temporary


def write_declaration(content: Mapping[str, Any], folder: Path) -> None:
    """Write the log's declaration."""
    text = _as_yaml(content)
    (folder / DECLARATION).write_text(f"{HEAD}{_sum(text)}\n{text}", encoding="utf-8")


def _files(folder: Path, name: str) -> frozenset[str]:
    file = folder / DECLARATION
    try:
        schema = read_schema(file)
    except InputError:
        return frozenset()
    if schema.name != name or not _is_unchanged(file.read_text(encoding="utf-8")):
        return frozenset()
    named = [*schema.events.files, *(one for table in schema.tables.values() for one in table.files)]
    lists = () if schema.candidates is None else schema.candidates.files
    return frozenset({DECLARATION, *named, *lists})


def _is_unchanged(text: str) -> bool:
    """Whether a declaration is as it was written; before it had a head, in the form that no hand writes."""
    head, _, rest = text.partition("\n")
    if head.startswith(HEAD):
        return head == HEAD + _sum(rest)
    content = yaml.safe_load(text)
    return text in (_as_yaml(content), yaml.safe_dump(content, sort_keys=False))


def _as_yaml(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return text


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
