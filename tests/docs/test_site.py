"""The documentation site: its navigation has every page once, and its links hold. scripts/site builds it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKS = runpy.run_path(str(ROOT / "scripts/site_hooks.py"))
SETTINGS = (ROOT / "mkdocs.yml").read_text()


def test_the_navigation_has_every_page_once() -> None:
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$|^  - .*: (\S+\.md)$", SETTINGS.split("\nnav:")[1], re.M)
    pages = [one or other for one, other in listed]
    documents = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages) == sorted([*documents, *HOOKS["FRONT"].values()])


def test_the_settings_name_files_that_exist() -> None:
    assert "hooks: [scripts/site_hooks.py]" in SETTINGS and "extra_css: [site.css]" in SETTINGS
    assert (ROOT / "docs/site.css").exists()


LINKS = {  # page of the site, its text in the checkout, on the site
    "to a page": ("observe.md", "[a](events.md#the-log)", "[a](events.md#the-log)"),
    "called by a file": ("observe.md", "[scale.md](scale.md#time)", "[Many peers](scale.md#time)"),
    "to a heading of its own": ("observe.md", "[a](#b)", "[a](#b)"),
    "to the web": ("observe.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
    "up from a decision": ("adr/0004-observation-asks-control.md", "[a](../scale.md)", "[a](../scale.md)"),
    "of the front page": ("index.md", "[a](docs/scale.md#time)", "[a](scale.md#time)"),
    "of the front page to another": ("index.md", "[a](CHANGELOG.md)", "[a](changelog.md)"),
    "to the front page": ("load.md", "[a](../README.md)", "[a](index.md)"),
    "to the decisions": ("index.md", "[adr/](docs/adr)", "[adr/](adr/index.md)"),
    "to a source": ("security.md", "[shm/counters.h](../shm/counters.h)", "`shm/counters.h`"),
    "to a folder": ("security.md", "[the fuzzing](../tests/robustness/fuzz)", "the fuzzing"),
    "to nothing": ("security.md", "[a](../nothing.md)", "[a](../nothing.md)"),
    "in code": ("security.md", "```\n[a](../shm/counters.h)\n```", "```\n[a](../shm/counters.h)\n```"),
    "words behind a language": ("two-hosts.md", "```sh both\nls\n```", '```sh title="on both"\nls\n```'),
    "by reference": ("protocol.md", "x [t::u] y\n\n[t::u]: ../shm/counters.h\n", "x `t::u` y\n\n"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_holds_on_the_site(case: str) -> None:
    page, text, made = LINKS[case]
    assert HOOKS["of_site"](text, page) == made


def test_the_list_of_decisions_has_each() -> None:
    names = {path.name for path in (ROOT / "docs/adr").glob("*.md")}
    assert set(re.findall(r"\]\((\S+)\)$", HOOKS["decisions"](), re.M)) == names
