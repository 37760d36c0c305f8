"""The engine's side: changes are applied by the client of `import plait`, as transactions."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

from engine import uapi
from plait import uapi_client

HEAD = uapi.format_head(uapi.Set())


async def apply(interface: str, changes: Sequence[uapi.PeerChange]) -> list[tuple[uapi.PeerChange, str]]:
    """Apply changes, those that remove peers first; give those that the engine refuses, each with its reason.

    All are one transaction. When it is refused, halves are tried, so that what is wrong with one is
    no other's business. Failure when the engine does not answer, or has no room: then nothing more is tried.
    """
    ordered = sorted(changes, key=lambda change: not change.remove)
    return await _apply(interface, ordered) if ordered else []


async def _apply(interface: str, changes: Sequence[uapi.PeerChange]) -> list[tuple[uapi.PeerChange, str]]:
    try:
        text = [HEAD, *map(uapi.format_change, changes), "\n"]
        await asyncio.to_thread(uapi_client.change, interface, text)
    except uapi_client.Refused as refused:
        if refused.code == errno.ENOSPC:
            raise
        if len(changes) == 1:
            return [(changes[0], refused.why)]
        half = len(changes) // 2
        return await _apply(interface, changes[:half]) + await _apply(interface, changes[half:])
    return []
