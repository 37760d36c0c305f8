"""What all tests share: the marker `network`, for tests that build hosts out of namespaces.

Where root, /dev/net/tun, namespaces or a program is missing such a test is skipped and says why;
with CI=true in the environment their absence is an error, because there they must exist.

Every engine in a lab gets the hand-off and the provider that tests/asked.py was asked for.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from typing import Any

import asked
import pytest

from plait.lab import PLAIT, Engine, Host, missing

PROGRAMS = ("wg", "wireguard-go", "iperf3", "ping")

# A shell without job control starts what it puts in the background with SIGINT ignored, and programs
# inherit that: those that tests start would not see the SIGINT that tests send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def lacking() -> str:
    """What this machine lacks for tests with the marker `network`; empty when nothing."""
    return "; ".join(str(error) for error in missing(*PROGRAMS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("network") is None or not lacking():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true and this machine cannot run network tests: {lacking()}", pytrace=False)
    pytest.skip(lacking())


def pytest_configure() -> None:
    start = Host.engine

    def engine(host: Host, interface: str = "wg0", command: Sequence[str] = PLAIT, **rest: Any) -> Engine:
        rest["settings"] = asked.completed(rest.get("settings"))
        return start(host, interface, command, **rest)

    if asked.HANDOFF or asked.AEAD:
        Host.engine = engine  # type: ignore[method-assign]
