import errno
import resource
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from isthmus.data.write import DatasetFiles, new_folder
from isthmus.errors import InputError


def everything(folder: Path) -> frozenset[str]:
    return frozenset(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def nothing(folder: Path) -> frozenset[str]:
    return frozenset()


def write_half(out: Path) -> None:
    with new_folder(out, written=everything) as folder:
        (folder / "half.txt").write_text("half")
        assert not out.exists()
        raise RuntimeError


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write_half(out)
    assert list(tmp_path.iterdir()) == []
    with new_folder(out, written=everything) as folder:
        (folder / "whole.txt").write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (out / "whole.txt").read_text() == "whole"


def test_what_stood_there_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    with new_folder(out, written=everything) as folder:
        (folder / "new.txt").write_text("new")
        assert (out / "old.txt").read_text() == "old"
    assert [file.name for file in out.iterdir()] == ["new.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


KILLED_AT_A_RENAME = """
import os, signal, sys
from pathlib import Path
from isthmus.data import write

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

rename = Path.rename
def rename_once(path, target):
    Path.rename = kill
    return rename(path, target)

Path.rename = rename_once
with write.new_folder(Path(sys.argv[1]), written=lambda folder: frozenset({"old.txt"})) as folder:
    (folder / "new.txt").write_text("new")
"""


def test_a_process_that_is_killed_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    subprocess.run([sys.executable, "-c", KILLED_AT_A_RENAME, str(out)], check=False)
    assert len(list(out.iterdir())) == 1


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_where_folders_cannot_change_places_the_old_one_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool
) -> None:
    """Of a file system without the exchange: while there is no `out`, the old folder lies beside it, whole."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    seen: list[list[str]] = []
    rename = Path.rename

    def watch(path: Path, target: Path) -> Path:
        if not out.exists():
            seen.append([file.read_text() for file in tmp_path.glob(".out.old.*/out/old.txt")])
            if is_interrupted and path.parent == tmp_path:
                raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr("isthmus.data.write.change_places", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", watch)
    end = pytest.raises(KeyboardInterrupt) if is_interrupted else nullcontext()
    with end, new_folder(out, written=everything) as folder:
        (folder / "new.txt").write_text("new")
    assert seen[0] == ["old"]
    assert [file.name for file in out.iterdir()] == (["old.txt"] if is_interrupted else ["new.txt"])
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_link_to_an_earlier_folder_is_replaced_and_its_target_left(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    (elsewhere / "old.txt").write_text("old")
    out.symlink_to(elsewhere)
    with new_folder(out, written=everything) as folder:
        (folder / "new.txt").write_text("new")
    assert (out / "new.txt").read_text() == "new"
    assert (elsewhere / "old.txt").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "out"]


def write_while_another_does(out: Path) -> None:
    with new_folder(out, written=nothing) as folder:
        (folder / "new.txt").write_text("new")
        out.mkdir()
        (out / "precious.txt").write_text("precious")


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="move it away"):
        write_while_another_does(out)
    assert (out / "precious.txt").read_text() == "precious"


@pytest.mark.parametrize("kind", ["file", "other folder"])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious.txt").write_text("precious")
    with pytest.raises(InputError, match="move it away"), new_folder(out, written=nothing):
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
    with new_folder(out, written=everything) as folder:
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
