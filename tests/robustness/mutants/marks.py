"""Marks which statements ran, in memory that outlives the process: a recorder's Python imports it.

The mark is a byte a line, at `bases[path] + line`, in PLAIT_MARKS/python.marks; `bases` stands in the file
that PLAIT_MARKS_BASES names. Nothing here needs the project, and whatever is missing leaves Python as it is.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.machinery
import json
import mmap
import os
from typing import Any

BODIES = ("body", "orelse", "finalbody")


def marked(tree: ast.AST, base: int) -> ast.AST:
    """With a store before each statement that can have one before it."""
    for node in ast.walk(tree):
        for name in BODIES:
            body = getattr(node, name, None)
            if isinstance(body, list):
                setattr(node, name, [each for statement in body for each in _with_mark(statement, base)])
    return ast.fix_missing_locations(tree)


def _with_mark(statement: ast.stmt, base: int) -> list[ast.stmt]:
    is_words = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    if is_words or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
        return [statement]
    [mark] = ast.parse(f"__marks__[{base + statement.lineno}] = 1").body
    for node in ast.walk(mark):
        if hasattr(node, "lineno"):
            ast.copy_location(node, statement)
    return [mark, statement]


def begin() -> None:
    where = os.environ["PLAIT_MARKS"]
    with open(os.environ["PLAIT_MARKS_BASES"]) as file:
        told = json.load(file)
    bases: dict[str, int] = told["bases"]
    fd = os.open(f"{where}/python.marks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    os.ftruncate(fd, told["size"])
    builtins.__marks__ = mmap.mmap(fd, told["size"])  # type: ignore[attr-defined]
    os.close(fd)
    plain = importlib.machinery.SourceFileLoader.source_to_code

    def source_to_code(loader: Any, data: Any, path: Any, **how: Any) -> Any:
        if str(path) not in bases:
            return plain(loader, data, path, **how)
        tree: Any = marked(ast.parse(data, path), bases[str(path)])
        return compile(tree, path, "exec", dont_inherit=True, optimize=how.get("_optimize", -1))

    importlib.machinery.SourceFileLoader.source_to_code = source_to_code  # type: ignore[assignment, method-assign]


if "PLAIT_MARKS" in os.environ:
    with contextlib.suppress(OSError, ValueError, KeyError):
        begin()
