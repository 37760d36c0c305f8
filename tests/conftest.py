"""What all tests share: the markers, and in which order and beside what tests run.

`network`: the test builds hosts out of namespaces. Where root, /dev/net/tun, namespaces or a program is
missing such a test is skipped and says why; with CI=true in the environment their absence is an error,
because there they must exist.

`long`: the test takes a good part of a minute, so it is among the first that begin, and nobody waits for it
at the end.

No test needs the machine for itself: none asserts a rate, a duration or a share of the processors.
scripts/test shares the tests out among more processes than there are cores, since most of them wait most of
the time. Tests that share a fixture of their module stay together, so that it is made once for each few.

Every engine in a lab gets the hand-off and the provider that tests/support/asked.py was asked for.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
# What is imported next was compiled from the sources as they are now; who shares the tests out has looked.
if (ROOT / "build/compiled").exists() and "PYTEST_XDIST_WORKER" not in os.environ:
    subprocess.run([ROOT / "scripts/compile"], check=True)

from plait.lab.namespaces import PLAIT, Engine, Host, missing  # noqa: E402
from tests.support import asked  # noqa: E402

NEIGHBOURS = 8  # tests in a row that use the same made fixture; more would make others wait at the end
WHOLE = (  # their fixtures, which compile, are most of their work
    "tests/interop/test_package.py", "tests/robustness/weak/test_weak_memory.py",
)  # fmt: skip
PROGRAMS = ("wg", "wireguard-go", "iperf3", "ping")

# A shell without job control starts what it puts in the background with SIGINT ignored, nohup with SIGHUP.
# Programs inherit that: those that tests start would not see the signals that tests send.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
# How long an example takes is the machine's business.
settings.register_profile("plait", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("plait")
# A BLAS that nobody calls starts no threads: a third of the CPU time that importing numpy takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


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


def pytest_collection_finish() -> None:
    """The collector of garbage has no need to walk what stays until the end: modules and tests."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, then with what waits most."""
    items.sort(key=lambda item: (item.get_closest_marker("long") is None,
                                 item.get_closest_marker("network") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who gets which tests, with --dist loadscope: neighbours that share a fixture stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class Neighbours(LoadScopeScheduling):  # type: ignore[misc]
        @functools.cached_property
        def places(self) -> dict[str, int]:
            """The place of each test among those of its module."""
            seen: Counter[str] = Counter()
            found = {}
            for test in self.collection:
                module = test.partition("::")[0]
                found[test] = seen[module]
                seen[module] += 1
            return found

        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            if module in WHOLE:
                return module
            return f"{module}#{self.places[nodeid] // NEIGHBOURS}" if shares_fixtures(module) else nodeid

    return Neighbours(config, log)


@functools.cache
def shares_fixtures(module: str) -> bool:
    """Whether fixtures are made once for a module's tests, by itself or by the conftest beside it."""
    path = ROOT / module
    files = [file for file in (path, path.with_name("conftest.py")) if file.exists()]
    return any('scope="module"' in file.read_text() for file in files if file.parent != ROOT / "tests")


def pytest_configure() -> None:
    start = Host.engine

    def engine(host: Host, interface: str = "wg0", command: Sequence[str] = PLAIT, **rest: Any) -> Engine:
        rest["settings"] = asked.completed(rest.get("settings"))
        return start(host, interface, command, **rest)

    if asked.HANDOFF or asked.AEAD:
        Host.engine = engine  # type: ignore[method-assign]
