"""What `plait peers` does with its options."""

from __future__ import annotations

from plait.failure import Failure
from plait.peers import provider
from plait.peers.program import Program
from plait.peers.store import FileStore


def run(
    interface: str, command: str | None, file: str | None, jobs: int, timeout: float, ttl: int, window: int
) -> None:
    """Answer until SIGINT or SIGTERM."""
    if (command is None) == (file is None):
        why = "one of --exec and --file says where keys are looked up"
        mend = f"Write plait peers {interface} --file FILE, or --exec 'PROGRAM %k'."
        raise Failure("nobody can be asked", why, mend)
    if command is not None:
        look = Program(command, interface, jobs, timeout).look
    else:
        look = FileStore(str(file), interface, ttl).look
    provider.run(interface, window, look)
