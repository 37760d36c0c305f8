"""A line that is refused: what is wrong with it, and the line as it may be logged."""

from __future__ import annotations

import errno
import re
from typing import Final

from engine.uapi.keys import DEVICE_KEYS, PEER_KEYS

_SECRETISH: Final = re.compile(r"[0-9a-fA-F]{32,}|[0-9A-Za-z+/]{40,}=*")


class Bad(Exception):
    """What a value or a line is refused for, before its number is known."""

    def __init__(self, what: str, why: str, next_step: str, code: int = errno.EINVAL) -> None:
        super().__init__(what)
        self.what, self.why, self.next, self.code = what, why, next_step, code


class UapiError(ValueError):
    """A line that is refused: where, what, why, and what to do; `errno` is positive.

    `line` is safe to log: secrets in it are replaced.
    """

    def __init__(self, line_number: int, line: str, code: int, what: str, why: str, next_step: str) -> None:
        super().__init__(f"line {line_number} ({line}): {what}: {why}; {next_step}")
        self.line_number = line_number
        self.line = line
        self.errno = code
        self.what = what
        self.why = why
        self.next = next_step


def mask(raw: bytes) -> str:
    """A line as it may be logged: what could be a secret is hidden, what is long is cut."""
    text = raw[:256].decode("ascii", "backslashreplace")
    key, equals, value = text.partition("=")
    if key != "public_key" and (key not in DEVICE_KEYS + PEER_KEYS or key.endswith("key")):
        key, value = _SECRETISH.sub("(hidden)", key), "(hidden)" if value else ""
    elif key != "public_key":
        value = _SECRETISH.sub("(hidden)", value)
    shown = "".join(c if c.isprintable() else "?" for c in key + equals + value)
    return shown if len(shown) <= 100 else shown[:97] + "..."
