"""Which version a program is: what it says of itself.

Go's build information in its file, else its --version. The newest wireguard-go shows why in that order: its
--version is a constant that releases forget to change.
"""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Iterator, Sequence

UNKNOWN = "of unknown version"
# debug/buildinfo of Go: a header of 32 bytes at a multiple of 16, then, when flag 2 is set, two strings, each
# after its length: Go's version, and the module information between two marks of 16 bytes.
GO_MAGIC = b"\xff Go buildinf:"
GO_HEADER, GO_ALIGNMENT, GO_FLAGS, GO_INLINE, GO_MARK = 32, 16, 15, 2, 16


def program_version(program: str) -> str:
    """What Go's build information says, else --version, else the Debian package, else UNKNOWN."""
    if version := go_build(program).get("version"):
        return version
    said = output_of([program, "--version"]).splitlines()
    for word in said[0].split() if said else ():
        digits = word.lstrip("v")
        if digits[:1].isdigit() and "." in digits:
            return digits.rstrip(",;")
    package = package_of(program)
    packaged = output_of(["dpkg-query", "-W", "-f", "${Version}", package]) if package else ""
    return packaged or UNKNOWN


def go_build(program: str) -> dict[str, str]:
    """`path` of the main package and `version` of its module, as Go wrote both into the program.

    What is not there is left out: Debian builds without a version, and what is no Go program has neither.
    """
    try:
        with open(program, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return next(_go_builds(data), {})
    except (OSError, ValueError):  # ValueError: the file is empty
        return {}


def _go_builds(data: mmap.mmap) -> Iterator[dict[str, str]]:
    at = -1
    while (at := data.find(GO_MAGIC, at + 1)) >= 0:
        flags = int.from_bytes(data[at + GO_FLAGS : at + GO_FLAGS + 1])
        if at % GO_ALIGNMENT or not flags & GO_INLINE:
            continue  # a program that reads others' has the same bytes in its own code
        _, end = _go_string(data, at + GO_HEADER)
        lines, _ = _go_string(data, end)
        found = {}
        for line in lines[GO_MARK:-GO_MARK].decode(errors="replace").splitlines():
            kind, *words = line.split("\t")
            if kind == "path" and words:
                found["path"] = words[0]
            elif kind == "mod" and len(words) > 1 and words[1] not in ("", "(devel)"):
                found["version"] = words[1].removeprefix("v")
        yield found


def _go_string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    """A string after its length, which has seven bits a byte, lowest first; and where the string ends."""
    length = shift = 0
    while True:
        byte = data[at : at + 1]
        if not byte:
            return b"", at
        length |= (byte[0] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte[0] < 0x80:
            return data[at : at + length], at + length


def package_of(program: str) -> str:
    """The Debian package that a file is of; empty when it is of none."""
    return output_of(["dpkg-query", "-S", program]).partition(":")[0]


def output_of(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
