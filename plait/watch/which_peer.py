"""Which peer people mean: by its name, or by the start of its public key, as events print it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from plait.failure import Failure
from plait.uapi_client import Peer
from plait.watch.terminal import printable

LEAST: Final = 4  # characters of a public key
SHOWN: Final = 5  # peers that a refusal names
_START: Final = re.compile(rf"([A-Za-z0-9+/]{{{LEAST},43}}=?)(?:…|\.\.\.)?")


class NoPeer(Failure):
    """No peer has that name, or a key that begins so."""


def key_of(words: str, peers: Sequence[Peer]) -> str:
    """The public key of the only peer with this name, else of the only one whose key begins so.

    Peers of several interfaces may be given together. NoPeer, or Failure when it may be several.
    """
    named = {peer.public_key: peer for peer in peers if words and peer.name == words}
    start = _START.fullmatch(words)
    found = named or {
        peer.public_key: peer for peer in peers if start is not None and peer.public_key.startswith(start[1])
    }
    if len(found) == 1:
        return next(iter(found))
    if not found:
        why = f"no peer has that name, or a public key that begins so ({LEAST} characters at least)"
        raise NoPeer(f"`{words}` is no peer here", why, "See which peers there are: plait show")
    some = ", ".join(_words(peer) for peer in list(found.values())[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise Failure(f"`{words}` may be {len(found)} peers", f"{some}{more}", "Give the public key.")


def _words(peer: Peer) -> str:
    return f"{peer.public_key} ({printable(peer.name)})" if peer.name else peer.public_key
