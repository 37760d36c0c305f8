"""What all tests share: the marker `network`, for tests that build hosts out of namespaces.

Where root, /dev/net/tun, namespaces or a program is missing such a test is skipped and says why;
with CI=true in the environment their absence is an error, because there they must exist.
"""

from __future__ import annotations

import functools
import os
import signal

import pytest

from plait.lab import missing

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
