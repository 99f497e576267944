from pathlib import Path

import pytest
from tests.small_logs import write_log

from isthmus.data.read_schema import read_schema
from isthmus.errors import InputError


def test_reads_a_declaration(tmp_path: Path) -> None:
    schema = read_schema(write_log(tmp_path))
    assert schema.domain_names == ("a", "b")
    assert schema.split.by == "time"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nname: b\n", ("line 2", "'name'", "twice")),
        ("events:\n  user: a\n  user: b\n", ("line 3", "'user'", "twice")),
        ("fields:\n  - {name: a, name: b}\n", ("'name'", "twice")),
        ("name: [\n", ("not YAML", "line")),
        ("", ("no keys", "isthmus init")),
        ("- a\n", ("no keys",)),
    ],
)
def test_what_is_no_declaration_is_told(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "log.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_schema(file)
    for word in (str(file), *words):
        assert word in str(caught.value)


def test_a_missing_file_and_a_file_in_another_encoding_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_schema(tmp_path / "none.yaml")
    (tmp_path / "log.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_schema(tmp_path / "log.yaml")
