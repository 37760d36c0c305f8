"""What is computed before the clock starts: on all cores, right, and kept for the next run."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from plait.load import profile as load_profile
from plait.load import run as load_run
from plait.load._generator import ffi, lib
from plait.load.process import STEPS, _on_all_cores, bound_socket
from plait.load.progress import Screen
from plait.load.secrets_file import DIGEST, PART, PART_SECONDS, PEERS_LEAST, SecretsFile
from tests.unit.plait.load.gateway import Gateway, derived, private_key, public_key

SEED = "tests"
SEED_BYTES = hashlib.blake2s(SEED.encode()).digest()


@pytest.mark.parametrize("count", [0, 1, STEPS, 10 * STEPS + 1])
def test_each_is_computed_once_and_by_each_core(count: int) -> None:
    """A thread on each core, with all of them at work at once where there are parts enough."""
    area, done, cores = ffi.new("struct load_area *"), [], sorted(os.sched_getaffinity(0))
    at_once = threading.Barrier(len(cores) if count > STEPS * len(cores) else 1)

    def work(first: int, n: int) -> int:
        if first < STEPS * len(cores):
            at_once.wait(30)
        done.append((first, n, os.sched_getaffinity(0)))
        return 0

    _on_all_cores(work, count, cores, area, lambda: False)
    assert sorted(number for first, n, _ in done for number in range(first, first + n)) == list(range(count))
    assert area.steps == count
    if count > STEPS * len(cores):
        assert set().union(*(on for _, _, on in done)) == set(cores) and all(
            len(on) == 1 for _, _, on in done
        )
    assert sorted(os.sched_getaffinity(0)) == cores  # of this thread


def test_without_memory_it_ends() -> None:
    area = ffi.new("struct load_area *")
    with pytest.raises(MemoryError):
        _on_all_cores(lambda first, n: -1, 1000, sorted(os.sched_getaffinity(0)), area, lambda: False)


def test_secrets_are_those_of_the_seed() -> None:
    """Ranges in any order; they go to memory and back."""
    gateway_private = ffi.new("uint8_t[]", 32)
    lib.load_gateway_key(SEED_BYTES, gateway_private)
    gateway = public_key(bytes(gateway_private))
    loads, area = [], ffi.new("struct load_area *")
    setup = {
        "seed": SEED_BYTES,
        "gateway_key": gateway,
        "family": 2,
        "port": 9,
        "first_peer": 40,
        "peers": 7,
        "ports": 1,
    }
    sockets = [bound_socket(2) for _ in range(2)]
    try:
        for _ in range(2):
            given = ffi.new("struct load_setup *", setup)
            loads.append(lib.load_new(given, [each.fileno() for each in sockets], area))
            assert loads[-1] != ffi.NULL
        for first, count in ((5, 2), (0, 5)):
            assert lib.load_prepare_peers(loads[0], first, count) == 0
        secrets = [ffi.new("uint8_t[]", 64 * 7) for _ in range(2)]
        lib.load_secrets_read(loads[0], secrets[0])
        lib.load_secrets_write(loads[1], secrets[0])
        lib.load_secrets_read(loads[1], secrets[1])
    finally:
        for load in loads:
            lib.load_free(load)
        for each in sockets:
            each.close()
    found = bytes(ffi.buffer(secrets[0]))
    assert found == bytes(ffi.buffer(secrets[1]))
    assert [found[64 * at : 64 * at + 32] for at in range(7)] == [
        public_key(private_key(SEED, 40 + at)) for at in range(7)
    ]
    assert (
        derived(SEED, b"gateway-", 0) != bytes(32)
        and len({found[64 * at + 32 : 64 * at + 64] for at in range(7)}) == 7
    )


def test_secrets_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is whole is believed; any other is computed once more."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    phase = {"name": "storm", "handshakes": {"outstanding": 4, "count": 4}, "drain": 20}

    def confirmed() -> int:
        with Gateway(SEED, 4) as gateway:
            given = {
                "phase": [{**phase, "seconds": 1.0}],
                "peers": PEERS_LEAST,
                "target": gateway.target,
                "seed": SEED,
            }
            run = load_run.execute(
                load_profile.of_options(given), load_run.default_cores(), [], Screen()
            )
        assert (run.static_static, run.ephemerals) == (PEERS_LEAST, 4)
        return run.phases[0].counters["handshakes"]

    assert confirmed() == 4
    (file,) = (tmp_path / "plait/load").iterdir()
    whole = file.read_bytes()
    assert len(whole) == DIGEST + 64 * PEERS_LEAST and file.stat().st_mode & 0o777 == 0o600
    # Peer 0 with another's secret, and a digest that fits: the gateway knows no such peer.
    other = whole[DIGEST + 64 * 100 : DIGEST + 64 * 101] + whole[DIGEST + 64 :]
    file.write_bytes(hashlib.blake2s(other).digest() + other)
    assert confirmed() == 3
    for bad in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(bad)
        assert SecretsFile(str(file.parent), file.stem, 64 * PEERS_LEAST).read() is None
    assert confirmed() == 4 and file.read_bytes() == whole


def test_old_secrets_go_and_a_folder_that_is_none_hurts_nobody(tmp_path: Path) -> None:
    """The bytes count, not the files: processes of one run have a small one each."""
    size = 64 * PEERS_LEAST
    for number in range(12):
        SecretsFile(str(tmp_path), f"{number:02}", size).write(bytes(size))
        os.utime(tmp_path / f"{number:02}.secrets", (number, number))
    assert len(list(tmp_path.iterdir())) == 12
    # What a process was writing when it was killed, and what one writes now.
    for name, age in (("old", PART_SECONDS + 60), ("new", 0)):
        (tmp_path / f"{name}{PART}").write_text("half")
        os.utime(tmp_path / f"{name}{PART}", (time.time() - age,) * 2)
    SecretsFile(str(tmp_path), "last", size, 8 * (DIGEST + size)).write(bytes(size))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{number:02}.secrets" for number in range(5, 12)), "last.secrets", f"new{PART}",
    ]  # fmt: skip
    (tmp_path / "a file").write_text("")
    nowhere = SecretsFile(str(tmp_path / "a file"), "x", size)
    nowhere.write(bytes(size))
    assert nowhere.read() is None
    few = SecretsFile(str(tmp_path / "few"), "x", 64)
    few.write(bytes(64))
    assert few.read() is None and not (tmp_path / "few").exists()
