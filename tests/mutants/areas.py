"""Which tests ought to see a fault in which sources.

As few as see them, the quickest first: a mutant that survives costs all of them. No sanitizers and no
engines in namespaces, but where nothing else looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Area:
    sources: tuple[str, ...]  # patterns; none: the kept mutants alone
    tests: tuple[str, ...]  # arguments of pytest
    without: tuple[str, ...] = ()

    def files(self, root: Path) -> list[Path]:
        return sorted(set(_found(root, self.sources)) - set(_found(root, self.without)))


def _found(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files of all patterns. LookupError when one finds none: of nothing no mutant would be missed."""
    found = []
    for pattern in patterns:
        files = list(root.glob(pattern))
        if not files:
            raise LookupError(f"no file is called {pattern}")
        found += files
    return found


def of(room: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{room}/{name}" for name in names)


CONTROL = ("answers.py", "endpoints.py", "grace.py", "handshakes.py", "keypairs.py", "losses.py", "memory.py",
           "outgoing.py", "peers.py", "process.py", "routes.py", "stamps.py", "vault.py")
SUPERVISOR = ("numbers.py", "process.py", "roster.py", "segments.py", "sockets.py", "watchdog.py",
              "worker.py")

AREAS = {
    "fences": Area((), ("tests/shm/test_fences.py", "tests/shm/test_programs.py", "-k",
                        "fence or neither or mac1_filter")),
    "link": Area((), ("tests/interop/test_link_local.py",)),
    "confinement": Area(of("workers", "confine.c", "system_calls.c"), ("tests/workers/test_confinement.py",)),
    "wiping": Area((), ("tests/engine_c/test_programs.py", "tests/workers/test_wiping.py", "-k",
                        "secrets or wiping")),
    "shm": Area(
        ("shm/*.c",),
        ("tests/shm", "-k", "not thread-20000 and not address-20000", "tests/workers/test_data_path.py"),
        ("shm/point.c",),
    ),
    "engine": Area(
        ("engine/*.c",),
        ("tests/engine_c", "-k", "not test_program", "tests/engine_py/test_timers.py",
         "tests/engine_py/test_uapi_sections.py", "tests/engine_py/test_uapi.py",
         "tests/shm/test_fences.py"),
    ),
    "data path": Area(
        ("workers/datapath/*.c", "workers/udp.c"),
        ("tests/workers/test_data_path.py", "tests/workers/test_bursts.py",
                     "tests/workers/test_pressure.py", "tests/workers/test_trains.py",
                     "tests/workers/test_tun.py", "tests/workers/test_doorkeeper.py"),
    ),
    "tables": Area(
        ("workers/clock.c", "workers/control/*.c"),
        ("tests/workers/test_control_uapi.py", "tests/workers/test_control_loop.py",
         "tests/workers/test_control_handshakes.py", "tests/workers/test_control_model.py",
         "tests/workers/test_long_lives.py"),
    ),
    "protocol": Area(("engine/*.py", "plait/quick/conf.py"), ("tests/engine_py",)),
    "control": Area(
        of("workers/control", *CONTROL),
        ("tests/workers/test_routes.py", "tests/workers/test_route_marks.py", "tests/workers/test_wiping.py",
         "tests/workers/test_keypair_lists.py",
         "tests/workers/test_control_loop.py", "tests/workers/test_control_handshakes.py",
         "tests/workers/test_control_uapi.py", "tests/workers/test_control_model.py"),
    ),
    "upgrade": Area((), ("tests/interop/test_upgrade.py", "-k", "refused")),
    "supervisor": Area(
        ("workers/channel.py", *of("workers/supervisor", *SUPERVISOR)),
        ("tests/workers/test_numbers.py", "tests/workers/test_channel.py",
         "tests/workers/test_watchdog.py", "tests/workers/test_roster.py",
         "tests/workers/test_sockets.py", "tests/workers/test_supervisor.py"),
    ),
}
