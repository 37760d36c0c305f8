"""The command itself: of a toy with one test it finds what that test sees and what it does not."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from . import c_operators, python_operators
from .__main__ import drawn, run, table
from .areas import AREAS, FOLDERS, UNDRAWN, Area
from .equivalent import EQUIVALENT
from .kept import KEPT
from .mutant import Kept, Mutant
from .recording import recorded
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
import subprocess
import sys
from pathlib import Path
from toy.half import half
def test_toy():
    [library] = (Path(__file__).parents[1] / "toy").glob("*.so")
    assert ctypes.CDLL(str(library)).sum_below(4) == 6
    assert half(4) == 2
def test_another_process():
    subprocess.run([sys.executable, "-c", "from toy.half import half; assert half(4) == 2"], check=True)
def test_nothing():
    pass
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


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "toy project"
    for name, text in (("toy/sum.c", SUM_C), ("toy/half.py", HALF_PY), ("tests/test_toy.py", TEST_PY),
                       ("plait/pytest_plugin.py", "")):  # pytest loads what the environment has installed
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    project = "project('toy', 'c', default_options: ['buildtype=release'])\nsubdir('toy')\n"
    (root / "meson.build").write_text(project)
    (root / "toy/meson.build").write_text("shared_library('toy', 'sum.c', name_prefix: '')\n")
    return root


@pytest.fixture(scope="module")
def work(toy: Path) -> Path:
    """Where the mutants of the toy are made; what one test left there the next may use."""
    return toy.parent / "work"


def test_a_toy_and_its_survivors(toy: Path, work: Path) -> None:
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    judged = run(TOY, TOY_KEPT, directory=work, root=toy)
    assert {each.mutant.kind: each.verdict for each in judged} == {
        "one more": "caught", "no limit": "survived", "the same": "equivalent",
        "a third": "caught", "below one": "survived", "talk": "equivalent",
    }
    [survivor] = [each for each in judged if each.mutant.kind == "no limit"]
    assert survivor.line() == "survived   toy/sum.c:8  no limit: return -1; -> ; (no test runs it)"
    assert [row["rate"] for row in table(judged, TOY)] == [0.5, 0.5, 0.5]
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_known_is_taken_over_and_survivors_are_tried_again(toy: Path, work: Path) -> None:
    journal = work / "judged.jsonl"
    run(TOY, TOY_KEPT[3:5], directory=work, root=toy)
    survived, caught = map(json.loads, journal.read_text().splitlines())
    assert (survived["kind"], caught["kind"]) == ("below one", "a third")
    known = [json.dumps(each | {"why": "known"}) for each in (survived, caught)]
    journal.write_text("\n".join(known) + "\n")
    judged = run(TOY, TOY_KEPT[3:5], directory=work, root=toy, goes_on=True)
    assert [(each.mutant.kind, each.verdict, each.why) for each in judged] == [
        ("below one", "survived", ""), ("a third", "caught", "known"),
    ]
    assert len(journal.read_text().splitlines()) == 3


def test_a_line_is_a_matter_of_the_tests_that_run_it(toy: Path, work: Path) -> None:
    """Also by another process. What is no statement of a function is a matter of all that run the file."""
    found = recorded(["tests"], work, toy)

    def tests(path: str, line: int) -> set[str]:
        mutant = Mutant(path, 0, 0, "", "", "", line)
        text = (toy / path).read_text()
        return {test.name.partition("::")[2] for test in found.of(mutant, TOY["c"], text)}

    both = {"test_toy", "test_another_process"}
    assert [tests("toy/half.py", line) for line in (1, 2, 3, 4, 5)] == [both, both, both, set(), both]
    ran = {"test_toy"}
    assert [tests("toy/sum.c", line) for line in (1, 5, 6, 8, 9)] == [ran, ran, ran, set(), ran]


def test_tests_that_fail_by_themselves_judge_nothing(toy: Path, work: Path) -> None:
    test = toy / "tests/test_toy.py"
    test.write_text("def test_toy():\n    assert False\n")
    with pytest.raises(CannotWork, match="fails without a mutant"):
        run(TOY, TOY_KEPT[3:4], directory=work, root=toy)
    test.write_text(TEST_PY)


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


def test_equivalent_mutants_still_fit_the_sources() -> None:
    for path, before, after, why in EQUIVALENT:
        assert before in " ".join((ROOT / path).read_text().split()), f"{path}: {before}"
        assert before != after and why


def test_areas_name_files_that_are_there() -> None:
    for name, area in AREAS.items():
        assert not area.sources or area.files(ROOT), name
        for test in area.tests:
            assert (ROOT / test.partition("::")[0]).exists(), test


def test_every_source_of_these_folders_is_drawn_from_or_named() -> None:
    drawn_from = {path for area in AREAS.values() for path in area.files(ROOT)}
    sources = {path for folder in FOLDERS for path in (ROOT / folder).iterdir()
               if path.suffix in (".c", ".py") and path.name != "__init__.py"}  # fmt: skip
    named = {ROOT / path for path in UNDRAWN}
    assert sources - drawn_from == named and all(UNDRAWN.values())


def test_command_lists(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.robustness.mutants", "--list", "--area", "fences"]
    command += ["--name", "queue_give"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fences       shm/schedule.c:") and len(done.stdout.splitlines()) == 1
