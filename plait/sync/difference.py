"""`plait sync --dry-run`: what a sync would change, without changing it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import click

from engine import uapi
from plait import keys, uapi_client
from plait.sync import rows, state
from plait.sync.owners import Owners
from plait.sync.store import Store


@dataclass
class Difference:
    """By public key in base64, or the text in its place."""

    same: int = 0
    add: list[str] = field(default_factory=list)
    change: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # engine's and store's
    remove: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  # why

    def lines(self) -> Iterator[str]:
        """As text: + comes, ~ changes, - goes, ! is refused."""
        for key in self.add:
            yield f"+ {key}"
        for key, fields in self.change.items():
            told = (f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in fields.items())
            yield f"~ {key}  {'; '.join(told)}"
        for key in self.remove:
            yield f"- {key}"
        for key, why in self.refuse.items():
            yield f"! {key}  {why}"
        counts = f"{len(self.add)} to add, {len(self.change)} to change, {len(self.remove)} to remove"
        yield f"{counts}, {len(self.refuse)} refused, {self.same} the same"

    def document(self) -> str:
        """As JSON. Keys that are secret are not in it."""
        return json.dumps({"add": self.add, "change": self.change, "remove": self.remove,
                           "refuse": self.refuse, "same": self.same}, indent=2)  # fmt: skip


def run(interface: str, store: Store, directory: str, *, only: bool, as_json: bool) -> None:
    """Print it."""
    found = asyncio.run(_difference(interface, store, directory, only))
    click.echo(found.document() if as_json else "\n".join(found.lines()))


async def _difference(interface: str, store: Store, directory: str, only: bool) -> Difference:
    remembered = state.read(state.path_of(directory, interface))
    there = {peer.public_key: peer for peer in uapi_client.get(interface).peers}
    owned = remembered.owned if remembered.life == state.life_of(interface) else set()
    stale = {key for key in there if only or keys.decode(key) in owned}
    owners = None if store.is_exclusive else Owners()
    found = Difference()
    async with store.open() as feed, aclosing(feed.snapshot()) as batches:
        async for batch in batches:
            for row in batch.rows:
                stale.discard(row.public_key)
                try:
                    change = rows.change_to(row)
                    if owners is not None:
                        owners.take(change)
                except rows.BadRow as bad:
                    found.refuse[row.public_key] = str(bad)
                    continue
                if (peer := there.get(row.public_key)) is None:
                    found.add.append(row.public_key)
                elif fields := _changed(peer, change):
                    found.change[row.public_key] = fields
                else:
                    found.same += 1
    found.remove = sorted(stale)
    return found


def _changed(peer: uapi_client.Peer, change: uapi.PeerChange) -> dict[str, list[Any]]:
    """The fields that differ, each with its value in the engine and in the store."""
    wanted = "" if not any(change.preshared_key or b"") else keys.encode(change.preshared_key or b"")
    pairs: dict[str, list[Any]] = {
        "allowed_ips": [sorted(peer.allowed_ips), sorted(map(str, change.allowed_ips))],
        "keepalive": [peer.keepalive, change.keepalive],
        "preshared_key": [bool(peer.preshared_key), bool(wanted)],
    }
    if change.endpoint is not None:  # else it is where it was heard
        pairs["endpoint"] = [peer.endpoint, str(change.endpoint)]
    found = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if wanted != peer.preshared_key and "preshared_key" not in found:
        found["preshared_key"] = ["one", "another"]
    return found


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "(none)"
    if isinstance(value, bool):
        return "one" if value else "none"
    return str(value) or "(none)"
