"""The pytest plugin (entry point `pytest11`): tunnels to test programs in, each in namespaces of its own.

    def test_my_app(plait_tunnel):
        a, b = plait_tunnel
        with b.netns():
            server = socket.create_server((b.address, 8080))
        plait_tunnel.kill("control")
        plait_tunnel.loss(0.1)

Needs root and /dev/net/tun; where these are missing the test is skipped, and says what is. This module is
loaded in every run of pytest in this environment, so it imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plait.lab.tunnels import Gateway, Tunnel

__all__ = ["Gateway", "Tunnel", "plait_gateway", "plait_tunnel"]


if not TYPE_CHECKING:  # to whom it would say that there is every name

    def __getattr__(name: str) -> type:
        """The types of the fixtures, imported when they are asked for."""
        if name not in ("Gateway", "Tunnel"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from plait.lab import tunnels

        return getattr(tunnels, name)


@pytest.fixture
def plait_tunnel() -> Iterator[Tunnel]:
    """Two hosts with an engine in each and a session between them; `a, b = plait_tunnel`.

    Each end has `.address` (inside the tunnel), `.address6`, `.interface` (a `plait.Interface`, attached),
    `.netns()` (this thread is in its network meanwhile), `.socket(…)` and `.run(command)`. The tunnel has
    `.loss(share)`, `.delay(seconds)` and `.kill(process)`.
    """
    _need_laboratory()
    from plait.lab.tunnels import tunnel

    with tunnel() as made:
        yield made


@pytest.fixture
def plait_gateway() -> Iterator[Gateway]:
    """A gateway without peers, and `client()` for as many hosts with a tunnel to it as a test wants."""
    _need_laboratory()
    from plait.lab.tunnels import gateway

    with gateway() as made:
        yield made


def _need_laboratory() -> None:
    from plait.lab.namespaces import missing

    if lacks := missing("plaitd"):
        pytest.skip("; ".join(map(str, lacks)))
