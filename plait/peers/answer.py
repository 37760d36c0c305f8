"""What a store says about one key: a peer, as a `set` has it, or a refusal.

A peer as text is what stands behind `wg set IFACE peer KEY`, in words, with keys in base64 where `wg` reads a
file: ``allowed-ips 10.0.0.2/32,fd00::2/128 preshared-key KEY``. A refusal is `refuse`, or `refuse 300` for so
many seconds; nothing at all is one, too.
"""

from __future__ import annotations

from typing import Final

from engine import uapi
from plait import keys
from plait.api.provider import Answer
from plait.api.values import Refuse
from plait.quick import conf


def parse(text: str, key: bytes) -> Answer:
    """The answer that a text is, about this key. ValueError with the reason when it is none."""
    words = text.split()
    if not words:
        return Refuse()
    if words[0] == "refuse":
        return _refusal(words[1:])
    if words[0] == "peer":
        if words[1:2] != [keys.encode(key)]:
            raise ValueError(f"it is about the peer {' '.join(words[1:2])}, which was not asked about")
        words = words[2:]
    peer = uapi.PeerChange(key, replace_allowed_ips=True)
    section = f"[Peer]\nPublicKey = {keys.encode(key)}\n"
    while words:
        word, *words = words
        if word not in _KEYS:
            raise ValueError(f"`{conf.mask(word)}` is no word of `wg set`; {', '.join(_KEYS)} are")
        if not words:
            raise ValueError(f"a value is missing behind `{word}`")
        section += f"{_KEYS[word]} = {words.pop(0)}\n"
    try:
        return peer_of(conf.parse(section, quick=False), peer)
    except conf.ConfError as error:
        raise ValueError(f"{error.what} ({error.line}): {error.why}") from None


_KEYS: Final = {
    "allowed-ips": "AllowedIPs",
    "preshared-key": "PresharedKey",
    "endpoint": "Endpoint",
    "persistent-keepalive": "PersistentKeepalive",
    "plait-name": "# Name",
    "plait-quota": "# PlaitQuota",
    "plait-expires": "# PlaitExpires",
}


def _refusal(words: list[str]) -> Refuse:
    if not words:
        return Refuse()
    if len(words) > 1 or not words[0].isdecimal() or int(words[0]) > uapi.TTL_MOST:
        raise ValueError(f"a refusal is `refuse`, or `refuse SECONDS` of 0 to {uapi.TTL_MOST}")
    return Refuse(int(words[0]))


def peer_of(read: conf.Conf, peer: uapi.PeerChange) -> uapi.PeerChange:
    """The one [Peer] of a text, filled in. ValueError when its endpoint is a name."""
    (section,) = read.peers
    if section.endpoint is not None:
        peer.endpoint = section.endpoint.endpoint
        if peer.endpoint is None:
            raise ValueError(f"the endpoint {section.endpoint.host} is a name; write an address")
    peer.preshared_key, peer.keepalive = section.preshared_key, section.keepalive
    peer.name, peer.quota, peer.expires = section.name, section.quota, section.expires
    peer.replace_allowed_ips, peer.allowed_ips = section.replace_allowed_ips, section.allowed_ips
    return peer
