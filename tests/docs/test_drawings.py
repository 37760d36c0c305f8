"""The drawings are what scripts/drawings.py prints; the files that they name do what they say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from shm._shm import lib
from shm.segment import create
from tests.docs import tables
from workers.settings import Settings, geometry

ROOT = tables.DOCS.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts/drawings.py"))
NAMES = sorted(SCRIPT["drawings"]())
REGIONS = {  # by their heads in the drawing
    ("header", "device", "trie, index"): ("DEVICE", "TRIE", "INDEX"),
    ("public keys",): ("PUBLIC_KEYS",),
    ("peers: rows,", "tokens, timers,", "ready sets"): ("ROWS", "TOKENS", "COLUMNS", "READY"),
    ("session", "keys"): ("KEYPAIRS",),
    ("mailbox,", "bells,", "counters"): ("MAILBOX", "BELLS", "COUNTERS"),
    ("packets:", "nodes, slots"): ("NODES", "STATES", "SMALL_SLOTS", "TRAIN_SLOTS"),
}
WORDS = {"rw": "reads, writes", "r-": "reads", "--": "no access"}


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_what_the_script_prints(name: str) -> None:
    printed = subprocess.check_output([sys.executable, "scripts/drawings.py", name], cwd=ROOT, text=True)
    page = (tables.DOCS / f"{name}.svg").read_text()
    assert printed == page, f"run: python scripts/drawings.py {name} > docs/{name}.svg"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_drawing_names_exists(name: str) -> None:
    text = (tables.DOCS / f"{name}.svg").read_text()
    files = re.findall(r"((?:engine|shm|workers)/[\w/]+\.\w+)(?: \((\w+)\))?", text)
    assert len(files) > 3
    for path, function in files:
        assert (ROOT / path).exists(), path
        assert not function or re.search(rf"^\S.*\b{function}\(", (ROOT / path).read_text(), re.M), function


def test_what_the_page_around_the_drawings_names_exists() -> None:
    """Each file stands where the page says, each function (a name with `_`) in one of these files."""
    text = (tables.DOCS / "path-of-a-packet.md").read_text()
    sources = "\n".join((ROOT / path).read_text() for path in re.findall(r"\*\*`([\w/]+\.\w+)`\*\*", text))
    functions = set(re.findall(r"`([a-z0-9]+_\w+)`", text))
    assert len(functions) > 30
    assert {name for name in functions if not re.search(rf"^\S.*\b{name}\(", sources, re.M)} == set()


def test_rights_in_memory_are_those_of_the_drawing() -> None:
    """Of all but control, which maps everything to write; the vault's are not looked at here."""
    settings = Settings(receivers=1, consumers=1, cores=(0,), max_peers=64)
    segment = create(geometry(settings), receivers=1)
    try:
        segment.protect()
        maps = [line.split(maxsplit=2) for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [(*(int(end, 16) for end in span.split("-")), rights) for span, rights, _ in maps]

        def rights(region: str) -> str:
            at = segment.address + segment.segment.header.offset[getattr(lib, f"REGION_{region}")]
            return next(rights[:2] for first, last, rights in spans if first <= at < last)

        seen = {heads: {WORDS[rights(region)] for region in found} for heads, found in REGIONS.items()}
    finally:
        segment.close()
    for process, told in SCRIPT["RIGHTS"]:
        if process != "control":
            assert [seen[heads] for heads in SCRIPT["REGIONS"][:-1]] == [{right} for right in told[:-1]]
