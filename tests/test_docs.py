"""The pages link to what is there, and the index of docs/ leaves none out."""

import re
import shlex
from pathlib import Path

from tests import settings_page

from isthmus.settings import Task, read_any_settings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def local_links(page: Path) -> list[Path]:
    """The files that a page links to: `[text](path)` without an address or an anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    paths = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("mailto:")]
    return [(page.parent / path).resolve() for path in paths if path]


def test_every_local_link_leads_to_a_file() -> None:
    broken = [f"{page.relative_to(ROOT)}: {link}" for page in PAGES for link in local_links(page) if not link.exists()]
    assert broken == []
    assert len(PAGES) > 5, f"read {len(PAGES)} pages"


def test_the_page_of_settings_is_that_of_the_classes_that_read_them() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "run python -m tests.settings_page"


def test_the_settings_that_the_pages_show_are_read(tmp_path: Path) -> None:
    texts = [page.read_text() for page in PAGES if page.name in ("README.md", "usage.md")]
    files = [block for text in texts for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    shown = [block for block in files if re.match(r"(retrieval|ranking):", block)]
    for block in shown:
        (tmp_path / "run.yaml").write_text(block)
        read_any_settings(tmp_path / "run.yaml")
    commands = [line for text in texts for line in re.findall(r"--set ([a-z][^`\n]*=[^`\n]*)", text)]
    for words in map(shlex.split, commands):
        task: Task = "ranking" if any(word.startswith("ranking.") for word in words) else "retrieval"
        read_any_settings(None, [word for word in words if "=" in word], task=task)
    assert (len(shown), len(commands)) == (2, 2)


def test_the_index_names_every_page_of_docs() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != index}
    assert pages - set(local_links(index)) == set()
