"""Which tests ought to see a fault in which sources.

Of these the recording (recording.py) knows which run the changed line. No sanitizers and no engines in
namespaces, but where nothing else looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Area:
    sources: tuple[str, ...]  # patterns; none: the kept mutants alone
    tests: tuple[str, ...]  # folders, files, or the beginnings of tests' names
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


CONTROL = ("responder.py", "endpoints.py", "grace_periods.py", "handshakes.py", "keypairs.py", "losses.py",
           "memory.py", "outgoing.py", "peers.py", "process.py", "routes.py", "timer_columns.py", "vault.py")
SUPERVISOR = ("scaling.py", "process.py", "roster.py", "segments.py", "sockets.py", "watchdog.py",
              "worker.py")

# Folders each of whose sources belongs to an area, but for these, with the reason.
FOLDERS = ("engine", "engine/uapi", "workers/control", "workers/datapath", "workers/supervisor")
UNDRAWN = {
    "workers/datapath/consumer.py": "the loop of a process: engines in namespaces alone run it",
    "workers/datapath/holder.py": "the loop of a process: engines in namespaces alone run it",
    "workers/datapath/receiver.py": "the loop of a process: engines in namespaces alone run it",
}

# Recorded besides: what may see a random mutant of any area, and is tried when the area's own tests do not.
OTHERS = ("tests/unit/workers", "tests/interop/test_upgrade.py", "tests/interop/test_netns_sections.py")
# With sanitizers: each costs a compilation of everything.
LEFT_OUT = (
    *(f"tests/unit/shm/test_programs.py::test_threads_over_one_segment[{name}]"
      for name in ("thread-20000", "address-20000")),
    *(f"tests/unit/engine/test_programs.py::test_program[{name}]"
      for name in ("engine_inputs-address-3000", "engine_trains-address-20000",
                   "engine_threads-thread-1000")),
)
AREAS = {
    "fences": Area((), ("tests/unit/shm/test_fences.py",
                        "tests/unit/shm/test_programs.py::test_mac1_filter_stopped_after_every_instruction")),
    "link": Area((), ("tests/interop/test_link_local.py",)),
    "confinement": Area(of("workers", "sandbox.c", "system_calls.c"),
                        ("tests/unit/workers/test_confinement.py",)),
    "wiping": Area((), ("tests/unit/engine/test_programs.py::test_program[engine_secrets-plain-0]",
                        "tests/unit/workers/test_wiping.py")),
    "shm": Area(
        ("shm/*.c",),
        ("tests/unit/shm", "tests/unit/workers/test_data_path.py",
         "tests/robustness/weak/test_weak_memory.py"),
        ("shm/point.c",),
    ),
    "engine": Area(
        ("engine/*.c", "engine/uapi/*.c"),
        ("tests/unit/engine", "tests/unit/shm/test_fences.py"),
    ),
    "data path": Area(
        ("workers/datapath/*.c", "workers/udp.c"),
        ("tests/unit/workers/test_data_path.py", "tests/unit/workers/test_bursts.py",
                     "tests/unit/workers/test_pressure.py", "tests/unit/workers/test_trains.py",
                     "tests/unit/workers/test_tun.py", "tests/unit/workers/test_mac1_filter.py",
                     "tests/unit/workers/test_priority.py", "tests/unit/workers/test_orders.py",
                     "tests/unit/workers/test_shares_of_a_turn.py", "tests/unit/workers/test_affinity.py",
                     "tests/unit/workers/test_consumer_loop.py", "tests/unit/workers/test_directions.py",
                     "tests/unit/workers/test_sharing.py"),
    ),
    "sharing": Area((), ("tests/unit/workers/test_sharing.py", "tests/unit/shm/test_models.py",
                         "tests/unit/shm/test_programs.py::test_lenders_and_helpers[plain-2000]",
                         "tests/unit/shm/test_programs.py::test_stalled_after_every_instruction")),
    "tables": Area(
        ("workers/clock.c", "workers/control/*.c"),
        ("tests/unit/workers/test_control_uapi.py", "tests/unit/workers/test_control_loop.py",
         "tests/unit/workers/test_control_handshakes.py", "tests/unit/workers/test_control_model.py",
         "tests/unit/workers/test_batches.py", "tests/unit/workers/test_endpoints.py",
         "tests/unit/workers/test_long_lives.py", "tests/unit/workers/test_names.py",
         "tests/unit/workers/test_quotas.py", "tests/unit/workers/test_removed_rows.py",
         "tests/unit/workers/test_keypair_lists.py", "tests/unit/workers/test_set_orders.py"),
    ),
    "protocol": Area(
        ("engine/*.py", "engine/uapi/*.py", "plait/quick/conf.py"),
        (*of("tests/unit/engine", "test_constants.py", "test_cookie.py", "test_messages.py", "test_noise.py",
             "test_primitives.py", "test_ratelimiter.py", "test_tai64n.py", "test_timers.py", "test_uapi.py",
             "test_uapi_sections.py"), "tests/unit/plait/test_conf.py"),
    ),
    "control": Area(
        of("workers/control", *CONTROL),
        ("tests/unit/workers/test_routes.py", "tests/unit/workers/test_route_marks.py",
         "tests/unit/workers/test_wiping.py", "tests/unit/workers/test_keypair_lists.py",
         "tests/unit/workers/test_control_loop.py", "tests/unit/workers/test_control_handshakes.py",
         "tests/unit/workers/test_control_uapi.py", "tests/unit/workers/test_control_model.py",
         "tests/unit/workers/test_removed_rows.py", "tests/unit/workers/test_vault.py",
         "tests/unit/workers/test_attempts.py", "tests/unit/workers/test_killed_messages.py",
         "tests/unit/workers/test_sweep_of_rows.py"),
    ),
    "control more": Area(
        ("workers/attempts.py", "workers/control/*.py"),
        (*of("tests/unit/workers",
             "test_arrays.py", "test_attempts.py", "test_batches.py", "test_busiest.py",
             "test_control_handshakes.py", "test_control_loop.py", "test_control_model.py",
             "test_control_uapi.py", "test_crypto_threads.py", "test_events.py", "test_eviction.py",
             "test_handoffs.py", "test_killed_messages.py", "test_long_lives.py", "test_lookups.py",
             "test_names.py", "test_neighbours.py", "test_provider_sockets.py", "test_quotas.py",
             "test_removed_rows.py", "test_set_orders.py", "test_told_sessions.py", "test_turns.py",
             "test_unsent.py", "test_vault.py", "test_wiping.py"), "tests/protocol/test_keylog.py"),
        of("workers/control", "__init__.py", *CONTROL),
    ),
    "netns": Area((), ("tests/interop/test_link_setup.py", "tests/interop/test_netns_sections.py")),
    "upgrade": Area((), ("tests/interop/test_upgrade.py::test_refused_upgrades_leave_everything_alone",)),
    "supervisor": Area(
        ("workers/channel.py", *of("workers/supervisor", *SUPERVISOR)),
        ("tests/unit/workers/test_scaling.py", "tests/unit/workers/test_channel.py",
         "tests/unit/workers/test_watchdog.py", "tests/unit/workers/test_roster.py",
         "tests/unit/workers/test_sockets.py", "tests/unit/workers/test_segments.py",
         "tests/unit/workers/test_affinity.py", "tests/unit/workers/test_supervisor.py",
         "tests/unit/workers/test_supervisor_alone.py", "tests/unit/plait/test_service_manager.py"),
    ),
    "host": Area(
        ("workers/supervisor/*.py",),
        (*of("tests/unit/workers", "test_attempts.py", "test_changes.py", "test_environment.py",
             "test_handoffs.py", "test_news.py", "test_ports.py", "test_room.py", "test_roster.py",
             "test_scaling.py", "test_segments.py", "test_signals.py", "test_sockets.py",
             "test_supervisor.py", "test_supervisor_alone.py", "test_tun.py", "test_uapi_socket.py",
             "test_vault.py", "test_watchdog.py"), "tests/unit/plait/test_service_manager.py"),
        of("workers/supervisor", "__init__.py", *SUPERVISOR),
    ),
}
