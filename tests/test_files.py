from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.files import markdown_table, new_file, read_yaml, write_text


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    with new_file(file) as partial:
        partial.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert [entry.name for entry in file.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")

    def write_half() -> None:
        with new_file(file) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_in_the_files_place_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=r"taken: is a folder; give the path of a file"), new_file(tmp_path / "taken"):
        pytest.fail("the block must not begin")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: {c: 2, c: 3}\n", r"line 2: key 'c' stands twice"),
        (b"[{a: 1, a: 2}]", r"line 1: key 'a' stands twice"),
        (b"- 1\n", r"holds no keys; make one"),
        (b"", r"holds no keys; make one"),
        (b"a: [1", r"not YAML"),
        (b"a: \xff\n", r"not UTF-8 text \(byte 3\)"),
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_named_with_its_fault(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"some\.yaml: .*{message}"):
        read_yaml(file, remedy="make one")


def test_a_missing_yaml_file_comes_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file; make one"):
        read_yaml(tmp_path / "none.yaml", remedy="make one")
    with pytest.raises(InputError, match=r"is a folder; give the path of a YAML file"):
        read_yaml(tmp_path, remedy="make one")


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
