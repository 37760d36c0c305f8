"""What a worker leaves that wrote into shared memory what it liked, before it was replaced."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from plait.lab.namespaces import Engine, Lab, descriptors
from shm._shm import ffi, lib
from tests.support.waiting import until

pytestmark = pytest.mark.network

SMALL = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"


@contextlib.contextmanager
def scribbled() -> Iterator[tuple[Engine, Any]]:
    """An engine, and the `struct segment *` of its data segment, which may be written as workers may."""
    with Lab() as lab:
        host = lab.host("broken")
        engine = host.engine("wg0", settings=SMALL)
        until(lambda: "wg0 is ready" in engine.process.output(), "an engine")
        control = host.titles("wg0")["control"]
        segment = ffi.new("struct segment *")
        for fd in (fd for fd, name in descriptors(control).items() if name.startswith("/dev/shm/")):
            with open(f"/proc/{control}/fd/{fd}", "r+b") as file:
                shared = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
            if lib.segment_attach(segment, ffi.from_buffer(shared), len(shared)) == 0:  # not the vault
                break
        else:
            pytest.fail("control has no data segment")
        yield engine, segment
        assert engine.stop() == 0


@pytest.mark.parametrize("line", [lib.WORKER_SUPERVISOR, lib.WORKER_CONTROL, lib.WORKER_RECEIVER + 5])
def test_removed_peers_come_free_though_somebody_is_said_to_be_awake_who_is_not_there(line: int) -> None:
    with scribbled() as (engine, segment):
        peers = [f"public_key={number:064x}\n" for number in range(1, 41)]
        assert engine.uapi("set=1\n" + "".join(peers) + "\n") == "errno=0\n\n"
        segment.workers[line].epoch = 1
        gone = "".join(f"{peer}remove=true\n" for peer in peers)
        assert engine.uapi(f"set=1\n{gone}\n") == "errno=0\n\n"
        until(lambda: not any(segment.rows[row].state for row in range(40)), "free rows")


def test_wg_shows_all_peers_though_one_has_a_time_that_is_none() -> None:
    with scribbled() as (engine, segment):
        assert engine.uapi(f"set=1\npublic_key={1:064x}\npublic_key={2:064x}\n\n") == "errno=0\n\n"
        segment.rows[0].handshake_sec, segment.rows[0].handshake_nsec = (1 << 64) - 1, (1 << 32) - 1
        times = engine.wg("show", "wg0", "latest-handshakes").splitlines()
        assert [line.split()[1] for line in times] == ["0", "0"]
