"""Which tests run which lines: recorded by running the tests of all areas in a build that marks what runs.

    DIRECTORY/recorder   a workshop whose compiler and Python mark blocks and statements (marks.c, marks.py)
    DIRECTORY/map.json   what was found; recorded again for a file of tests that changed, and for all of them
                         when a source changed

Tests of other processes count as well: the marks are made in shared memory, by whoever the test starts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .areas import LEFT_OUT, Area
from .mutant import Mutant
from .workshop import ROOT, CannotWork, Test, Workshop, files, say

HERE = Path(__file__).parent
RECORD_SECONDS = 1200
# The tests of other areas are tried as well, the quickest first, as long as they take no longer than this.
ELSEWHERE_SECONDS = 60
# Compiles with marks whatever anybody compiles; without optimization a block has the lines that it came from.
COMPILER = """#!/bin/sh
case " $* " in
*" -c "* | *" -S "* | *" -E "* | *" -M"*) exec {compiler} "$@" -O0 -g -fsanitize-coverage=trace-pc ;;
*.c*) exec {compiler} "$@" -O0 -g -fsanitize-coverage=trace-pc {runtime} ;;
*) exec {compiler} "$@" {runtime} ;;
esac
"""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def belongs(test: str, prefixes: Sequence[str]) -> bool:
    """Whether a test is one of those that a path or the beginning of a test's name stands for."""
    return any(test == each or test.startswith((f"{each}/", f"{each}::", f"{each}[")) for each in prefixes)


def products(root: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """The sources of these kinds that are no tests."""
    for path in files(root):
        name = path.relative_to(root)
        if path.suffix in suffixes and name.parts[0] != "tests":
            yield name


def files_of(tests: Iterable[str], root: Path) -> list[str]:
    """The files of these tests."""
    found = set()
    for prefix in tests:
        path = root / prefix.partition("::")[0]
        found |= {path} if path.is_file() else set(path.rglob("test_*.py"))
    return sorted(str(path.relative_to(root)) for path in found)


class Recorder(Workshop):
    """A workshop in which everything that runs leaves marks."""

    def _make_python(self, where: Path) -> None:
        super()._make_python(where)
        runtime = where / "marks.o"
        compiler = shutil.which("gcc") or "cc"
        words = [compiler, "-O2", "-fPIC", "-D_GNU_SOURCE", "-c", str(HERE / "marks.c"), "-o", str(runtime)]
        subprocess.run(words, check=True)
        for name in ("cc", "gcc"):
            program = where / "bin" / name
            program.write_text(COMPILER.format(compiler=compiler, runtime=runtime))
            program.chmod(0o755)
        packages = self.packages(where)
        shutil.copyfile(HERE / "marks.py", packages / "mutants_marks.py")
        shutil.copyfile(HERE / "recorder.py", packages / "mutants_recorder.py")
        (packages / "marks.pth").write_text("import mutants_marks\n")
        bases, size = {}, 0
        for module in sorted(products(self.root, (".py",))):
            path = self.source / module
            bases[str(path)] = size
            size += path.read_text().count("\n") + 2
        self.bases = bases
        (self.directory / "bases.json").write_text(json.dumps({"bases": bases, "size": max(size, 1)}))

    def _compile_python(self) -> None:
        """Not at all: what is compiled before has no marks."""

    def record(self, tests: str) -> dict[str, Any]:
        """Of one file of tests: its tests and, for each line that they run, their numbers."""
        marks = self.directory / "marks" / tests.replace("/", "!")
        shutil.rmtree(marks, ignore_errors=True)
        marks.mkdir(parents=True)
        marks.chmod(0o777)
        environment = {"PLAIT_MARKS": str(marks), "PLAIT_MARKS_BASES": str(self.directory / "bases.json")}
        left_out = [f"--deselect={each}" for each in LEFT_OUT]
        command = [str(self.python), "-m", "pytest", "-q", "--hypothesis-seed=1", "-p", "mutants_recorder",
                   *left_out, tests]
        done = self.run(command, RECORD_SECONDS, environment, marks / "said")
        if done.code not in (0, 1) or not (marks / "tests.json").exists():
            raise CannotWork(f"{tests} cannot be recorded: {done.words[-2000:].strip()}. Mend it first.")
        told = json.loads((marks / "tests.json").read_text())
        lines: dict[str, dict[str, list[int]]] = {}
        for name, places in told["marks"].items():
            for path, line in self.all_lines(name):
                lines.setdefault(path, {}).setdefault(str(line), [])
            for place, numbers in places.items():
                for path, line in self.lines(name, int(place)):
                    known = lines.setdefault(path, {}).setdefault(str(line), [])
                    known += [number for number in numbers if number not in known]
        shutil.rmtree(marks)
        return {"tests": told["tests"], "shared": told["shared"], "lines": lines}

    def lines(self, name: str, place: int) -> list[tuple[str, int]]:
        """The lines of the project that stand for a mark."""
        if name != "python.marks":
            return self.blocks(name.removesuffix(".marks").replace("!", "/")).get(place, [])
        path, base = max((item for item in self.bases.items() if item[1] <= place), key=lambda item: item[1])
        return [(str(Path(path).relative_to(self.source)), place - base)]

    def all_lines(self, name: str) -> set[tuple[str, int]]:
        """Of a program or module also the lines that nobody ran; those of Python are in the source."""
        if name == "python.marks":
            return set()
        blocks = self.blocks(name.removesuffix(".marks").replace("!", "/"))
        return {line for lines in blocks.values() for line in lines}

    @cache  # noqa: B019 (there is one recorder)
    def blocks(self, program: str) -> dict[int, list[tuple[str, int]]]:
        """Of a program or module: where each of its blocks leaves its mark, and the lines of the block."""
        if not Path(program).exists():
            return {}
        words = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text", program]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found: dict[int, list[int]] = {}
        addresses: list[int] = []
        is_marked, block = False, addresses
        for line in text.splitlines():
            if line.endswith(">:"):
                block = []  # a function begins: before its first mark is nothing of it
            if not (parts := re.match(r" *([0-9a-f]+):\t(.*)", line)):
                continue
            at = int(parts[1], 16)
            if is_marked:
                block = found.setdefault(at, [])
            is_marked = "<__sanitizer_cov_trace_pc" in parts[2]  # the call: the first of the block behind it
            if not is_marked:
                block.append(at)
        every = sorted({at for block in found.values() for at in block})
        asked = "\n".join(map(hex, every))
        words = ["addr2line", "-e", program]
        told = subprocess.run(words, input=asked, capture_output=True, text=True, check=True)
        where = dict(zip(every, map(self.place, told.stdout.splitlines()), strict=True))
        return {mark: sorted({here for at in block if (here := where[at])}) for mark, block in found.items()}

    def place(self, told: str) -> tuple[str, int] | None:
        path, _, line = told.partition(" ")[0].rpartition(":")
        full = Path(os.path.normpath(path if path.startswith("/") else self.build / path))
        if not line.isdigit() or not full.is_relative_to(self.source):
            return None
        return str(full.relative_to(self.source)), int(line)


# -- the map -------------------------------------------------------------------------------------


@dataclass
class Map:
    """Which tests run which lines."""

    tests: list[Test] = field(default_factory=list)
    lines: dict[str, dict[int, list[int]]] = field(default_factory=dict)

    def add(self, told: Mapping[str, Any]) -> None:
        first, shared = len(self.tests), told["shared"]
        whole = sum(test["seconds"] for test in told["tests"]) + shared
        for test in told["tests"]:
            unit = whole / len(told["tests"]) if shared > 0.1 else test["seconds"]
            self.tests.append(Test(test["id"], test["seconds"], test["failed"], unit, shared))
        for path, lines in told["lines"].items():
            for line, numbers in lines.items():
                ours = self.lines.setdefault(path, {}).setdefault(int(line), [])
                ours += [first + number for number in numbers]

    def of(self, mutant: Mutant, area: Area, text: str) -> list[Test]:
        """The tests that may see a mutant of this source: those of its area first, and the quickest first."""
        lines = self.lines.get(mutant.path, {})
        at = (_of_python if mutant.path.endswith(".py") else _of_c)(text, mutant.line, lines)
        numbers = {number for line in at for number in lines.get(line, [])}
        unknown = {number for number, test in enumerate(self.tests)
                   if belongs(test.name, area.tests) and (test.has_failed or not lines)}
        found = sorted((self.tests[number] for number in numbers | unknown),
                       key=lambda test: (test.has_failed, test.unit, test.name.partition("::")[0]))
        ours = [test for test in found if belongs(test.name, area.tests)]
        left = float(ELSEWHERE_SECONDS)
        for test in found:
            left -= test.seconds + test.shared
            if left > 0 and not test.has_failed and test not in ours:
                ours.append(test)
        return ours


def _of_c(text: str, line: int, known: Mapping[int, Any]) -> list[int]:
    """The lines whose tests may see a change of this one: itself, or of what is no code all of the file."""
    if line in known:
        return [line]
    before = text.splitlines()[: line - 1]
    for at in range(len(before), 0, -1):
        if before[at - 1].startswith("}"):
            break
        if at in known:  # a statement of several lines
            return [at]
        if before[at - 1].startswith("{"):  # the head of a function that is never called
            return []
    return list(known)


def _of_python(text: str, line: int, known: Mapping[int, Any]) -> list[int]:
    """The same: the statement that the line is a part of; for a module's own all functions of the file."""
    functions: list[tuple[int, int]] = []
    inner: ast.stmt | None = None
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt) or node.end_lineno is None:
            continue
        if isinstance(node, ast.FunctionDef):
            functions.append((node.body[0].lineno, node.end_lineno))
        if node.lineno <= line <= node.end_lineno and (inner is None or node.lineno >= inner.lineno):
            inner = node
    if inner is not None and any(start <= inner.lineno <= end for start, end in functions):
        return [inner.lineno]
    return [at for at in known if any(start <= at <= end for start, end in functions)]


def recorded(tests: Iterable[str], directory: Path, root: Path = ROOT, jobs: int = 1) -> Map:
    """The map of these tests and others of their files; what is missing or old is recorded first."""
    path = directory / "map.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    suffixes = (".c", ".h", ".in", ".py")
    sources = {str(name): digest(root / name) for name in sorted(products(root, suffixes))}
    if kept.get("sources") != sources:
        kept = {"sources": sources, "files": {}}
    names = files_of(tests, root)
    old = [name for name in names if kept["files"].get(name, {}).get("digest") != digest(root / name)]
    if old:
        _record(old, kept, path, root, jobs)
    result = Map()
    for name in names:
        result.add(kept["files"][name])
    return result


def _record(names: Sequence[str], kept: dict[str, Any], path: Path, root: Path, jobs: int) -> None:
    say(f"recording which lines {len(names)} files of tests run")
    recorder, left, lock = Recorder(path.parent / "recorder", root), list(names), threading.Lock()
    failed: list[CannotWork] = []

    def job() -> None:
        while True:
            with lock:
                if not left or failed:
                    return
                name = left.pop(0)
            try:
                told = recorder.record(name)
            except CannotWork as error:
                failed.append(error)
                return
            with lock:
                kept["files"][name] = told | {"digest": digest(root / name)}
                path.write_text(json.dumps(kept))
            took = sum(test["seconds"] for test in told["tests"]) + told["shared"]
            failing = sum(test["failed"] for test in told["tests"])  # some look at the optimized code
            fails = f", {failing} fail here" if failing else ""
            say(f"{name}: {len(told['tests'])} tests, {took:.0f} s{fails}")

    threads = [threading.Thread(target=job) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
