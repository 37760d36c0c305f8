"""Each module of the tests has one name, that of its place; folders share tests/support alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from tests.support.sources import ROOT, sources

TESTS = ROOT / "tests"
MODULES = sources("tests/**/*.py", at_least=200)


def folder(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def test_every_folder_is_a_package() -> None:
    """In a folder that is none, pytest calls a module by its bare name: of two of that name it takes one."""
    homes = {home for path in MODULES for home in path.parents if home.is_relative_to(TESTS)}
    assert [str(home) for home in homes if not (home / "__init__.py").exists()] == []


def test_no_folder_of_tests_is_searched_for_modules() -> None:
    """Else a module has a second name, a bare one, which may be that of a library as well."""
    assert [place for place in sys.path if Path(place or ".").resolve().is_relative_to(TESTS)] == []


def imported(path: Path) -> set[str]:
    """The folders whose modules it imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # what a package gives are its modules
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            names = [f"{node.module}.{each.name}" for each in node.names] if is_package else [node.module]
        found |= {name.rpartition(".")[0].replace(".", "/") for name in names if name.startswith("tests.")}
    return found


def test_folders_share_what_stands_in_support_alone() -> None:
    uses = {str(path.relative_to(ROOT)): imported(path) - {folder(path), "tests/support"} for path in MODULES}
    assert {path: others for path, others in uses.items() if others} == {}
    assert [path.name for path in sources("tests/support/*.py", at_least=10) if path.match("test_*")] == []
