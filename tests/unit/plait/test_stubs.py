"""The border to C as mypy sees it: the stubs that scripts/stubs.py prints at every build.

A stub says what its module has, neither less nor more; and a wrong call into C is an error of mypy.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SUFFIX = ".pyi"
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for package in ("engine", "shm", "workers", "plait")
    for path in (ROOT / package).rglob("_*.so")
)


def test_every_extension_module_has_a_stub() -> None:
    assert len(MODULES) >= 4, "is anything built? scripts/setup"
    assert [name for name in MODULES if not _stub_of(name).exists()] == []


def _stub_of(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + SUFFIX)


def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(_stub_of(module).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _members(node: ast.ClassDef) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            found[each.name] = each
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found[each.target.id] = each
    return found


@pytest.mark.parametrize("name", MODULES)
def test_functions_and_constants_are_those_of_the_module(name: str) -> None:
    module: Any = importlib.import_module(name)
    stub = _members(_classes(name)["_Lib"])
    assert sorted(stub) == sorted(dir(module.lib))
    for function, node in stub.items():
        if isinstance(node, ast.FunctionDef):
            takes = len(module.ffi.typeof(getattr(module.lib, function)).args)
            # self is among them, where there is any.
            assert max(len(node.args.posonlyargs) - 1, 0) == takes, function
        else:
            assert isinstance(getattr(module.lib, function), int), function


@pytest.mark.parametrize("name", MODULES)
def test_structs_are_those_of_the_module(name: str) -> None:
    ffi: Any = importlib.import_module(name).ffi
    classes = _classes(name)
    wholes = 0
    for struct in ffi.list_types()[1]:
        if f"_{struct}_fields" not in classes:  # Python knows no more of it than its name
            assert struct in classes, struct
            with pytest.raises(ffi.error):
                ffi.sizeof(f"struct {struct}")
            continue
        names = [field for field, _ in ffi.typeof(f"struct {struct}").fields]
        told = list(_members(classes[f"_{struct}_fields"]))
        assert told == [each for each in names if each != "from"], struct
        wholes += 1
    assert wholes


WRONG = {
    "lib.token_read(segment)": "call-arg",
    "lib.token_read(segment, 1, 2)": "call-arg",
    "lib.token_read(segment, 1.0)": "arg-type",
    "lib.token_read(device, 1)": "arg-type",
    "lib.token_read(segment[0], 1)": "arg-type",  # a struct is no pointer to one
    "lib.token_reed(segment, 1)": "attr-defined",
    "lib.TOKEN_IDEL": "attr-defined",
    "lib.TOKEN_IDLE = 1": "misc",
    "lib.counter_sum(segment, lib.EVENT_CONFIRMED)": "arg-type",  # not of enum counter
    "lib.counter_sum(segment, lib.PEER_LIVE)": "arg-type",  # of another enum
    'lib.mac1_filter_learn(segment, "key")': "arg-type",
    "lib.events_take(segment, words, words, words, 1)": "arg-type",  # uint64_t * for uint32_t *
    "lib.queue_pop_sc(segment, 1, 1, bytes(8), 1, 1)": "arg-type",  # C would write into bytes
    "text: str = lib.token_read(segment, 1)": "assignment",
    "segment.rowz": "attr-defined",
    "segment.rows[0].key_wrod": "attr-defined",
    'segment.device.mtu = "1420"': "assignment",
    'ffi.new("struct segmnet *")': "call-overload",
    'ffi.sizeof("struct segmnet")': "arg-type",
    'ffi.addressof(device, "trie_root5")': "call-overload",
}
RIGHT = """
state: int = lib.token_read(segment, lib.WORKER_CONTROL)
total: int = lib.counter_sum(segment, lib.UDP_SENT) + segment.rows[3].key_word
lib.token_read(ffi.NULL, True)
root: Ints[uint32_t] = ffi.addressof(device, "trie_root4")
lib.mac1_filter_learn(segment, bytes(32))
segment.device.mac1_keys
device.index_key = [1, 2]
rows: Array[peer_row] = ffi.new("struct peer_row[]", 3)
"""
HEAD = """
from __future__ import annotations
from typing import TYPE_CHECKING
from workers._workers import ffi, lib
if TYPE_CHECKING:
    from workers._workers import Array, Ints, peer_row, uint32_t
segment = ffi.new("struct segment *")
device = ffi.new("struct device *")
words = ffi.new("uint64_t[]", 4)
"""


def test_a_wrong_call_is_an_error_of_mypy_and_a_right_one_is_not(tmp_path: Path) -> None:
    lines = [*HEAD.strip().splitlines(), *RIGHT.strip().splitlines(), *WRONG]
    (tmp_path / "program.py").write_text("\n".join(lines) + "\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", "--no-pretty",
         "--hide-error-context", "--no-error-summary", "program.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, str] = {}
    for line in checked.stdout.splitlines():
        place, _, words = line.partition(": error: ")
        if words:
            found[lines[int(place.split(":")[1]) - 1]] = words.rpartition("[")[2].rstrip("]")
    assert found == WRONG, checked.stdout + checked.stderr
