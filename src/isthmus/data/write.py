"""Writing a folder whole or not at all: into a temporary sibling, synced, then renamed into place."""

import errno
import json
import os
import shutil
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


@contextmanager
def new_folder(out: Path, *, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well; else `out` stays as it was.

    Args:
        may_replace: whether an existing folder that is not empty may be replaced.

    Raises:
        InputError: `out` may not be replaced, or the disk is full.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or may_replace(out))):
        raise InputError(f"{out}: exists and is not an output of this command; give another path or move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        _sync(temporary)
        if out.exists():
            # Two renames: a reader finds the old folder or the new one, or for a moment none, never a mixture.
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.rename(old / out.name)
            try:
                temporary.rename(out)
            except OSError:
                (old / out.name).rename(out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(out)
        _sync_folder(out.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{out}: no space left on the disk, nothing was changed; free some or give another path"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        (self.folder / "manifest.json").write_text(text + "\n", encoding="utf-8")

    def _new(self, name: str) -> Path:
        assert name not in self.files, name
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


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
