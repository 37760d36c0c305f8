"""Try deeds (confinement_deeds.py) behind walls, each in a process of its own.

    confinement_trials.py WALLS ROLE DIRECTORY
    confinement_trials.py refuse WALLS COMMAND ...

The first prints JSON: what came of each deed, "done", the name of an errno, or that of the signal that killed
its process. WALLS says which walls of workers/sandbox.c stand (`none`, `all`, or one of them alone: `filter`,
`landlock`, `capabilities`), ROLE for whom (`packets` or `control`). A wall that must not stand is one that
the kernel does not grant, because of an outer filter as containers have. The second is COMMAND where the
kernel grants those WALLS alone, or `nothing`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.workers import confinement_arguments
from tests.unit.workers.confinement_deeds import (
    CLONE_NEWNS,
    CLONE_NEWUTS,
    DEEDS,
    DONE,
    KILLED,
    Scene,
    by_number,
    call_all,
    libc,
    name_of,
    numbers,
)
from workers._workers import ffi, lib

EVERY_CAPABILITY = (1 << 64) - 1
BY_ARGUMENTS = "all that confinement_arguments.py has"
CAP_NET_ADMIN = 12
LANDLOCK_CREATE_RULESET, PR_SET_SECCOMP = 444, 22


def refuse(number: int, first: int | None, answer: int) -> None:
    """Have the kernel refuse a call (with this first argument) from now on, as a container would."""
    filters = [(0x20, 0, 0, 0), (0x15, 0, 1 if first is None else 3, number)]
    if first is not None:
        filters += [(0x20, 0, 0, 16), (0x15, 0, 1, first)]
    filters += [(0x06, 0, 0, 0x50000 | answer), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in filters))
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, 2, program) == 0


def refuse_all(walls: str) -> None:
    """The kernel grants these walls alone."""
    if walls == "nothing":
        refuse(numbers()["capset"], None, errno.EPERM)
    if walls in ("filter", "capabilities", "nothing"):
        refuse(LANDLOCK_CREATE_RULESET, None, errno.EOPNOTSUPP)
    if walls in ("landlock", "capabilities", "nothing"):
        refuse(numbers()["prctl"], PR_SET_SECCOMP, errno.EINVAL)


def stand_behind(walls: str, role: str, scene: Scene) -> int:
    """Let these walls stand around this process; what the kernel refused, as a mask."""
    if walls == "none":
        return 0
    refuse_all(walls)
    paths = [*filter(None, sys.path), scene.readable, scene.removable]
    texts = [ffi.new("char[]", os.fsencode(path)) for path in paths] if role == "control" else []
    readable, removable = texts[:-1], texts[-1:]
    lists = [ffi.new("char *[]", [*each, ffi.NULL]) for each in (readable, removable)]
    keep = {"all": 1 << CAP_NET_ADMIN, "capabilities": 0}.get(walls, EVERY_CAPABILITY)
    return int(lib.sandbox_enter(keep, *lists, role == "packets"))


def attempt(walls: str, role: str, scene: Scene, deed: Callable[[Scene], Any]) -> str:
    """In a process of its own, with mounts and names that nobody else sees."""
    scene.restore()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = DONE
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.setpgid(0, 0)
        assert libc.unshare(CLONE_NEWNS | CLONE_NEWUTS) == 0
        refused = stand_behind(walls, role, scene)
        try:
            told = deed(scene)
            answer = told if isinstance(told, str) else DONE
        except OSError as error:
            answer = name_of(error)
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, f"{refused} {answer}".encode())
        os._exit(0)
    os.close(writer)
    told = b""
    while piece := os.read(reader, 1 << 16):
        told += piece
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not told:
        return signal.Signals(-status).name if status < 0 else DONE  # by the program that took its place
    refused, answer = told.decode().split(" ", 1)
    expected = {"filter": 2, "landlock": 4, "capabilities": 6}.get(walls, 0)
    return answer if int(refused) == expected else f"{answer}, and sandbox_enter() returned {refused}"


def main() -> None:
    if sys.argv[1] == "refuse":
        refuse_all(sys.argv[2])
        os.execvp(sys.argv[3], sys.argv[3:])
    walls, role, directory = sys.argv[1:]
    assert libc.unshare(CLONE_NEWNS) == 0
    scene = Scene(Path(directory))
    client = socket.socket(socket.AF_UNIX)
    try:
        answers = {}
        for name, deed in DEEDS.items():
            if walls == "all" and getattr(deed, role) == KILLED:
                continue  # by the filter, which stands alone as well
            if name == "work: serve":
                client.connect(scene.listener.getsockname())
            answers[name] = attempt(walls, role, scene, deed.attempt)
        if walls == "filter":
            mortal = {name: number for name, (number, answer) in by_number().items() if answer == KILLED}
            others = {name: number for name, (number, answer) in by_number().items() if answer != KILLED}
            for name, number in mortal.items():
                answers[name] = attempt(walls, role, scene, functools.partial(call_all, {name: number}))
            answers |= json.loads(attempt(walls, role, scene, functools.partial(call_all, others)))
            by_arguments = functools.partial(confinement_arguments.differences, role)
            answers[BY_ARGUMENTS] = attempt(walls, role, scene, by_arguments)
        print(json.dumps(answers))
    finally:
        scene.close()


if __name__ == "__main__":
    main()
