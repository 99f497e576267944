"""Writing a folder whole or not at all: into a temporary sibling, synced, then put in its place.

What may lose its place to it is decided here, for every verb that writes a folder.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.data.dataset import Lists, file_checksum
from isthmus.errors import InputError

MANIFEST = "manifest.json"
AT_WORKING_FOLDER, CHANGE_PLACES = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
CANNOT_CHANGE_PLACES = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)

Written = Callable[[Path], frozenset[str]]
"""The files that the same command has written to a folder, by what lies there; none where something else does."""


@contextmanager
def new_folder(out: Path, *, written: Written) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well; else `out` stays as it was.

    Args:
        written: an existing folder is replaced only if every file in it is one of these.

    Raises:
        InputError: `out` may not be replaced, or the disk is full.
    """
    out = out.absolute()
    _require_replaceable(out, written)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        _sync(temporary)
        _require_replaceable(out, written)  # minutes may have passed
        if not out.exists():
            temporary.rename(out)
        elif not change_places(temporary, out):
            _rename_twice(temporary, out)
        _sync_folder(out.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{out}: no space left on the disk, nothing was changed; free some or give another path"
            ) from error
        raise
    finally:
        if temporary.is_symlink():  # the link that stood at `out`
            temporary.unlink()
        shutil.rmtree(temporary, ignore_errors=True)


def files_by_manifest(folder: Path, is_ours: Callable[[dict[str, Any]], bool]) -> frozenset[str]:
    """The files that a folder's manifest names, and itself; none where there is no manifest that `is_ours` takes."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict) or not is_ours(content):
        return frozenset()
    return frozenset({MANIFEST, *content["files"]})


def change_places(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that neither is ever missing; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = (AT_WORKING_FOLDER, os.fsencode(one), AT_WORKING_FOLDER, os.fsencode(other))
    if renameat2(*paths, CHANGE_PLACES) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT_CHANGE_PLACES:
        return False
    raise OSError(number, os.strerror(number), str(other))


class DatasetFiles:
    """Writes a dataset's files into a folder and remembers their checksums for the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    def array(self, name: str, values: np.ndarray) -> None:
        """Write `name`.npy."""
        file, values = self._new(f"{name}.npy"), np.ascontiguousarray(values)
        with file.open("wb") as stream:  # np.save says of a full disk only how many numbers it wrote
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
            stream.write(values.data)
        self.files[f"{name}.npy"] = {"sha256": file_checksum(file), "shape": list(values.shape)}

    def column(self, name: str, values: np.ndarray | Lists) -> None:
        """Write a column of single values, or of lists as two arrays."""
        if isinstance(values, Lists):
            self.array(f"{name}.values", values.values)
            self.array(f"{name}.offsets", values.offsets)
        else:
            self.array(name, values)

    def vocabulary(self, name: str, values: pa.Array) -> None:
        """Write the text of rows 1, 2, ... of a vocabulary."""
        file = self._new(f"vocabularies/{name}.parquet")
        pq.write_table(pa.table({"value": values.cast(pa.string())}), file)
        self.files[f"vocabularies/{name}.parquet"] = {"sha256": file_checksum(file)}

    def manifest(self, content: dict[str, Any]) -> None:
        """Write manifest.json, last."""
        text = json.dumps({**content, "files": self.files}, indent=1, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def _new(self, name: str) -> Path:
        assert name not in self.files, name
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


def _require_replaceable(out: Path, written: Written) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: exists and is no folder; give another path or move it away")
    present = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_symlink() or not file.is_dir()}
    if not present:
        return
    ours = written(out)
    if not ours:
        raise InputError(f"{out}: exists and is not an output of this command; give another path or move it away")
    if others := sorted(present - ours):
        more = f", nor {len(others) - 1} more there" if len(others) > 1 else ""
        raise InputError(
            f"{out}: {others[0]!r} in it was not written by this command{more}; give another path or move it away"
        )


def _rename_twice(temporary: Path, out: Path) -> None:
    """Replace a folder by renaming it and then the other: a process killed in between leaves the old one beside `out`,
    whole, as .NAME.old.*/NAME.
    """
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.rename(old / out.name)
    try:
        temporary.rename(out)
    finally:
        if not out.exists():
            (old / out.name).rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(file)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
