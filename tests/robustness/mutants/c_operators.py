"""Where a C source can be changed: by its tokens, outside comments, strings and directives.

What the compiler does not take is no mutant, so the patterns need not know the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .mutant import Mutant, place

NO_CODE = re.compile(
    r"/\*.*?\*/|//[^\n]*"
    r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    r"|^[ \t]*#[ \t]*define[ \t]+\w+|^[ \t]*#(?!\s*define)(?:[^\n]*\\\n)*[^\n]*",  # a define's value is code
    re.DOTALL | re.MULTILINE,
)
SWAPS = {
    "relational": {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > ", " == ": " != ",
                   " != ": " == "},
    "logical": {" && ": " || ", " || ": " && "},
    "arithmetic": {" + ": " - ", " - ": " + ", " * ": " + ", " / ": " * ", " % ": " + ", " += ": " -= ",
                   " -= ": " += ", "++": "--", "--": "++"},
    "bits": {" & ": " | ", " | ": " & ", " << ": " >> ", " >> ": " << ", "&= ~": "|= ", " |= ": " &= "},
}
CONSTANT = re.compile(r"(?<![\w.])(0x[0-9a-fA-F]+|\d+)(?=[uUlL]*\b)(?![.\w]*\.)")
ORDER = re.compile(r"__ATOMIC_(?:SEQ_CST|ACQ_REL|ACQUIRE|RELEASE)\b")
FENCE = re.compile(r"\bfence_\w+\(\);")
IF = re.compile(r"\bif (?=\()")
RETURN = re.compile(r"^[ \t]{8,}(return\b[^;{}]*;)", re.MULTILINE)
CALL = re.compile(r"\b\w+\(([\w.\->\[\]&]+), ([\w.\->\[\]&]+)(?=[,)])")
STATEMENT = re.compile(
    r"(?<=[;{}):])\s*\n[ \t]+((?!if\b|while\b|for\b|switch\b|return\b|POINT\b|fence_|assert\b)"
    r"(?:\*?[A-Za-z_][\w.]*(?:->[\w.]+|\[[^\]\n]*\])*)(?:\(|\s(?:[-+|&^]|<<|>>)?=\s|\+\+|--)[^;{}]*;)"
)

KINDS = {*SWAPS, "constant", "weakened order", "removed fence", "negated condition", "removed return",
         "removed statement", "swapped arguments"}


def code_of(text: str) -> str:
    """The same text, of the same length, with blanks for what is no code."""
    return NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def closing(code: str, at: int) -> int:
    """Behind the parenthesis that closes the one at `at`."""
    depth = 0
    for here in range(at, len(code)):
        depth += {"(": 1, ")": -1}.get(code[here], 0)
        if depth == 0:
            return here + 1
    return len(code)


def mutants(path: str, text: str) -> Iterator[Mutant]:
    code = code_of(text)

    def change(start: int, end: int, new: str, kind: str) -> Mutant:
        return place(path, text, start, end, new, kind)

    for kind, swaps in SWAPS.items():
        for found in re.finditer("|".join(map(re.escape, sorted(swaps, key=len, reverse=True))), code):
            yield change(*found.span(), swaps[found[0]], kind)
    for found in CONSTANT.finditer(code):
        value = int(found[1], 0)
        for new in {value + 1, max(value - 1, 0)} - {value}:
            yield change(*found.span(), hex(new) if "x" in found[1] else str(new), "constant")
    for found in ORDER.finditer(code):
        yield change(*found.span(), "__ATOMIC_RELAXED", "weakened order")
    for found in FENCE.finditer(code):
        yield change(*found.span(), ";", "removed fence")
    for found in IF.finditer(code):
        end = closing(code, found.end())
        yield change(found.end(), end, f"(!{text[found.end() : end]})", "negated condition")
    for found in RETURN.finditer(code):
        yield change(*found.span(1), ";", "removed return")
    for found in STATEMENT.finditer(code):
        yield change(*found.span(1), ";", "removed statement")
    for found in CALL.finditer(code):
        if found[1] != found[2]:
            yield change(found.start(1), found.end(2), f"{found[2]}, {found[1]}", "swapped arguments")
