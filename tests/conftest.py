"""What all tests share: the marker `network`, for tests that build hosts out of namespaces.

Where root, /dev/net/tun, namespaces or a program is missing such a test is skipped and says why;
with CI=true in the environment their absence is an error, because there they must exist.
"""

from __future__ import annotations

import functools
import os

import pytest

from plait.lab import missing

PROGRAMS = ("wg", "wireguard-go", "iperf3", "ping")


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
