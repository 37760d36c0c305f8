"""Whose each prefix is, for a store that does not see to it that no prefix is two rows'."""

from __future__ import annotations

from engine import uapi
from plait import keys
from plait.sync.rows import BadRow

Prefix = tuple[bytes, int]  # address and length


class Owners:
    """Prefixes by peer. A row with another row's prefix would take the prefix away from a running peer."""

    def __init__(self) -> None:
        self._owner: dict[Prefix, bytes] = {}
        self._prefixes: dict[bytes, tuple[Prefix, ...]] = {}

    def learn(self, peer: uapi.PeerChange) -> None:
        """A peer that runs has these."""
        prefixes = tuple((prefix.address, prefix.cidr) for prefix in peer.allowed_ips)
        self._prefixes[peer.public_key] = prefixes
        self._owner.update(dict.fromkeys(prefixes, peer.public_key))

    def release(self, change: uapi.PeerChange) -> None:
        """The peer gives up what it will not have."""
        kept = {(prefix.address, prefix.cidr) for prefix in change.allowed_ips}
        for prefix in self._prefixes.get(change.public_key, ()):
            if prefix not in kept and self._owner.get(prefix) == change.public_key:
                del self._owner[prefix]

    def take(self, change: uapi.PeerChange) -> None:
        """The peer has these prefixes. BadRow when one is another row's; then it has what it kept."""
        for prefix in change.allowed_ips:
            owner = self._owner.get((prefix.address, prefix.cidr), change.public_key)
            if owner != change.public_key:
                raise BadRow(f"its allowed IP {prefix} is also that of the row of {keys.encode(owner)}")
        if change.remove:
            self._prefixes.pop(change.public_key, None)
        else:
            self.learn(change)
