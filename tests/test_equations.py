"""The pages that map equations and traps to code and tests name what is there, and leave none out."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = r"`([\w/]+\.py)::(\w+)`"


def table(page: str, section: str = "") -> list[list[str]]:
    """The cells of every row of a page's tables, their heads left out; `section` names the one to read."""
    text = (ROOT / "docs" / page).read_text()
    parts = [part for part in text.split("\n## ") if part.startswith(section)]
    rows = []
    for part in parts:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        rows += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return rows


def defined(file: Path) -> set[str]:
    """Functions and classes that a file defines at its top level."""
    body = ast.parse(file.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def missing(cell: str, folder: Path) -> list[str]:
    """What a cell names as `file::name` that is not there."""
    named = re.findall(NAMED, cell)
    return [f"{file}::{name}" for file, name in named if name not in defined(folder / file)]


def test_every_equation_of_adi_has_one_row() -> None:
    numbers = [int(number) for cells in table("equations.md", "ADI") for number in cells[0].split(",")]
    assert numbers == list(range(1, 28))


def test_every_equation_of_cdanet_has_one_row() -> None:
    numbers = [int(number) for cells in table("equations.md", "CDAnet") for number in cells[0].split(",")]
    assert numbers == list(range(1, 10))


@pytest.mark.parametrize("cells", table("equations.md"), ids=lambda cells: cells[0])
def test_the_code_and_the_tests_of_an_equation_exist(cells: list[str]) -> None:
    _, _, code, tests = cells
    assert missing(code, ROOT / "src" / "isthmus") == []
    assert missing(tests, ROOT / "tests") == []
    assert re.findall(NAMED, code)
    files = [file for file, _ in re.findall(NAMED, tests)]
    assert files
    assert all(file.startswith("conformance/") for file in files)


def test_every_trap_has_one_row() -> None:
    assert [cells[0] for cells in table("conformance.md")] == [f"T{number}" for number in range(1, 18)]


@pytest.mark.parametrize("cells", table("conformance.md"), ids=lambda cells: cells[0])
def test_the_tests_of_a_trap_exist(cells: list[str]) -> None:
    assert re.findall(NAMED, cells[3])
    assert missing(" ".join(cells), ROOT / "tests") == []


def test_what_is_not_there_is_found() -> None:
    folder = ROOT / "tests"
    assert missing("`test_equations.py::table`", folder) == []
    assert missing("`test_equations.py::tabel`, `test_equations.py::missing`", folder) == ["test_equations.py::tabel"]
