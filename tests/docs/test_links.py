"""Every test and file that a document names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.sources import sources

ROOT = Path(__file__).parents[2]
PAGES = [*sources("*.md", at_least=4), *sources("docs/**/*.md", at_least=20)]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path, test in re.findall(
        r"`((?:tests|docs|engine|shm|workers|plait|scripts|configs)/[\w./-]+)(?:::(\w+))?`", text
    ):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_every_file_that_a_source_names_exists() -> None:
    """In comments, docstrings and includes of the product: of a file that moved, its place now."""
    packages = ("engine", "shm", "workers", "plait")
    patterns = [f"{package}/**/*.{end}" for package in packages for end in ("py", "c", "h", "c.in")]
    named = re.compile(rf"(?<![\w/.])(?:{'|'.join(packages)})/[\w/]+\.(?:py|c|h)\b")
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(*patterns, at_least=250)
        for name in named.findall(path.read_text())
        if not (ROOT / name).exists()
    }
    assert wrong == set()


def anchors(page: Path) -> set[str]:
    """What `#…` may say of a page: its headings, as code hosts write them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_place_within_a_page_is_a_heading_of_it(page: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.suffix != ".md" or anchor in anchors(target), f"{link}#{anchor}"
