"""The C programs: threads over one segment (plain and under sanitizers), kills at every instruction."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.unit.shm.programs import program


def run(name: str, sanitizer: str, *arguments: str) -> str:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [program(name, sanitizer), *arguments], capture_output=True, text=True, timeout=200, env=environment
    )
    if done.returncode == 77:
        pytest.skip("this machine does not allow single steps (ptrace)")
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(("sanitizer", "packets"), [("plain", 200000), ("thread", 20000), ("address", 20000)])
def test_threads_over_one_segment(sanitizer: str, packets: int) -> None:
    assert f"{2 * packets} packets" in run("validate", sanitizer, str(packets))


@pytest.mark.parametrize(("sanitizer", "parts"), [("plain", 2000), ("thread", 200), ("address", 400)])
def test_lenders_and_helpers(sanitizer: str, parts: int) -> None:
    assert "each message once" in run("lending", sanitizer, str(parts))


def test_killed_after_every_instruction() -> None:
    assert "repaired, whole, in order, nothing twice" in run("killed", "plain")


def test_stalled_after_every_instruction() -> None:
    assert "nobody waited, nothing lost, nothing twice" in run("stalled", "plain")


def test_mac1_filter_stopped_after_every_instruction() -> None:
    assert "the old key or the new one" in run("mac1_filter", "plain")
