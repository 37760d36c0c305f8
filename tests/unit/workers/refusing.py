"""Run a program whose kernel refuses system calls: `refusing.py CALL[,ARGUMENT=VALUE…]:ERRNO … -- COMMAND…`.

As in a container with a strict filter, or on a kernel that is older or built without something. CALL is the
name in <sys/syscall.h>; each ARGUMENT, counted from 0, must have that VALUE (lower half) for the call to be
refused. The filter is made by hand and set before exec, so that the program itself knows nothing of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from functools import cache

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
RETURN_ERRNO, RETURN_ALLOW = 0x00050000, 0x7FFF0000
# BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06


@cache
def numbers() -> dict[str, int]:
    """The numbers of this machine's system calls, as the C compiler knows them."""
    command = ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", os.devnull]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = (line.split() for line in text.splitlines() if line.startswith("#define __NR_"))
    return {name.removeprefix("__NR_"): int(value) for _, name, value in words if value.isdigit()}


def program(refusal: str) -> bytes:
    """Instructions (struct sock_filter) that refuse this and allow the rest."""
    what, _, code = refusal.partition(":")
    call, *arguments = what.split(",")
    checks = [(0, numbers()[call])]  # offsets in struct seccomp_data; arguments begin at 16
    for argument in arguments:
        place, _, value = argument.partition("=")
        checks.append((16 + 8 * int(place), int(value, 0)))
    instructions = []
    for at, (offset, value) in enumerate(checks):
        instructions.append(struct.pack("HBBI", LOAD, 0, 0, offset))
        instructions.append(struct.pack("HBBI", JUMP_EQUAL, 0, 2 * (len(checks) - at) - 1, value))
    instructions.append(struct.pack("HBBI", RETURN, 0, 0, RETURN_ERRNO | getattr(errno, code)))
    instructions.append(struct.pack("HBBI", RETURN, 0, 0, RETURN_ALLOW))
    return b"".join(instructions)


def refuse(refusal: str) -> None:
    """From now on, in this process and all that it becomes or starts."""
    code = ctypes.create_string_buffer(program(refusal))
    packed = ctypes.create_string_buffer(struct.pack("HP", (len(code) - 1) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, packed, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    end = sys.argv.index("--")
    for refusal in sys.argv[1:end]:
        refuse(refusal)
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
