"""Who is in a namespace. One that is gone leaves its number to the next new one, so it is kept meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Self


class KeptNamespaces:
    """Namespaces of one kind (`pid`, `user`, …) by number, which is no other's until `close`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.numbers: set[int] = set()
        self._kept: list[int] = []

    def keep(self, pid: int | str) -> None:
        """Also the namespace of this process. OSError when the process is gone."""
        fd = os.open(f"/proc/{pid}/ns/{self.kind}", os.O_RDONLY | os.O_CLOEXEC)
        number = os.fstat(fd).st_ino
        if number in self.numbers:
            os.close(fd)
        else:
            self.numbers.add(number)
            self._kept.append(fd)

    def processes(self) -> dict[int, int]:
        """The pids of processes in them now, each with the number of its namespace."""
        found = {}
        for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
            with suppress(OSError):  # it ended meanwhile
                if (number := os.stat(f"/proc/{pid}/ns/{self.kind}").st_ino) in self.numbers:
                    found[pid] = number
        return found

    def close(self) -> None:
        while self._kept:
            os.close(self._kept.pop())
        self.numbers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
