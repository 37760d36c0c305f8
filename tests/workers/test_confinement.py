"""What a worker can not do any more when it has begun to work.

The walls are tried from inside, in a process of its own that gives everything up, and looked at from
outside, at each process of a running engine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from plait.lab import Lab, read_proc

pytestmark = pytest.mark.network

CAP_NET_ADMIN = 12
SETTINGS = "receivers = 2\nconsumers = 2\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"

# argv: a directory whose files may be read, one whose files may be removed, 1 for packets. Prints a
# line for each deed: its name and "done" or the errno.
TRIALS = """
import ctypes, mmap, os, socket, sys
from workers._workers import ffi, lib
readable, removable, packets = sys.argv[1], sys.argv[2], int(sys.argv[3])
keep = []
def array(path):
    keep.append(ffi.new("char[]", path.encode()))
    keep.append(ffi.new("char *[]", [keep[-1], ffi.NULL]))
    return keep[-1]
libc = ctypes.CDLL(None, use_errno=True)
reader, writer = os.pipe()
a, b = socket.socketpair()
print("refused", lib.confine(0, array(readable), array(removable), packets))
def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
def execute():
    libc.execve(b"/bin/true", None, None)
    raise OSError(ctypes.get_errno(), "")
deeds = {
    "read elsewhere": lambda: open("/etc/hostname").close(),
    "read there": lambda: open(readable + "/file").close(),
    "write there": lambda: open(readable + "/new", "w").close(),
    "remove there": lambda: os.unlink(removable + "/file"),
    "remove elsewhere": lambda: os.unlink(readable + "/file"),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "fork": lambda: os.fork() or os._exit(0),
    "execute": execute,
    "signal": lambda: os.kill(os.getpid(), 0),
    "executable memory": executable_memory,
    "memory": lambda: mmap.mmap(-1, 4096).close(),
    "work": lambda: (os.write(writer, b"x"), os.read(reader, 1), a.sendmsg([b"y"]), b.recvmsg(1)),
    "name the host": lambda: socket.sethostname("other"),
}
for name, deed in deeds.items():
    try:
        deed()
        print(name, "done", sep=": ")
    except OSError as error:
        print(name, error.errno, sep=": ")
"""

PACKETS = {
    "read elsewhere": "1", "read there": "1", "write there": "1", "remove there": "1",
    "remove elsewhere": "1", "socket": "1", "fork": "1", "execute": "1", "signal": "1",
    "executable memory": "1", "memory": "done", "work": "done", "name the host": "1",
}  # fmt: skip
CONTROL = {
    "read elsewhere": "13", "read there": "done", "write there": "13", "remove there": "done",
    "remove elsewhere": "13", "socket": "done", "fork": "done", "execute": "1", "signal": "1",
    "executable memory": "done", "memory": "done", "work": "done", "name the host": "1",
}  # fmt: skip


@pytest.mark.parametrize(("packets", "expected"), [(1, PACKETS), (0, CONTROL)], ids=["packets", "control"])
def test_walls_from_inside(tmp_path: Path, packets: int, expected: dict[str, str]) -> None:
    for name in ("readable", "removable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    arguments = [str(tmp_path / "readable"), str(tmp_path / "removable"), str(packets)]
    done = subprocess.run(
        [sys.executable, "-c", TRIALS, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    first, *lines = done.stdout.splitlines()
    assert first == "refused 0"
    assert dict(line.split(": ") for line in lines) == expected


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, dict[str, str]]]:
    """/proc/PID/status of a running engine, by title."""
    with Lab() as lab:
        host = lab.host("one")
        engine = host.engine("wg0", settings=SETTINGS)
        until(lambda: "wg0 is ready" in engine.process.output(), "every worker, confined")
        found = {}
        for title, pid in host.titles().items():
            lines = (read_proc(pid, "status") or "").splitlines()
            found[title] = dict(line.split(":\t", 1) for line in lines)
        yield found


@pytest.mark.parametrize("title", ["control", "receiver 0", "receiver 1", "consumer 0", "consumer 1"])
def test_walls_from_outside(processes: dict[str, dict[str, str]], title: str) -> None:
    status = processes[title]
    expected = 1 << CAP_NET_ADMIN if title == "control" else 0
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == expected, name
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # a filter
    assert int(status["Threads"]) == 1
