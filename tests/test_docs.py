"""The pages link to what is there, and the index of docs/ leaves none out."""

import re
from pathlib import Path

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


def test_the_index_names_every_page_of_docs() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != index}
    assert pages - set(local_links(index)) == set()
