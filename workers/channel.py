"""The control socket between the supervisor and one worker: JSON messages, with fds beside them.

A SOCK_SEQPACKET pair, one message a packet. Used a few times in a worker's life: at the
start (all fds), for later fds (a new listen port, more receivers), for requests of control.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

MESSAGE_BYTES = 1 << 16
MESSAGE_FDS = 250  # the kernel's SCM_MAX_FD is 253


class ChannelClosed(ConnectionError):
    """The other side is gone; a worker ends then, the supervisor reaps."""


class DescriptorsLost(ValueError):
    """A message whose descriptors did not get here, for want of room for them in this process."""


class Channel:
    """One end of the pair. Neither end is shared between threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends: (the supervisor's, the worker's)."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(a), cls(b)

    @classmethod
    def inherited(cls, fd: int) -> Channel:
        """The worker's end, from the fd number it was started with."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] | list[int] = ()) -> None:
        """Send one message; fds arrive in the same order as duplicates."""
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], list(fds))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the other end of the channel is closed") from error

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for one message. Received fds are close-on-exec. ChannelClosed at the end.

        ValueError when it is none, DescriptorsLost when not all that came with it; the fds are closed.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, MESSAGE_FDS)
        except ConnectionResetError as error:
            raise ChannelClosed("the other end of the channel is closed") from error
        if not data:
            raise ChannelClosed("the other end of the channel is closed")
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost("a channel message lost descriptors; raise the limit on open files")
            if flags & socket.MSG_TRUNC:
                raise ValueError("a channel message was cut short")
            return json.loads(data), fds
        except (ValueError, RecursionError) as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, DescriptorsLost):
                raise
            raise ValueError(str(error)) from error

    def close(self) -> None:
        self.socket.close()
