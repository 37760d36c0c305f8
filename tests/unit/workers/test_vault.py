"""The vault's timestamps, when control is killed after any single instruction of a store.

A child stores through its own Vault while this process steps it by ptrace and reads what a successor would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

import shm.segment
from engine import constants, tai64n
from workers.control import vault
from workers.control.vault import HEADER_BYTES, Vault
from workers.control.vault import ROW as ROW_TYPE
from workers.supervisor import handover

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SINGLESTEP = 0, 7, 9
SECOND = constants.SECOND
# Each carries into other bytes than the one before changed.
STAMPS = [tai64n.stamp(1_700_000_000 * SECOND + at) for at in (0, 255 * SECOND + SECOND // 2, 257 * SECOND)]
ROW, OTHER = 3, 4
libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, pid: int) -> None:
    null = ctypes.c_void_p()
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), null, null) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def store_seen(vault: Vault, row: int, stamp: bytes) -> None:
    vault.store_timestamps_seen(np.array([row], np.uint32), np.frombuffer(stamp, np.uint8)[None])


def stepped(
    store: Callable[[int, bytes], None], memory: Callable[[], bytes], read: Callable[[], bytes], new: bytes
) -> list[bytes]:
    """What `read` finds while a child stores `new`: at first, and each time that the memory changed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store(OTHER, new)  # what is done once is not stepped through
            ptrace(PTRACE_TRACEME, 0)
            signal.raise_signal(signal.SIGSTOP)
            store(ROW, new)
            code = 0
        finally:
            os._exit(code)
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            pytest.skip("this machine does not allow single steps (ptrace)")
        found, before = [read()], memory()
        while os.WIFSTOPPED(status) and found[-1] != new:
            ptrace(PTRACE_SINGLESTEP, child)
            _, status = os.waitpid(child, 0)
            if memory() != before:
                before = memory()
                found.append(read())
    finally:
        if not os.WIFEXITED(status):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return found


@pytest.mark.parametrize("which", ["seen", "sent"])
def test_a_kill_inside_a_store_leaves_the_old_timestamp_or_the_new_one(which: str) -> None:
    """From either of the two places that a row keeps the ns in."""
    segment = shm.segment.create_plain(4096)
    vault, successor = Vault(os.dup(segment.fd), 64), Vault(os.dup(segment.fd), 64)
    try:
        stores = {"seen": lambda *of: store_seen(vault, *of), "sent": vault.store_timestamp_sent}
        reads = {"seen": successor.timestamp_seen, "sent": successor.timestamp_sent}
        at = HEADER_BYTES + ROW * ROW_TYPE.itemsize
        row = slice(at, at + ROW_TYPE.itemsize)
        before = STAMPS[0]
        stores[which](ROW, before)
        for new in STAMPS[1:]:
            found = stepped(stores[which], lambda: successor.memory[row], lambda: reads[which](ROW), new)
            assert set(found) == {before, new} and found == sorted(found)
            before = new
    finally:
        vault.close()
        successor.close()
        segment.close()


def test_timestamps_are_kept_whole_and_in_order() -> None:
    """Of distinct rows at once; what TAI64 does not have comes after all that it has."""
    segment = shm.segment.create_plain(4096)
    vault = Vault(os.dup(segment.fd), 64)
    rows = np.array([5, 0, 63], np.uint32)
    stamps = [bytes(12), (1).to_bytes(12, "big"), b"\x40" + bytes(6) + b"\x0a" + bytes(4), STAMPS[0],
              b"\x7f" + b"\xff" * 7 + bytes(4)]  # fmt: skip
    for first, second, third in zip(stamps, stamps[1:], stamps[2:], strict=False):
        given = np.frombuffer(first + second + third, np.uint8).reshape(3, 12)
        vault.store_timestamps_seen(rows, given)
        assert (vault.timestamps_seen(rows) == given).all()
        assert vault.timestamp_seen(1) == tai64n.ZERO
    vault.store_timestamps_seen(rows[:1], np.full((1, 12), 0xFE, np.uint8))
    assert vault.timestamp_seen(5) > stamps[-1]
    assert not tai64n.later(vault.timestamps_seen(rows[:1]), vault.timestamps_seen(rows[:1])).any()
    vault.close()
    segment.close()


def test_a_secret_is_none_until_one_is_kept() -> None:
    """Zeros would be one that everybody knows. A successor finds the same."""
    memory = shm.segment.create_plain(4096)
    vault, successor = Vault(os.dup(memory.fd), 64), Vault(os.dup(memory.fd), 64)
    secret, private_key, public_key = (bytes([each]) * 32 for each in (1, 2, 3))

    def expect(*kept: object) -> None:
        for each in (vault, successor):
            assert (each.cookie_secret, each.private_key, each.public_key) == kept

    expect(None, None, None)
    vault.store_cookie_secret(secret, 7)
    expect((secret, 7), None, None)
    vault.store_private_key(private_key, public_key)
    expect((secret, 7), private_key, public_key)
    vault.store_private_key(None, None)
    expect((secret, 7), None, None)
    assert private_key not in bytes(successor.memory[:HEADER_BYTES]), "it is wiped"
    vault.close()
    successor.close()
    memory.close()


@pytest.mark.parametrize("field", ["magic", "max_peers"])
def test_a_vault_of_another_layout_is_refused(field: str) -> None:
    memory = shm.segment.create_plain(HEADER_BYTES + 64 * ROW_TYPE.itemsize)
    first = Vault(os.dup(memory.fd), 64)
    first.header[0][field] += 1
    first.close()
    with pytest.raises(ValueError, match="another layout"):
        Vault(os.dup(memory.fd), 64)
    memory.close()


def test_another_layout_of_the_vault_is_another_format_of_the_handover() -> None:
    """The layout hash is of the data segment alone. Change FORMAT with the vault, and leave out of READ what
    had the former one: else an upgrade has a control read a vault that it does not understand."""
    kinds = (vault.HEADER.descr, vault.ROW.descr, vault.INITIATION.descr)
    text = f"{kinds} {vault.PARKED_MOST} {vault.NAME_BYTES}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (handover.FORMAT, digest) == (4, "3f7a347c5ce7aa56")
