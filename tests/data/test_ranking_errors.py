"""What a user can get wrong in a log of labelled rows, on the command line: the place, the value and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.small_logs import declaration, write_log

from isthmus.cli import main
from isthmus.data.dataset import Dataset, DatasetError
from isthmus.data.text import word_vectors

START = 1_700_000_000
NUM_ROWS = 120
AB: dict[str, Any] = {"a": {}, "b": {}}
WORDS = "a1 0.5 0.25\n"


def rows(**changed: str) -> str:
    """Labelled rows of two domains in turn, a second apart; `changed` replaces values of the sixth row."""
    rng = np.random.default_rng(0)
    lines = ["user,item,domain,time,clicked"]
    for number in range(NUM_ROWS):
        domain = "ab"[number % 2]
        row = {
            "user": f"u{rng.integers(12)}",
            "item": f"{domain}{rng.integers(9)}",
            "domain": domain,
            "time": str(START + number),
            "clicked": str(int(rng.random() < 0.4)),
        }
        lines.append(",".join((row | changed if number == 5 else row).values()))
    return "\n".join(lines) + "\n"


def labelled(domain: str, label: int) -> str:
    """The same with one label in all of a domain's rows."""
    lines = rows().splitlines()
    return "\n".join(f"{line[:-1]}{label}" if f",{domain}," in line else line for line in lines) + "\n"


def ranked(**changes: Any) -> dict[str, Any]:
    content = declaration(ranking={"negatives": "explicit"}, **changes)
    content["events"]["positive"] = {"column": "clicked"}
    return content


def described(**changes: Any) -> dict[str, Any]:
    """With a text of the item from word vectors."""
    text = {"name": "words", "side": "item", "kind": "text", "column": "item", "vectors": "words.txt"}
    return ranked(fields=[*ranked()["fields"], text | changes])


def counted(of: str) -> dict[str, Any]:
    return ranked(fields=[*ranked()["fields"], {"name": "mean", "side": "row", "kind": "statistic", "of": of}])


@dataclass(frozen=True)
class Mistake:
    name: str
    words: tuple[str, ...]
    events: str = rows()
    content: Callable[[], dict[str, Any]] = ranked
    vectors: str = WORDS


MISTAKES = (
    Mistake("label of 2", ("row 6", "'clicked'", "'2' is no label", "'at_least'"), rows(clicked="2")),
    Mistake("label of a half", ("row 6", "'0.5' is no label"), rows(clicked="0.5")),
    Mistake("label is nan", ("row 6", "'clicked'", "'nan'", "0 and 1 are wanted"), rows(clicked="nan")),
    Mistake("label is missing", ("row 6", "'clicked'", "is empty"), rows(clicked="")),
    Mistake("label is text", ("row 6", "'yes'", "values: ['yes']"), rows(clicked="yes")),
    Mistake("no clock", ("events.csv", "no column 'time'"), rows().replace(",time,", ",when,")),
    Mistake("time is missing", ("row 6", "'time'", "is empty"), rows(time="")),
    Mistake("time is a date", ("row 6", "'2024-01-31 12:00'", "seconds since 1970"), rows(time="2024-01-31 12:00")),
    Mistake("one row in milliseconds", ("row 6", "unit: ms", "one unit"), rows(time=f"{START}000")),
    Mistake("all in milliseconds", ("row 1,", "120 such rows"), rows().replace(",17000", ",17000000")),
    Mistake("domain without positives", ("domains.b", "no training positive"), labelled("b", 0)),
    Mistake("domain without negatives", ("domains.b", "no training row is a negative"), labelled("b", 1)),
    Mistake(
        "domain without rows", ("domains.c", "no training positive"), content=lambda: ranked(domains={**AB, "c": {}})
    ),
    Mistake("unknown field", ("fields.mean.of", "'colour'", "categorical"), content=lambda: counted("colour")),
    Mistake("number as a key", ("fields.mean.of", "'mean'"), content=lambda: counted("mean")),
    Mistake(
        "two lengths",
        ("words.txt", "line 2", "3 numbers, 2 in line 1"),
        content=described,
        vectors=f"{WORDS}b1 1 2 3\n",
    ),
    Mistake("header", ("line 1", "'2 2' is a header", "delete"), content=described, vectors=f"2 2\n{WORDS}"),
    Mistake("broken line", ("line 2", "'x' is not"), content=described, vectors=f"{WORDS}b1 x 1\n"),
    Mistake("not finite", ("line 2", "'nan' is not"), content=described, vectors=f"{WORDS}b1 nan 1\n"),
    Mistake("not a text file", ("line 1", "is not a finite number"), content=described, vectors="\x00\x01 \x02\n"),
    Mistake("no vectors", ("words.txt", "empty"), content=described, vectors=""),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_ends_in_one_line_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Mistake
) -> None:
    log = write_log(tmp_path / "log", mistake.content(), events=mistake.events)
    (log.parent / "words.txt").write_text(mistake.vectors, encoding="utf-8")
    before = {file: file.read_bytes() for file in log.parent.iterdir()}
    assert main(["prepare", str(log), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    for word in mistake.words:
        assert word in message, message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert {file: file.read_bytes() for file in log.parent.iterdir()} == before


def test_all_mistakes_were_tried() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == 21


def test_a_mistake_leaves_the_dataset_that_was_there(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", ranked(), events=rows())
    assert main(["prepare", str(log), str(tmp_path / "out")]) == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    write_log(tmp_path / "log", ranked(), events=rows(clicked="2"))
    assert main(["prepare", str(log), str(tmp_path / "out")]) == 2
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_boolean_column_is_a_label(tmp_path: Path) -> None:
    content = ranked()
    content["events"]["files"] = ["events.parquet"]
    log = write_log(tmp_path / "log", content)
    cells = [line.split(",") for line in rows().splitlines()[1:]]
    table = {name: [row[place] for row in cells] for place, name in enumerate(("user", "item", "domain"))}
    time = pa.array([int(row[3]) for row in cells])
    clicked = pa.array([row[4] == "1" for row in cells])
    pq.write_table(pa.table({**table, "time": time, "clicked": clicked}), log.parent / "events.parquet")
    assert main(["prepare", str(log), str(tmp_path / "bool")]) == 0
    plain = write_log(tmp_path / "plain", ranked(), events=rows())
    assert main(["prepare", str(plain), str(tmp_path / "csv")]) == 0
    for split in ("train", "valid", "test"):
        found = [np.load(tmp_path / name / f"impressions/{split}/label.npy").tolist() for name in ("bool", "csv")]
        assert found[0] == found[1]


def test_words_with_spaces_as_gloves_own_files_have_them_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a1 0.5 0.25\n. . . 1 2\nat name@host 3 4\nb1 1 2\n", encoding="utf-8")
    assert word_vectors(["a1", "b1", "name"], tmp_path / "words.txt").tolist() == [[0.5, 0.25], [1.0, 2.0], [0.0, 0.0]]


def test_a_damaged_vocabulary_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log", ranked(), events=rows())
    assert main(["prepare", str(log), str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "vocabularies" / "user.parquet"
    file.write_bytes(file.read_bytes()[:100])
    capsys.readouterr()
    with pytest.raises(DatasetError, match=r"user\.parquet: not readable"):
        Dataset.open(tmp_path / "out").vocabulary("user")
    assert main(["audit", str(tmp_path / "out")]) == 2
    assert "prepare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "events", "domains"),
    [
        ("fm", lambda: one_label_in_validation("ab"), "a, b"),
        ("cdanet", lambda: one_label_in_validation("b"), "b"),
        ("keep", lambda: one_label_in_validation("ab"), "a, b"),
    ],
)
def test_validation_that_can_choose_no_epoch_is_said_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, events: Callable[[], str], domains: str
) -> None:
    log = write_log(tmp_path / "log", ranked(), events=events())
    assert main(["prepare", str(log), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    backbone = {"kind": "dnn", "hidden_dims": [4], "norm": "none"}
    part = {"fm": {}, "cdanet": {"extractor": backbone}, "keep": {"backbone": backbone}}[kind]
    settings = {"ranking": {"kind": kind, **part}, "training": {"seed": 0, "epochs": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["train", str(tmp_path / "out"), str(tmp_path / "run"), "--settings", str(tmp_path / "run.yaml")]
    assert main(command) == 2
    assert f"validation rows of {domains} do not have both labels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def one_label_in_validation(domains: str) -> str:
    """Twelve of 120 rows are validation by time, those before the last twelve: here of clicks alone."""
    lines = rows().splitlines()
    for number in range(NUM_ROWS - 24, NUM_ROWS - 12):
        if lines[number + 1].split(",")[2] in domains:
            lines[number + 1] = f"{lines[number + 1][:-1]}1"
    return "\n".join(lines) + "\n"
