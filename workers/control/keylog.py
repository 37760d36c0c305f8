"""The key log: the keys of each handshake in a file, for Wireshark (its preference wg.keylog_file).

Off unless PLAIT_KEYLOG names a file: whoever can read that file can read the traffic. The file belongs to
our own user, no other may read it, blocks are appended, and the log says each time that it is opened. Each
handshake of this engine is one block, written before its message leaves:

    LOCAL_STATIC_PRIVATE_KEY = base64
    REMOTE_STATIC_PUBLIC_KEY = base64
    LOCAL_EPHEMERAL_PRIVATE_KEY = base64
    PRESHARED_KEY = base64              without one: left out; it belongs to the ephemeral key above it

Format: epan/dissectors/packet-wireguard.c of Wireshark; the extract-handshakes script of WireGuard's tools.
"""

from __future__ import annotations

import logging
import os
import stat
from base64 import b64encode
from collections.abc import Mapping
from typing import Final

from workers.failure import Exit, Failure

VARIABLE: Final = "PLAIT_KEYLOG"
WARNING: Final = "KEY LOG IS ON: the keys of every handshake go to {}; whoever reads it can read the traffic"

log = logging.getLogger(__name__)


class KeyLog:
    """An open key log. Made by `open_keylog`."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def ephemeral(self) -> bytes:
        """A private key for the next handshake message, 32 random bytes, so that it can be written."""
        return os.urandom(32)

    def write(self, private_key: bytes, public_key: bytes, ephemeral: bytes, psk: bytes) -> None:
        """One handshake: our static private key, the peer's public key, our ephemeral key, the preshared
        key (zeros: none). A full disk costs the log its block, nobody the handshake."""
        lines = [
            ("LOCAL_STATIC_PRIVATE_KEY", private_key),
            ("REMOTE_STATIC_PUBLIC_KEY", public_key),
            ("LOCAL_EPHEMERAL_PRIVATE_KEY", ephemeral),
        ]
        if any(psk):
            lines.append(("PRESHARED_KEY", psk))
        block = "".join(f"{name} = {b64encode(key).decode()}\n" for name, key in lines).encode()
        try:
            os.write(self.fd, block)
        except OSError as error:
            log.error("cannot write the key log %s: %s; these keys are not in it", self.path, error.strerror)

    def close(self) -> None:
        os.close(self.fd)


def open_keylog(environment: Mapping[str, str]) -> KeyLog | None:
    """The key log that PLAIT_KEYLOG asks for, None without it. Failure when it is no place for keys."""
    path = environment.get(VARIABLE)
    if not path:
        return None
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    found = os.fstat(fd)
    why = ""
    if not stat.S_ISREG(found.st_mode):
        why = "it is not a regular file"
    elif found.st_uid != os.geteuid():
        why = f"it belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        why = f"its mode is {stat.S_IMODE(found.st_mode):04o}: others may read keys"
    if why:
        os.close(fd)
        raise _refused(path, why)
    return KeyLog(fd, os.path.abspath(path))


def _refused(path: str, why: str) -> Failure:
    next_step = f"name another file, make this one `chmod 600`, or unset {VARIABLE}"
    return Failure(f"cannot write the key log {path}", why, next_step, Exit.USAGE)
