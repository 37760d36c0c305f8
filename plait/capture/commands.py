"""`plait capture`: by hand, or as Wireshark calls an extcap program."""

from __future__ import annotations

import click

from plait.capture import extcap
from plait.capture import run as capture
from plait.failure import Failure


def run(
    interface: str | None, peer: str | None, *, with_keys: bool, target: str, extcap_interfaces: bool,
    extcap_dlts: bool, extcap_config: bool, extcap_version: str | None, extcap_interface: str | None,
    extcap_capture_filter: str | None, by_extcap: bool, fifo: str | None,
) -> None:  # fmt: skip
    """Do what is asked for. extcap_version: Wireshark's own, which makes no difference."""
    if extcap_interfaces:
        extcap.interfaces()
    elif extcap_dlts:
        extcap.link_types()
    elif extcap_config:
        extcap.options()
    elif by_extcap:
        if extcap_capture_filter:
            why = "Plait takes no capture filter"
            raise Failure("nothing is captured", why, "Leave it out, and give a display filter instead.")
        if fifo is None:
            raise click.UsageError("--fifo is missing, which says where the capture goes")
        name = extcap.interface_of(extcap_interface)
        capture.run(name, peer or None, fifo, with_keys=with_keys, is_quiet=True)
    elif interface is None:
        raise click.UsageError("INTERFACE is missing")
    else:
        capture.run(interface, peer, target, with_keys=with_keys)
