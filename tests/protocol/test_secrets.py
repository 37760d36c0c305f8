"""Where keys are while they are of use, and that they are nowhere afterwards.

Looked for, byte by byte: in both shared segments, through the supervisor's descriptors; in the private
memory of all receivers and consumers. Not in control's: what its Python heap held can not be wiped
with certainty, and docs/reliability.md says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Lab, descriptors, read_proc
from tests.support.fake_peer import FakePeer, Network
from tests.support.waiting import until
from workers._workers import ffi, lib
from workers.providers import PROVIDERS


def is_segment(path: str) -> bool:
    return path.startswith("/dev/shm/") and path.endswith("(deleted)")


def data_of(fd: int) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each piece of a sparse file."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # nothing but holes from here on
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, os.pread(fd, end - at, at)
        at = end


@contextlib.contextmanager
def opened_segments(network: Network) -> Iterator[dict[str, int]]:
    """The two segments by their paths, open to be read, also when the engine is no more."""
    supervisor = network.plait.titles()["supervisor"]
    theirs = {path: fd for fd, path in descriptors(supervisor).items() if is_segment(path)}
    assert len(theirs) == 2
    with contextlib.ExitStack() as stack:
        ours = {}
        for path, fd in theirs.items():
            ours[path] = os.open(f"/proc/{supervisor}/fd/{fd}", os.O_RDONLY)
            stack.callback(os.close, ours[path])
        yield ours


def in_segments(network: Network, secret: bytes) -> list[tuple[str, int]]:
    """(segment, offset) of each copy in the two segments."""
    with opened_segments(network) as segments:
        return [(path, at + data.find(secret)) for path, fd in segments.items()
                for at, data in data_of(fd) if secret in data]


def maps(pid: int) -> list[tuple[int, int, str, int, str]]:
    """First and last address, permissions, offset in the file, path. Nothing of a process that has gone."""
    found = []
    for line in (read_proc(pid, "maps") or "").splitlines():
        addresses, permissions, offset, _, _, *path = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in addresses.split("-"))
        found.append((first, last, permissions, int(offset, 16), path[0] if path else ""))
    return found


def reaches(pid: int, segment: str, offset: int) -> bool:
    """Whether the process has this byte of a segment in its memory."""
    return any(path == segment and place <= offset < place + last - first and permissions[0] == "r"
               for first, last, permissions, place, path in maps(pid))


def flags_at(pid: int, segment: str, offset: int) -> list[set[str]]:
    """VmFlags (proc(5)) of each mapping of a process that has this byte of a segment."""
    found, is_here = [], False
    for line in (read_proc(pid, "smaps") or "").splitlines():
        if line.startswith("VmFlags:"):
            found += [set(line.split()[1:])] * is_here
        elif "-" in line.split()[0]:
            addresses, _, place, _, _, *path = line.split(maxsplit=5)
            first, last = (int(number, 16) for number in addresses.split("-"))
            is_here = path == [segment] and 0 <= offset - int(place, 16) < last - first
    return found


def in_private_memory(pid: int, secret: bytes) -> list[str]:
    """The mappings of a process, segments left out, that have a copy."""
    found = []
    for first, last, permissions, _, path in maps(pid):
        if permissions.startswith("rw") and not is_segment(path) and path not in ("[vvar]", "[vsyscall]"):
            # A worker that starts maps and unmaps; the pages of one that ended are nobody's.
            with contextlib.suppress(OSError), open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(first)
                if secret in memory.read(last - first):
                    found.append(path or "anonymous")
    return found


def copies(network: Network, secret: bytes) -> list[tuple[str, object]]:
    """All copies that there must not be when the secret has had its time."""
    found: list[tuple[str, object]] = list(in_segments(network, secret))
    for title, pid in network.plait.titles().items():
        if title not in ("supervisor", "control"):
            found += [(title, where) for where in in_private_memory(pid, secret)]
    return found


def assert_gone(network: Network, secret: bytes) -> None:
    """Soon: grace periods and a late turn of a consumer may take a few seconds."""
    until(lambda: not copies(network, secret), "the end of every copy")


def session_keys(network: Network) -> tuple[FakePeer, list[bytes]]:
    """A peer with a session that has carried packets both ways, and its two keys."""
    peer = FakePeer(network)
    peer.initiate()
    peer.send(peer.packet(b"in"))
    with network.inner_socket(peer.inner4) as inner:
        inner.send(b"out")
        peer.hear(4)
    assert peer.session is not None
    return peer, [peer.session.send_key, peer.session.receive_key]


def test_receivers_that_do_not_lend_have_no_session_keys() -> None:
    with Lab() as lab:
        network = Network(lab, settings='handoff = "pipeline"\n')
        _, keys = session_keys(network)
        for key in keys:
            (place,) = in_segments(network, key)
            seen = {title: reaches(pid, *place) for title, pid in network.plait.titles().items()}
            have = {title.split()[0] for title, sees in seen.items() if sees}
            assert have == {"supervisor", "control", "consumer"}
            assert {title.split()[0] for title, sees in seen.items() if not sees} >= {"receiver"}


def test_a_removed_peer_leaves_no_key(network: Network) -> None:
    peer, keys = session_keys(network)
    preshared = os.urandom(32)
    name = f"public_key={peer.identity.public_key.hex()}\n"
    network.set(f"{name}preshared_key={preshared.hex()}\n")
    secret = network.identity.static_static(peer.identity.public_key)
    assert all(in_segments(network, key) for key in (*keys, preshared, secret))
    network.set(f"{name}remove=true\n")
    for key in (*keys, preshared, secret):
        assert_gone(network, key)


@pytest.mark.parametrize("handoff", ["pipeline", "inline"])
@pytest.mark.parametrize("aead", sorted(PROVIDERS))
def test_no_provider_leaves_a_key(aead: str, handoff: str) -> None:
    if lib.aead_new(PROVIDERS[aead]) == ffi.NULL:
        pytest.skip(f"{aead} is not here")
    with Lab() as lab:
        network = Network(lab, settings=f'handoff = "{handoff}"\naead = "{aead}"\n')
        peer, keys = session_keys(network)
        network.set(f"public_key={peer.identity.public_key.hex()}\nremove=true\n")
        for key in keys:
            assert_gone(network, key)


def test_an_expired_session_leaves_no_key(network: Network) -> None:
    peer, keys = session_keys(network)
    network.step(541)  # three times the age at which it is refused: everything is wiped (kernel: timers.c)
    for key in keys:
        assert_gone(network, key)
    peer.socket.close()


def test_keys_are_locked_in_memory_and_in_no_core_file(network: Network) -> None:
    """A page is locked for as long as one process has it locked; each keeps it out of its own core file."""
    peer, keys = session_keys(network)
    preshared = os.urandom(32)
    network.set(f"public_key={peer.identity.public_key.hex()}\npreshared_key={preshared.hex()}\n")
    for secret in (*keys, preshared, network.identity.private_key):
        (place,) = in_segments(network, secret)
        pids = network.plait.titles()
        flags = {title: each for title, pid in pids.items() for each in flags_at(pid, *place)}
        assert "control" in flags and all("dd" in each for each in flags.values()), flags
        assert any("lo" in each for each in flags.values()), flags


def test_an_end_in_order_overwrites_both_segments() -> None:
    with Lab() as lab:
        network = Network(lab)
        peer, keys = session_keys(network)
        preshared = os.urandom(32)
        network.set(f"public_key={peer.identity.public_key.hex()}\npreshared_key={preshared.hex()}\n")
        secrets = (*keys, preshared, network.identity.private_key)
        assert all(in_segments(network, secret) for secret in secrets)
        with opened_segments(network) as segments:
            assert network.engine.stop() == 0
            for path, fd in segments.items():
                assert not [at for at, data in data_of(fd) if data.strip(b"\0")], path


def test_a_changed_private_key_is_gone(network: Network) -> None:
    old = network.identity.private_key
    assert in_segments(network, old)
    network.set(f"private_key={os.urandom(32).hex()}\n")
    assert_gone(network, old)
