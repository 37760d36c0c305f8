"""Signals at some moments of a start; `python -m tests.robustness.kill.start_grid` has all of them."""

from __future__ import annotations

import os
import signal

import pytest

from plait.lab.namespaces import Lab, state
from plait.watch.processes import children
from tests.robustness.kill.start_grid import ENVIRONMENT, SETTINGS, SIGNALS, SOCKET, TARGETS, grid, left
from tests.support.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.long]
STEPS = 4  # over the length of a start


def test_ready_or_nothing_is_left() -> None:
    starts = list(grid(SIGNALS, TARGETS, None, STEPS))
    assert {start.target for start in starts if start.end == "nothing"} == set(TARGETS)
    assert "ready" in {start.end for start in starts}
    assert [start for start in starts if start.end == "wrong"] == []


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_engine_ends_with_the_launcher_that_waits_for_it(name: str, code: int) -> None:
    """It is not ready before: its settings are a pipe, which it reads until the test closes the other end."""
    with Lab() as lab:
        host = lab.host("a")
        pipe = host.root / "run/wg0.toml"
        os.mkfifo(pipe)
        launcher = host.popen(["plaitd", "wg0"], environment=ENVIRONMENT)
        with pipe.open("w") as settings:
            supervisor = next(iter(children(launcher.pid)))
            os.kill(supervisor, signal.SIGSTOP)
            until(lambda: state(supervisor) == "T", "it stands still")
            launcher.signal(getattr(signal, name))
            if name == "SIGKILL":
                assert launcher.wait() == code
            settings.write(SETTINGS)
        os.kill(supervisor, signal.SIGCONT)
        assert launcher.wait() == code, launcher.output()
        until(lambda: not left(host), "nothing is left")


@pytest.mark.parametrize("option", [[], ["-f"]], ids=["background", "foreground"])
def test_a_kill_just_behind_the_socket_file_leaves_none(option: list[str]) -> None:
    """Control, which removes the file of a killed supervisor, is not there yet."""
    with Lab() as lab:
        host = lab.host("a")
        (host.root / "run/wg0.toml").write_text(SETTINGS)
        process = host.popen(["plaitd", *option, "wg0"], environment=ENVIRONMENT)
        supervisor = process.pid if option else until(lambda: next(iter(children(process.pid)), 0), "a child")
        until(lambda: (host.root / SOCKET).is_socket(), "the socket file")
        os.kill(supervisor, signal.SIGKILL)
        assert process.wait() == (-9 if option else 1), process.output()
        until(lambda: not left(host), f"nothing is left: {left(host)}")
