"""A plugin of pytest: which marks (marks.py, marks.c) each test leaves. Written to PLAIT_MARKS/tests.json.

    {"tests": [{"id", "seconds", "failed"}, ...], "shared": seconds of the fixtures that tests share,
     "marks": {FILE: {PLACE: [numbers of tests]}}}

What a fixture of more than one test leaves counts for all of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MARKS = Path(os.environ["PLAIT_MARKS"])
Marks = dict[str, set[int]]


class Recorder:
    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []
        self.marks: list[Marks] = []
        self.shared: Marks = {}
        self.seconds = 0.0

    def take(self, into: Marks) -> None:
        for path in MARKS.glob("*.marks"):
            if path.stat().st_size == 0:
                continue
            marks = np.memmap(path, dtype=np.uint8, mode="r+")
            at = np.flatnonzero(marks.copy())  # others go on to mark
            marks[at] = 0
            into.setdefault(path.name, set()).update(at.tolist())

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.take({})  # nobody's: imports, and what the test before left behind
        self.tests.append({"id": item.nodeid, "seconds": 0.0, "failed": False})
        self.marks.append({})
        yield
        self.take(self.marks[-1])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        self.take(self.marks[-1])
        begin = time.monotonic()
        yield
        self.take(self.shared)
        took = time.monotonic() - begin
        self.seconds += took
        self.tests[-1]["seconds"] -= took

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests[-1]
        test["seconds"] = max(test["seconds"] + report.duration, 0.0)
        test["failed"] |= report.failed

    def pytest_sessionfinish(self) -> None:
        every = list(range(len(self.tests)))
        found: dict[str, dict[int, list[int]]] = {}
        for number, marks in enumerate(self.marks):
            for name, places in marks.items():
                for place in places:
                    found.setdefault(name, {}).setdefault(place, []).append(number)
        for name, places in self.shared.items():
            for place in places:
                found.setdefault(name, {})[place] = every
        told = {"tests": self.tests, "shared": self.seconds, "marks": found}
        (MARKS / "tests.json").write_text(json.dumps(told))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder())
