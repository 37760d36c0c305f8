"""What an engine takes, what a host has, and what is said where the one is more than the other."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from plait.lab.namespaces import Host, Lab
from tests.support.waiting import until
from workers.failure import explain
from workers.settings import MAX_PEERS, Settings, geometry, load
from workers.supervisor import room

MAXIMA = """
receivers = 256
consumers = 256
max_peers = 1048576
sessions = 2097152
small_slots = 32767
train_slots = 4096
"""

ONE_OF_EACH = {"receivers": 1, "consumers": 1, "max_receivers": 1, "max_consumers": 1}


def test_the_default_is_as_many_peers_as_the_kernel_module_takes() -> None:
    settings = load("wg0", {"PLAIT_CONFIG": ""}, frozenset({0, 1}))
    assert settings.max_peers == MAX_PEERS == 1 << 20
    assert geometry(settings)["max_keypairs"] == 2 * MAX_PEERS
    assert room.need(settings).shm < 32 << 20  # of the 64 MiB that a container has


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 2000 kB\nMemAvailable:    1000000 kB\nSwapFree:   24 kB\n"


def test_the_narrowest_limit_of_version_2_counts(tmp_path: Path) -> None:
    """A parent's, and what is cached for reading again is free."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
        "cg/a/b/memory.max": "max\n",
        "cg/a/b/memory.current": "5\n",
        "cg/a/memory.max": "104857600\n",
        "cg/a/memory.current": "60000000\n",
        "cg/a/memory.stat": "anon 1\ninactive_file 142400\n",
    }
    first, second = room.memory_limits(tree(tmp_path, files) / "proc", tmp_path)
    assert (first.what, first.left) == ("the memory cgroup /a (100 MiB)", 45_000_000)
    assert second.left == 1_000_024 << 10


def test_a_limit_of_version_1_as_a_container_sees_it(tmp_path: Path) -> None:
    """What is mounted is its own group, which /proc names by its path outside."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:memory:/docker/4711\n3:cpu:/docker/4711\n0::/\n",
        "proc/self/mountinfo": "31 23 0:27 /docker/4711 /cg/memory ro shared:1 - cgroup cgroup rw,memory\n",
        "cg/memory/memory.limit_in_bytes": "67108864\n",
        "cg/memory/memory.usage_in_bytes": "7108864\n",
    }
    assert room.memory_limits(tree(tmp_path, files) / "proc", tmp_path)[0].left == 60_000_000
    (tmp_path / "cg/memory/memory.limit_in_bytes").write_text(f"{0x7FFFFFFFFFFFF000}\n")
    assert [limit.what for limit in room.memory_limits(tmp_path / "proc", tmp_path)] == ["this host"]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A container's 64 MiB of /dev/shm."""
    with Lab() as lab:
        yield lab.host("a", shm_bytes=64 << 20)


@pytest.mark.network
def test_a_default_on_many_cores_fits_a_small_dev_shm(host: Host) -> None:
    script = (
        "from workers.supervisor import room; from workers.settings import Settings\n"
        "found = room.fitted(Settings(receivers=16, consumers=16, cores=tuple(range(16))))\n"
        "print(found.receivers, found.consumers, room.need(found).shm)"
    )
    receivers, consumers, shm = map(int, host.run([sys.executable, "-c", script]).stdout.split())
    assert 1 < receivers < 16 and consumers == 16
    assert shm <= 48 << 20  # a quarter is left for peers


@pytest.mark.network
def test_settings_at_their_maxima_are_refused_before_anything_is_taken(host: Host) -> None:
    engine = host.engine(settings=MAXIMA, wait=False)
    assert engine.process.wait() == 8
    output = engine.process.output()
    said = re.search(r"wg0 takes (\d+) MiB of /dev/shm at its start, (\d+) MiB of memory in all", output)
    assert said and 20_000 < int(said[1]) < int(said[2])
    assert f"its start takes {said[1]} MiB of /dev/shm, which has 64 MiB free" in output.splitlines()[-1]
    assert "small_slots" in output.splitlines()[-1]
    assert os.statvfs(host.root / "dev/shm").f_bavail * os.statvfs(host.root / "dev/shm").f_frsize == 64 << 20


@pytest.mark.network
def test_a_start_takes_what_it_said_and_no_more(host: Host) -> None:
    engine = host.engine()
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    said = re.search(r"takes (\d+) MiB of /dev/shm", engine.process.output())
    status = os.statvfs(host.root / "dev/shm")
    taken = (status.f_blocks - status.f_bfree) * status.f_frsize
    assert said and taken <= int(said[1]) << 20 < taken + (2 << 20)
    assert engine.stop() == 0


@pytest.mark.network
def test_too_few_open_files_are_said_by_plaitd_and_by_doctor(host: Host) -> None:
    limited = ["prlimit", "--nofile=32:32"]
    refused = host.run([*limited, "plaitd", "-f", "wg0"], check=False)
    assert refused.returncode == 8 and "the limit is 32 open files for a process" in refused.stderr
    doctor = host.run([*limited, "plait", "doctor"], check=False)
    assert doctor.returncode == 1 and re.search(r"MISSING +open files +up to 32 for a process", doctor.stdout)
    # Nothing in the settings makes 32 enough, so none is named there; one of each needs a little more.
    assert "raise it (ulimit -n 1024 as root" in refused.stderr and "max_receivers" not in refused.stderr
    least = room.need(Settings(**ONE_OF_EACH, cores=(0,))).files
    between = host.run(["prlimit", f"--nofile={least}:{least}", "plaitd", "-f", "wg0"], check=False)
    assert "or set receivers, consumers, max_receivers and max_consumers lower" in between.stderr
    engine = host.engine(
        command=("prlimit", f"--nofile={least}:{least}", "plaitd", "-f", "{iface}"),
        settings="".join(f"{key} = {value}\n" for key, value in ONE_OF_EACH.items()),
    )
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    assert engine.wg("show", "interfaces") == "wg0\n"
    assert engine.stop() == 0
    # A soft limit is raised.
    engine = host.engine(command=("prlimit", "--nofile=32:1024", "plaitd", "-f", "{iface}"))
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    assert engine.stop() == 0


@pytest.mark.network
def test_a_small_stack_is_raised_or_refused(host: Host) -> None:
    """128 KiB, of which a receiver died with a batch of packets in hand."""
    engine = host.engine(command=("prlimit", "--stack=131072:8388608", "plaitd", "-f", "{iface}"))
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    for title, pid in host.titles().items():
        assert resource.prlimit(pid, resource.RLIMIT_STACK)[0] >= room.STACK_LEAST, title
    assert engine.stop() == 0
    dropped = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
    limited = ("prlimit", "--stack=131072:131072", *dropped)
    refused = host.run([*limited, "plaitd", "-f", "wg0"], check=False)
    assert refused.returncode == 8 and "the limit is 128 KiB for a process" in refused.stderr
    doctor = host.run([*limited, "plait", "doctor"], check=False)
    assert doctor.returncode == 1 and re.search(r"MISSING +stack +the limit is 128 KiB", doctor.stdout)


@pytest.mark.network
def test_a_key_that_cannot_be_locked_is_said(host: Host) -> None:
    """As in a container: 64 KiB, and no CAP_IPC_LOCK."""
    dropped = ("setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock")
    prefix = ("prlimit", "--memlock=65536", *dropped)
    engine = host.engine(command=(*prefix, "plaitd", "-f", "{iface}"))
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    assert "swapped out" not in engine.process.output()  # the vault's first page fits
    engine.wg("set", "wg0", "peer", "A" * 42 + "E=", "allowed-ips", "10.0.0.0/24")
    words = "keys in shared memory are never swapped out"
    until(lambda: words in engine.process.output(), "the log says it")
    assert "a limit of 64 KiB on locked memory" in engine.process.output()
    until(lambda: words in host.run(["plait", "show", "--engine"]).stdout, "show --engine says it")
    doctor = host.run([*prefix, "plait", "doctor"], check=False).stdout
    assert re.search(rf"advice +promise locked +does not hold here: {words}", doctor)
    assert engine.stop() == 0


def test_need_grows_with_every_setting_that_takes_memory() -> None:
    few = Settings(receivers=1, consumers=1, cores=(0,), max_receivers=4)
    for more in ({"receivers": 2}, {"consumers": 2}, {"small_slots": 4096}, {"train_slots": 44}):
        many = msgspec.structs.replace(few, **more)
        assert room.need(many).total > room.need(few).total


@pytest.mark.network
@pytest.mark.parametrize(
    ("limit", "why", "mend"),
    [
        ("--fsize=1000000", "it is larger than the limit on the size of files", "ulimit -f"),
        ("--as=1000000000", "in the address space", "ulimit -v"),
    ],
)
def test_a_limit_that_is_not_of_dev_shm_is_called_by_its_name(
    host: Host, limit: str, why: str, mend: str
) -> None:
    refused = host.run(["prlimit", limit, "plaitd", "-f", "wg0"], check=False)
    words = refused.stderr.splitlines()[-1]
    assert refused.returncode == 8 and why in words and mend in words
    assert "/dev/shm" not in words and "Errno" not in words


def test_an_allocation_that_fails_is_said_in_words() -> None:
    """tests/interop/test_looking.py starts a worker short of memory, whose allocator may have enough."""
    why, next_step = explain(MemoryError())
    assert why == "no memory is left for it" and "raise the limits on memory" in next_step


@pytest.mark.network
def test_a_host_without_proc_is_told_what_cannot_be_kept(host: Host) -> None:
    hidden = ("unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec plaitd -f {iface}")
    engine = host.engine(command=hidden)
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    output = engine.process.output()
    mend = "there is no /proc to look at; mount it (mount -t proc proc /proc)"
    assert f"the kernel kills workers before the supervisor: {mend}" in output
    assert f"no thread of a worker is outside its sandbox: {mend}" in output
    assert "CONFIG_SECCOMP_FILTER" not in output, "seccomp works without /proc"
    assert engine.stop() == 0
