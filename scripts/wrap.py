"""Wrap the prose of documents at 100 columns; tables, code, headings and links may be longer.

usage: wrap.py FILE.md...

A paragraph or list item whose lines all fit is left as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 100
ITEM = re.compile(r" *(?:[-*]|\d+\.) +")
# Tables, headings, pictures, places of links, code.
APART = re.compile(r" *\||#|!\[|<|\[[^]]+\]: |(?: {4}|\t)(?! *(?:[-*]|\d+\.) )")
MARKER = re.compile(r"(?:[-+*>|]|#+|\d+[.)])$")  # a word that would mean something where a line begins


def blocks(lines: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Runs of lines that belong together, and whether they are prose."""
    block: list[str] = []
    is_code = False
    for line in lines:
        is_fence = line.lstrip().startswith("```")
        is_continued = bool(block) and line.startswith(" ") and not ITEM.match(line) and not is_code
        is_alone = is_fence or is_code or not line.strip() or (bool(APART.match(line)) and not is_continued)
        if is_alone or ITEM.match(line):
            if block:
                yield block, True
            block = []
        is_code ^= is_fence
        if is_alone:
            yield [line], False
        else:
            block.append(line)
    if block:
        yield block, True


def words_of(text: str) -> list[str]:
    """Words; code with spaces in it is one, and what must not begin a line clings to the word before it."""
    found: list[str] = []
    for word in re.findall(r"(?:`[^`]*`|\S)+", text):
        if found and MARKER.match(word):
            found[-1] += " " + word
        else:
            found.append(word)
    return found


def filled(block: list[str]) -> list[str]:
    """A paragraph or list item, wrapped."""
    if all(len(line) <= WIDTH for line in block):
        return block
    item = ITEM.match(block[0])
    lead = item.group() if item else re.match(" *", block[0]).group()  # type: ignore[union-attr]
    hanging = " " * len(lead)
    lines, line = [], lead
    for word in words_of(" ".join([block[0][len(lead):], *block[1:]])):
        if len(line) + len(word) > WIDTH and line.strip() and line != lead:
            lines.append(line.rstrip())
            line = hanging
        line += word + " "
    return [*lines, line.rstrip()]


def wrapped(text: str) -> str:
    """The whole document."""
    done: list[str] = []
    for block, is_prose in blocks(text.splitlines()):
        done += filled(block) if is_prose else block
    return "\n".join(done) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        before = Path(name).read_text()
        if (after := wrapped(before)) != before:
            Path(name).write_text(after)
            print(f"wrapped {name}", file=sys.stderr)
