"""The command itself: of a toy with one test it finds what that test sees and what it does not."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from . import c_operators, python_operators
from .__main__ import drawn, run, table
from .areas import AREAS, Area
from .kept import KEPT
from .mutant import Kept
from .workshop import ROOT, CannotWork

SUM_C = """/* sum: a < b in a comment is no code. */
int sum_below(int limit)
{
    int sum = 0;
    for (int n = 0; n < limit; n++)
        sum += n;
    if (limit > 100)
        return -1;
    return sum;
}
"""
HALF_PY = '''"""half > whole"""
def half(n: int) -> int:
    if n < 0:
        raise ValueError("n < 0")
    return n // 2
'''
TEST_PY = """import ctypes
from pathlib import Path
from toy.half import half
def test_toy():
    [library] = (Path(__file__).parents[1] / "toy").glob("*.so")
    assert ctypes.CDLL(str(library)).sum_below(4) == 6
    assert half(4) == 2
"""
TOY = {"c": Area(("toy/*.c",), ("tests",)), "python": Area(("toy/*.py",), ("tests",))}
TOY_KEPT = [
    Kept("c", "toy/sum.c", "one more", "n < limit", "n <= limit"),
    Kept("c", "toy/sum.c", "no limit", "        return -1;\n", "        ;\n"),
    Kept("c", "toy/sum.c", "the same", "limit > 100", "100 < limit"),
    Kept("python", "toy/half.py", "a third", "n // 2", "n // 3"),
    Kept("python", "toy/half.py", "below one", "if n < 0", "if n < 1"),
    Kept("python", "toy/half.py", "talk", '("n < 0")', '("below")', "words alone"),
]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy project"
    for name, text in (("toy/sum.c", SUM_C), ("toy/half.py", HALF_PY), ("tests/test_toy.py", TEST_PY)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    project = "project('toy', 'c', default_options: ['buildtype=release'])\nsubdir('toy')\n"
    (root / "meson.build").write_text(project)
    (root / "toy/meson.build").write_text("shared_library('toy', 'sum.c', name_prefix: '')\n")
    return root


def test_a_toy_and_its_survivors(toy: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    judged = run(TOY, TOY_KEPT, directory=tmp_path / "work", root=toy)
    assert {each.mutant.kind: each.verdict for each in judged} == {
        "one more": "caught", "no limit": "survived", "the same": "equivalent",
        "a third": "caught", "below one": "survived", "talk": "equivalent",
    }
    [survivor] = [each for each in judged if each.mutant.kind == "no limit"]
    assert survivor.line().startswith("survived   toy/sum.c:8  no limit: return -1; -> ;")
    assert [row["rate"] for row in table(judged, TOY)] == [0.5, 0.5, 0.5]
    assert {path: path.read_bytes() for path in before} == before


def test_tests_that_fail_by_themselves_judge_nothing(toy: Path, tmp_path: Path) -> None:
    (toy / "tests/test_toy.py").write_text("def test_toy():\n    assert False\n")
    with pytest.raises(CannotWork, match="fail without a mutant"):
        run(TOY, TOY_KEPT[3:4], directory=tmp_path / "work", root=toy)


def test_what_is_changed_is_code(toy: Path) -> None:
    for operators, path, text in ((c_operators, "sum.c", SUM_C), (python_operators, "half.py", HALF_PY)):
        changed = list(operators.mutants(path, text))
        assert {each.kind for each in changed} >= {"relational", "constant", "negated condition"}
        for each in changed:
            assert each.applied(text) != text
            assert "comment" not in text.splitlines()[each.line - 1] and "whole" not in each.old
    lines = {(each.kind, each.line) for each in c_operators.mutants("sum.c", SUM_C)}
    assert {("removed statement", 6), ("removed return", 8)} <= lines


def test_the_seed_says_which(toy: Path) -> None:
    def first(seed: int) -> list[str]:
        some = itertools.islice(drawn(TOY, toy, seed), 12)
        return [f"{each.area} {each.line} {each.change()}" for each in some]

    assert first(1) == first(1) != first(2)
    assert {words.split()[0] for words in first(1)} == set(TOY)


def test_kept_mutants_still_fit_the_sources() -> None:
    names = [(each.area, each.name) for each in KEPT]
    assert len(names) == len(set(names))
    for each in KEPT:
        assert each.area in AREAS
        assert each.mutant(ROOT).applied((ROOT / each.path).read_text())


def test_areas_name_files_that_are_there() -> None:
    for name, area in AREAS.items():
        assert not area.sources or area.files(ROOT), name
        for argument in area.tests:
            assert not argument.startswith("tests/") or (ROOT / argument).exists(), argument


def test_command_lists(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.robustness.mutants", "--list", "--area", "fences"]
    command += ["--name", "peer_give"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fences       shm/schedule.c:") and len(done.stdout.splitlines()) == 1
