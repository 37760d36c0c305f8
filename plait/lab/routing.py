"""Routing daemons in hosts of a lab, configured by the examples of configs/routing."""

from __future__ import annotations

from typing import Final

from plait.lab.examples import example
from plait.lab.namespaces import Host, Link, Process

BIRD: Final = ("bird", "-f", "-c", "/run/bird.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid")
OURS, THEIRS = ("192.0.2.11", "2001:db8::11"), ("192.0.2.1", "2001:db8::1")  # in examples: gateway, router


def of_gateway(name: str, link: Link, gateway: Host, router: Host) -> str:
    """An example for a gateway, with the addresses of its cable to the router."""
    text = example(f"routing/{name}")
    for version, ours, theirs in zip((4, 6), OURS, THEIRS, strict=True):
        text = text.replace(ours, link.address(gateway, version))
        text = text.replace(theirs, link.address(router, version))
    return text


def bird(host: Host, configuration: str) -> Process:
    """BIRD in a host."""
    (host.root / "run/bird.conf").write_text(configuration)
    return host.popen(BIRD)
