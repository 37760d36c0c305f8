"""Where a Python source can be changed: by its syntax tree, as text, so that lines stay where they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutant import Mutant, place

COMPARE = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
           ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.In: ("in", "not in"),
           ast.IsNot: ("is not", "is"), ast.NotIn: ("not in", "in")}
ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"),
              ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"),
              ast.RShift: (">>", "<<")}
TALK = ("log", "logging", "print", "warnings")  # what is only said
KINDS = {"relational", "logical", "arithmetic", "constant", "negated condition", "removed return",
         "removed statement", "swapped arguments"}


class Source:
    """Text with the positions that ast counts: lines from 1, columns in bytes."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def at(self, line: int, column: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def change(self, start: int, end: int, new: str, kind: str) -> Mutant:
        return place(self.path, self.text, start, end, new, kind)

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str, kind: str) -> Iterator[Mutant]:
        """An operator's sign, behind one operand and before the next."""
        start, end = self.span(left)[1], self.span(right)[0]
        if self.text[start:end].count(old) == 1:
            at = self.text.index(old, start, end)
            yield self.change(at, at + len(old), new, kind)


def is_talk(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    root = node.value.func
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in TALK


def mutants(path: str, text: str) -> Iterator[Mutant]:
    source = Source(path, text)
    yield from _walk(source, ast.parse(text), is_inside=False)


def _walk(source: Source, node: ast.AST, is_inside: bool) -> Iterator[Mutant]:
    if is_talk(node) or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        return  # words, mostly
    if isinstance(node, ast.arg):
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _walk(source, node.value, is_inside)
        return
    if is_inside:
        yield from _of(source, node)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(source, child, is_inside or isinstance(node, ast.FunctionDef | ast.Assign))


def _of(source: Source, node: ast.AST) -> Iterator[Mutant]:
    text = source.text
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARE:
            yield from source.between(left, right, *COMPARE[type(operator)], "relational")
        case ast.BoolOp(op=operator, values=[left, right, *_]):
            signs = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            yield from source.between(left, right, *signs, "logical")
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
            yield from source.between(left, right, *ARITHMETIC[type(operator)], "arithmetic")
        case ast.Constant(value=bool(value)):
            yield source.change(*source.span(node), str(not value), "constant")
        case ast.Constant(value=int(value)):
            start, end = source.span(node)
            yield source.change(start, end, str(value + 1), "constant")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            start, end = source.span(node)
            yield source.change(start, end, text[slice(*source.span(operand))], "negated condition")
        case ast.If(test=test) | ast.IfExp(test=test):
            start, end = source.span(test)
            yield source.change(start, end, f"not ({text[start:end]})", "negated condition")
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete():
            yield source.change(*source.span(node), "pass", "removed statement")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield source.change(*source.span(node), "pass", "removed statement")
        case ast.Return() | ast.Continue() if node.col_offset > 8:
            yield source.change(*source.span(node), "pass", "removed return")
        case ast.Call(
            args=[ast.Name() | ast.Attribute() as first, ast.Name() | ast.Attribute() as second, *_]
        ):
            (start, end), (begin, finish) = source.span(first), source.span(second)
            old, new = text[start:end], text[begin:finish]
            if old != new:
                yield source.change(start, finish, new + text[end:begin] + old, "swapped arguments")
