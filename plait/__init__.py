"""Plait for Python: WireGuard interfaces, peers and events, without a second program in between.

    from ipaddress import ip_network
    from plait import Interface, Key, Peer

    with Interface("wg0", private_key=Key.generate(), addresses=["10.0.0.1/24"]) as wg:
        wg.add(Peer(their_key, allowed_ips=[ip_network("10.0.0.2/32")], keepalive=25))

Public and stable are the names in `__all__` of this module, of plait/aio.py (the same for asyncio) and of
plait/pytest_plugin.py. Every other module may change in any version. The command line (plait/command.py) uses
the same client. A name is imported at its first use: plaitd, a module of this package too, imports none.

docs/python.md is the guide.
"""

from __future__ import annotations

TYPE_CHECKING = False  # like typing's, without an import: type checkers take this name for true
if TYPE_CHECKING:
    from plait import aio as aio
    from plait.api.events import (
        ClientKnocked,
        ConfigurationRefused,
        CookieReceived,
        EndpointMoved,
        EngineEnding,
        EngineStarted,
        Event,
        GivenUp,
        HandshakeBegan,
        HandshakeFailed,
        HandshakeRefused,
        InterfaceDown,
        InterfaceUp,
        ListenPortChanged,
        NeighbourChanged,
        OfPeer,
        PacketsDropped,
        PeerAdded,
        PeerEvicted,
        PeerRanOut,
        PeerRemoved,
        PeerRenewed,
        PrivateKeyChanged,
        ProviderFailed,
        ProviderServes,
        SessionBegan,
        SessionEnded,
        Suppressed,
        UnderLoad,
        WorkerDied,
        WorkerNotReplaced,
        WorkerReplaced,
        WorkersChanged,
    )
    from plait.api.interface import Interface, attach
    from plait.api.tap import Packet
    from plait.api.values import Endpoint, Key, Peer, Refuse, Totals
    from plait.failure import Failure
    from plait.rootless.box import Sandbox, sandbox

_HOMES = {
    "plait.api.events": (
        "ClientKnocked", "ConfigurationRefused", "CookieReceived", "EndpointMoved", "EngineEnding",
        "EngineStarted", "Event", "GivenUp", "HandshakeBegan", "HandshakeFailed", "HandshakeRefused",
        "InterfaceDown", "InterfaceUp", "ListenPortChanged", "NeighbourChanged", "OfPeer", "PacketsDropped",
        "PeerAdded", "PeerEvicted", "PeerRanOut", "PeerRemoved", "PeerRenewed", "PrivateKeyChanged",
        "ProviderFailed", "ProviderServes", "SessionBegan", "SessionEnded", "Suppressed", "UnderLoad",
        "WorkerDied", "WorkerNotReplaced", "WorkerReplaced", "WorkersChanged",
    ),
    "plait.api.interface": ("Interface", "attach"),
    "plait.api.tap": ("Packet",),
    "plait.api.values": ("Endpoint", "Key", "Peer", "Refuse", "Totals"),
    "plait.failure": ("Failure",),
    "plait.rootless.box": ("Sandbox", "sandbox"),
}  # fmt: skip

__all__ = [
    "ClientKnocked", "ConfigurationRefused", "CookieReceived", "Endpoint", "EndpointMoved", "EngineEnding",
    "EngineStarted", "Event", "Failure", "GivenUp", "HandshakeBegan", "HandshakeFailed", "HandshakeRefused",
    "Interface", "InterfaceDown", "InterfaceUp", "Key", "ListenPortChanged", "NeighbourChanged", "OfPeer",
    "Packet", "PacketsDropped", "Peer", "PeerAdded", "PeerEvicted", "PeerRanOut", "PeerRemoved",
    "PeerRenewed", "PrivateKeyChanged", "ProviderFailed", "ProviderServes", "Refuse", "Sandbox",
    "SessionBegan", "SessionEnded", "Suppressed", "Totals", "UnderLoad", "WorkerDied", "WorkerNotReplaced",
    "WorkerReplaced", "WorkersChanged", "aio", "attach", "sandbox",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker would conclude that every name exists

    def __getattr__(name: str) -> object:
        """Import a public name at its first use."""
        from importlib import import_module

        if name == "aio":
            return import_module("plait.aio")
        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
