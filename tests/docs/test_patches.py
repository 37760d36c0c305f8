"""No test changes a module or class of Plait by an attribute's name: one that has moved would change nothing.

What a test needs otherwise is passed in, where a wrong name is an error. Programs that tests hold in strings
are looked through as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import sources

ROOT = Path(__file__).parents[2]
OURS = {"engine", "shm", "workers", "plait", "tests"}
SETTERS = {"setattr", "delattr", "patch", "object"}  # of pytest, unittest.mock, and Python
MAY = {
    "tests/robustness/simulator/test_mutants.py": "a mutant that changes nothing is not found out, and fails",
    "tests/interop/test_operating.py": "an older program: that it does not know the question is asserted",
    "tests/interop/test_upgrade.py": "a program of another layout: that it is refused for this is asserted",
    "tests/conftest.py": "Host.engine is called by this name: nothing would start without it",
}


def is_ours(module: str | None, level: int = 0) -> bool:
    return level > 0 or (module or "").split(".")[0] in OURS


def imported(nodes: list[ast.AST]) -> set[str]:
    """Names that stand for something of Plait, or of another test."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {each.asname or each.name.split(".")[0] for each in node.names if is_ours(each.name)}
        elif isinstance(node, ast.ImportFrom) and is_ours(node.module, node.level):
            found |= {each.asname or each.name for each in node.names}
    return found


def root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement gives another value."""
    if isinstance(node, ast.Assign | ast.Delete):
        for target in node.targets:
            yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target


def is_patch(call: ast.Call, names: set[str]) -> bool:
    """Whether it sets an attribute of one of these, or of what a text names."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else root(call.func)
    if name not in SETTERS or not call.args:
        return False
    first = call.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return is_ours(first.value)
    return root(first) in names


def programs(nodes: list[ast.AST]) -> Iterator[list[ast.AST]]:
    """Those that stand in strings."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            try:
                yield list(ast.walk(ast.parse(node.value)))
            except (SyntaxError, ValueError):
                continue


def patches(text: str) -> list[str]:
    """Lines that patch, as `line: code`."""
    whole = list(ast.walk(ast.parse(text)))
    held = list(programs(whole))
    prelude = set().union(*map(imported, held))  # may stand in another string than what uses it
    found = []
    for nodes, names in [(whole, imported(whole)), *((program, prelude) for program in held)]:
        for node in nodes:
            attributes = [each.value for each in targets(node) if isinstance(each, ast.Attribute)]
            is_set = any(root(each) in names for each in attributes)
            if is_set or (isinstance(node, ast.Call) and is_patch(node, names)):
                found.append(f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:100]}")
    return found


def test_no_test_patches_by_the_name_of_an_attribute() -> None:
    found = {}
    for path in sources("tests/**/*.py", at_least=200):
        name = str(path.relative_to(ROOT))
        if path != Path(__file__) and (lines := patches(path.read_text())):
            found[name] = lines
    assert {name: lines for name, lines in found.items() if name not in MAY} == {}
    assert MAY.keys() <= found.keys(), "no exception is needed there any more"


@pytest.mark.parametrize("text", [
    "from workers.control import process as control\nmonkeypatch.setattr(control, 'SLICE', 1)",
    "from workers.control import process as control\ncontrol.SLICE = 1",
    "from workers.control.process import Control\nControl.turn, x = None, 1",
    "import workers.control.process as c\nc.timers.constants.LIMIT += 1",
    "from . import engine\nwith mock.patch.object(engine.Engine, 'settle'): pass",
    "monkeypatch.setattr('workers.log.DEV_LOG', '/x')",
    "from shm import layout\nsetattr(layout, 'PAGE', 1)",
    "P = '''\nfrom workers import tun\n'''\nrun(P + '''\ntun.MTU = 1\n''')",
])  # fmt: skip
def test_a_patch_is_found(text: str) -> None:
    assert len(patches(text)) == 1


@pytest.mark.parametrize("text", [
    "from workers.control.peers import Peers\npeers = Peers()\npeers.rows = []",
    "import socket\nmonkeypatch.setenv('TERM', 'dumb')",
    "from engine._engine import ffi\nmade = ffi.new('struct x *')\nsetattr(made, 'y', 1)",
])  # fmt: skip
def test_what_a_test_makes_itself_is_its_own(text: str) -> None:
    assert patches(text) == []
