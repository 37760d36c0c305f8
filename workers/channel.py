"""The control socket between the supervisor and one worker: JSON messages, with fds beside them.

A SOCK_SEQPACKET pair, one message a packet; to a worker, packets before it with the fds that it has no room
for. Used a few times in a worker's life: at the
start (all fds), for later fds (a new listen port, more receivers), for requests of control.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

MESSAGE_BYTES = 1 << 16
MESSAGE_FDS = 250  # the kernel's SCM_MAX_FD is 253
PART = b"+"  # a packet with nothing but fds of the message that follows


class ChannelClosed(ConnectionError):
    """The other side is gone; a worker ends then, the supervisor reaps."""


class DescriptorsLost(ValueError):
    """A message whose descriptors did not get here, for want of room for them in this process."""


class Channel:
    """One end of the pair. Neither end is shared between threads.

    takes_parts: at the worker's end; the supervisor waits for no second packet of a worker's.
    """

    def __init__(self, sock: socket.socket, takes_parts: bool = False) -> None:
        self.socket = sock
        self.takes_parts = takes_parts

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends: (the supervisor's, the worker's)."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(a), cls(b, takes_parts=True)

    @classmethod
    def inherited(cls, fd: int) -> Channel:
        """The worker's end, from the fd number it was started with."""
        return cls(socket.socket(fileno=fd), takes_parts=True)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] | list[int] = ()) -> None:
        """Send one message; fds arrive in the same order as duplicates."""
        left = list(fds)
        try:
            while len(left) > MESSAGE_FDS:
                socket.send_fds(self.socket, [PART], left[:MESSAGE_FDS])
                del left[:MESSAGE_FDS]
            socket.send_fds(self.socket, [json.dumps(message).encode()], left)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the other end of the channel is closed") from error

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for one message. Received fds are close-on-exec. ChannelClosed at the end.

        ValueError when it is none, DescriptorsLost when not all that came with it; the fds are closed.
        """
        fds: list[int] = []
        try:
            data = PART
            while data == PART:
                data, more, flags, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, MESSAGE_FDS)
                fds += more
                if not data:
                    raise ChannelClosed("the other end of the channel is closed")
                if flags & socket.MSG_CTRUNC:
                    raise DescriptorsLost("a channel message lost descriptors; raise the limit on open files")
                if flags & socket.MSG_TRUNC or (data == PART and not self.takes_parts):
                    raise ValueError("a channel message was cut short")
            for fd in fds:
                os.set_inheritable(fd, False)
            return json.loads(data), fds
        except (ValueError, RecursionError, ConnectionError) as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, ConnectionResetError):
                raise ChannelClosed("the other end of the channel is closed") from error
            if isinstance(error, DescriptorsLost | ChannelClosed):
                raise
            raise ValueError(str(error)) from error

    def close(self) -> None:
        self.socket.close()
