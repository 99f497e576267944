"""Files that are whole or as they were, YAML read with its mistakes named, and Markdown tables."""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from isthmus.errors import InputError

PARTIAL = ".partial"

AnyPath = str | os.PathLike[str]
"""A path as users may give it in Python; what they call makes a `Path` of it."""


def optional_path(path: AnyPath | None) -> Path | None:
    """The path, where one is given."""
    return None if path is None else Path(path)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the file's place when the block ends well.

    A killed process, a full disk or an error leaves what was there before.

    Raises:
        InputError: a folder has that path.
    """
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give the path of a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + PARTIAL)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)  # a full disk does not say what it had no room for
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Make a folder where there is none, and let no other process in that asks in the same way.

    The system lets go of the folder when the process ends, however it ends.

    Args:
        waits: for another one to leave it.

    Raises:
        InputError: another one is in it and this one does not wait, or the path is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder}: is a file; give the path of a folder") from None
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another process trains there; wait for its end, or give another folder"
            ) from None
        yield
    finally:
        os.close(place)


def write_text(file: Path, text: str) -> None:
    """Write a text file as UTF-8; the file is whole or as it was."""
    with new_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


def read_yaml(file: Path, *, remedy: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        remedy: how the user comes by such a file.

    Raises:
        InputError: there is no such file, it is not YAML, a key stands twice, or it holds no mapping.
    """
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give the path of a YAML file")
    if not file.is_file():
        raise InputError(f"{file}: no such file; {remedy}")
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
        raise InputError(f"{file}: holds no keys; {remedy}")
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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """A Markdown table whose columns but the first `num_left` stand to the right."""
    rule = [*["---"] * num_left, *["---:"] * (len(header) - num_left)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def plain(value: Any) -> Any:
    """The value with `null` for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any) -> str:
    """The value as JSON to read, numbers that JSON does not have as `null`."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
