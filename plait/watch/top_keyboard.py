"""Single keys from a terminal: no Enter, no echo, and the terminal as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator

# What terminals send for keys without a character (xterm's; others send the same for these).
_SEQUENCES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down",
              b"\x1b[5~": "page up", b"\x1b[6~": "page down"}  # fmt: skip
_NAMES = {b"\x1b": "escape", b"\r": "enter", b"\n": "enter", b"\x7f": "delete", b"\x08": "delete",
          b"\t": "tab", b"\x04": "q"}  # fmt: skip


class Keys:
    """Standard input as keys. Ends (`ended`) when the terminal is gone."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno()
        self.ended = False

    def wait(self, seconds: float) -> Iterator[str]:
        """Keys that come within seconds, as soon as there are any: characters, or names such as `enter`."""
        if self.ended:
            return
        ready, _, _ = select.select([self.fd], [], [], max(seconds, 0))
        if not ready:
            return
        data = os.read(self.fd, 1024)
        self.ended = not data
        yield from split(data)


def split(data: bytes) -> Iterator[str]:
    """The keys in what one read gave."""
    while data:
        sequence = next((each for each in _SEQUENCES if data.startswith(each)), None)
        if sequence:
            yield _SEQUENCES[sequence]
            data = data[len(sequence) :]
        elif data[:2] in (b"\x1b[", b"\x1bO"):  # one that means nothing here: up to its final byte
            end = next((i for i in range(2, len(data)) if 0x40 <= data[i] <= 0x7E), len(data) - 1)
            data = data[end + 1 :]
        elif data[:1] in _NAMES:
            yield _NAMES[data[:1]]
            data = data[1:]
        else:
            character = data[:1].decode("ascii", "ignore")
            if character.isprintable() and character:
                yield character
            data = data[1:]


@contextlib.contextmanager
def single_keys() -> Iterator[Keys]:
    """Standard input, a terminal, key by key. Ctrl-C and Ctrl-Z do what they always do."""
    keys = Keys()
    before = termios.tcgetattr(keys.fd)
    try:
        tty.setcbreak(keys.fd, termios.TCSANOW)
        yield keys
    finally:
        termios.tcsetattr(keys.fd, termios.TCSANOW, before)
