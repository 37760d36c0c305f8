"""What Wireshark asks of an extcap program: the interfaces that it offers, their link types, their options.

Source: doc/README.developer and doc/extcap.md of Wireshark. A capture itself is run.py's, into the FIFO.
"""

from __future__ import annotations

import sys

from plait import uapi_client
from plait.capture.pcapng import LINKTYPE_RAW
from plait.failure import Failure
from workers.version import VERSION

PREFIX = "plait-"  # of names here: Wireshark has another wg0 already, that of the kernel


def interfaces() -> None:
    """Every interface that has a configuration socket."""
    print(f"extcap {{version={VERSION}}}{{display=Plait}}")
    try:
        names = uapi_client.interfaces()
    except Failure as failure:  # not root: there are none, and Wireshark goes on
        print(f"plait: {failure}", file=sys.stderr)
        return
    for name in names:
        print(f"interface {{value={PREFIX}{name}}}{{display=Plait: inner and outer packets of {name}}}")


def link_types() -> None:
    """The link type, of both interfaces in the file."""
    print(f"dlt {{number={LINKTYPE_RAW}}}{{name=RAW}}{{display=IPv4 and IPv6}}")


def options() -> None:
    """What the options' dialogue offers."""
    print("arg {number=0}{call=--peer}{display=Peer}{type=string}"
          "{tooltip=The public key of the peer whose packets alone are captured}")  # fmt: skip
    print("arg {number=1}{call=--keys}{display=Keys}{type=boolflag}{default=false}"
          "{tooltip=Put the keys of the engine's key log into the capture: secret}")  # fmt: skip


def interface_of(name: str | None) -> str:
    """The interface behind a name of interfaces()."""
    if not name or not name.startswith(PREFIX):
        why = f"`{name or ''}` is none of the names that --extcap-interfaces prints"
        raise Failure("nothing is captured", why, "See which there are: plait capture --extcap-interfaces")
    return name.removeprefix(PREFIX)
