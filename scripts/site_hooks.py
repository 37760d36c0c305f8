"""What makes a site of documents that are written to be read in a checkout (mkdocs.yml names this file).

The front pages of the repository become pages, and the decisions get a list. A link that is called by a file
has the heading of the page instead; one to a source, which no site has, becomes the source's name. A link to
nothing stays as it is, so that a strict build fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FRONT = {  # of the repository -> of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reports.md",
    "LICENSE": "license.md",
    "docs/adr": "adr/index.md",
}
SOURCES = {page: source for source, page in FRONT.items()}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_PLACE = re.compile(r"^\[([^\]]+)\]: (\S+)\n?", re.M)  # of a link by reference
_INFO = re.compile(r"^(```\w+) (.+)$", re.M)
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def of_site(text: str, page: str, root: Path = ROOT) -> str:
    """The text of a page of the site, by its name there, with links that hold there."""
    source = SOURCES.get(page, f"docs/{page}")
    folder = os.path.dirname(source)
    gone = {label for label, link in _PLACE.findall(text) if _moved(link, folder, page, root) == ""}

    def place(match: re.Match[str]) -> str:
        moved = _moved(match[2], folder, page, root)
        return f"[{match[1]}]: {moved}\n" if moved else ""

    def link(match: re.Match[str]) -> str:
        moved = _moved(match[2], folder, page, root)
        return f"[{_title(match[1], match[2], folder, root)}]({moved})" if moved else _name(match[1])

    def prose(part: str) -> str:
        part = _LINK.sub(link, _PLACE.sub(place, part))
        for label in gone:
            part = part.replace(f"[{label}]", _name(label))
        return part

    return _outside_of_code(text, prose)


def _title(label: str, link: str, folder: str, root: Path) -> str:
    """What a link is called: of a page that is called by its file, the page's heading."""
    path = root / os.path.normpath(os.path.join(folder, link.partition("#")[0]))
    if not label.endswith(".md") or not path.is_file():
        return label
    return re.findall(r"^# (.+)$", path.read_text(), re.M)[0]


def _name(label: str) -> str:
    return label if "`" in label or " " in label else f"`{label}`"


def _outside_of_code(text: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(text)
    # What stands behind a language, as in "```sh both", says on which host: else it is no code to mkdocs.
    return "".join(
        _INFO.sub(r'\1 title="on \2"', part, count=1) if number % 2 else change(part)
        for number, part in enumerate(parts)
    )


def _moved(link: str, folder: str, page: str, root: Path) -> str:
    """The link as it holds on that page of the site; empty when it leads to a source."""
    path, sign, heading = link.partition("#")
    if not path or re.match(r"[a-z]+:", link):
        return link
    target = os.path.normpath(os.path.join(folder, path))
    if target in FRONT:
        there = FRONT[target]
    elif target.startswith("docs/") and (root / target).is_file():
        there = target.removeprefix("docs/")
    else:
        return "" if (root / target).exists() else link
    return os.path.relpath(there, os.path.dirname(page) or ".") + sign + heading


def decisions(root: Path = ROOT) -> str:
    """The list of architecture decision records."""
    lines = ["# Decisions", "", "One decision each, what was measured, and why it fell so.", ""]
    for path in sorted((root / "docs/adr").glob("*.md")):
        lines.append(f"- [{path.read_text().splitlines()[0].lstrip('# ')}]({path.name})")
    return "\n".join(lines) + "\n"


def on_files(files: Any, *, config: Any) -> Any:
    """mkdocs: pages that docs/ does not have."""
    from mkdocs.structure.files import File

    for source, page in FRONT.items():
        text = decisions() if page == "adr/index.md" else (ROOT / source).read_text()
        if page == "license.md":
            text = f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """mkdocs: each page, before it is made HTML."""
    name = page.file.src_uri
    # Links of the list of decisions are of the site already.
    return markdown if name == "adr/index.md" else of_site(markdown, name)
