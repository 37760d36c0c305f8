"""shm/ under C11's memory model: no execution breaks a promise, and each order is needed or argued away."""

from __future__ import annotations

import re

import pytest

from tests.robustness.weak.arguments import ARGUMENTS, OUTSIDE
from tests.robustness.weak.memory import JUDGED, ROOT, Verdict, history, judge, scenarios

SMALL = [scenario.name for scenario in scenarios() if not scenario.large]


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    return judge(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_no_execution_breaks_a_promise(verdict: Verdict, name: str) -> None:
    found = verdict.walks[name]
    assert not found.fault, f"{found.fault}\n{history(found)}"
    assert found.executions > 3


def test_each_order_that_is_weakened_is_caught_or_has_an_argument(verdict: Verdict) -> None:
    for mutant in verdict.survived:
        assert sum(argument.covers(mutant) for argument in ARGUMENTS) == 1, f"no argument for: {mutant}"


def test_no_argument_is_about_an_order_that_is_needed(verdict: Verdict) -> None:
    for argument in ARGUMENTS:
        assert any(argument.covers(mutant) for mutant in verdict.survived), argument


def test_every_full_fence_is_needed(verdict: Verdict) -> None:
    """A fence between a store and a load is what x86 needs as well: none may be argued away."""
    fences = {mutant.place for mutant in verdict.caught if mutant.order == "acq_rel"}
    assert len(fences) == 13, [str(fence) for fence in sorted(fences)]
    assert not [mutant for mutant in verdict.survived if mutant.place.kind == "fence"]


def orders_of(file: str) -> list[tuple[str, int]]:
    """(function, line) of each order of a source that is stronger than relaxed."""
    found, function = [], ""
    for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
        if begin := re.match(r"(?:static )?(?:inline )?[a-z].*?(\w+)\(", line):
            function = begin.group(1)
        has_order = re.search(r"__ATOMIC_(ACQUIRE|RELEASE|ACQ_REL|SEQ_CST)|\bfence_\w+\(\)", line)
        if has_order and "signal_fence" not in line:
            found.append((function, number))
    return found


@pytest.mark.parametrize("file", JUDGED)
def test_every_order_is_passed_by_a_scenario(verdict: Verdict, file: str) -> None:
    lines = {place.line for place in verdict.places if place.file == file}
    for function, number in orders_of(file):
        # A statement over several lines counts under any of them.
        passed = lines & {number - 2, number - 1, number}
        assert passed or f"{file} {function}" in OUTSIDE, f"{file}:{number} {function}"
