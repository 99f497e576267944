import errno
import resource
from pathlib import Path

import numpy as np
import pytest

from isthmus.data.write import DatasetFiles, new_folder
from isthmus.errors import InputError


def write_half(out: Path) -> None:
    with new_folder(out, may_replace=lambda folder: True) as folder:
        (folder / "half.txt").write_text("half")
        assert not out.exists()
        raise RuntimeError


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write_half(out)
    assert list(tmp_path.iterdir()) == []
    with new_folder(out, may_replace=lambda folder: True) as folder:
        (folder / "whole.txt").write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (out / "whole.txt").read_text() == "whole"


def test_what_stood_there_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    with new_folder(out, may_replace=lambda folder: True) as folder:
        (folder / "new.txt").write_text("new")
        assert (out / "old.txt").read_text() == "old"
    assert [file.name for file in out.iterdir()] == ["new.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "other folder"])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious.txt").write_text("precious")
    with pytest.raises(InputError, match="move it away"), new_folder(out, may_replace=lambda folder: False):
        pass
    assert out.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_manifest_knows_every_file(tmp_path: Path) -> None:
    files = DatasetFiles(tmp_path)
    files.array("a/b", np.arange(3))
    assert files.files["a/b.npy"]["shape"] == [3]
    assert np.load(tmp_path / "a/b.npy").tolist() == [0, 1, 2]
    with pytest.raises(AssertionError):
        files.array("a/b", np.arange(3))


def write_to_a_full_disk(out: Path, num_rows: int) -> None:
    with new_folder(out, may_replace=lambda folder: True) as folder:
        (folder / "column.npy").symlink_to("/dev/full")
        DatasetFiles(folder).array("column", np.arange(num_rows))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that is always full")
@pytest.mark.parametrize("num_rows", [10, 100_000])
def test_a_full_disk_is_said_by_that_name(tmp_path: Path, num_rows: int) -> None:
    with pytest.raises(InputError, match="out: no space left on the disk, nothing was changed"):
        write_to_a_full_disk(tmp_path / "out", num_rows)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_stops_in_the_middle_keeps_the_systems_reason(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            DatasetFiles(tmp_path).array("column", np.arange(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize(
    "values", [np.arange(6.0).reshape(2, 3), np.zeros((0, 3), np.int8), np.array(["a", "bc"]), np.arange(6)[::2]]
)
def test_an_array_is_written_as_numpy_does(tmp_path: Path, values: np.ndarray) -> None:
    DatasetFiles(tmp_path).array("column", values)
    np.save(tmp_path / "numpys", values)
    assert (tmp_path / "column.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()
