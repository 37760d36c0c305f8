"""A connection to the configuration socket, made without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import socket

from plait import uapi_client


async def connected(name: str) -> socket.socket:
    """A connection to the engine of this name (uapi_client.py), or OSError; it does not block."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    until = asyncio.get_running_loop().time() + uapi_client.TIMEOUT
    try:
        while True:
            try:
                sock.connect(os.fspath(uapi_client.path_of(name)))
                return sock
            except BlockingIOError:  # unix(7): the listener takes no more for now
                if asyncio.get_running_loop().time() >= until:
                    raise TimeoutError from None
                await asyncio.sleep(uapi_client.RETRY)
    except BaseException:
        sock.close()
        raise
