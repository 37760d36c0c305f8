"""wg-quick files: what is accepted means the same after wg-quick's own lines are stripped, after it is
written anew, and as the operation that goes to an engine; what is refused shows no secret."""

from __future__ import annotations

import re

from engine import uapi
from plait.quick import conf as wgconf

SECRETISH = re.compile(r"[0-9A-Za-z+/]{32,}")
SOMEWHERE = uapi.Endpoint(bytes((192, 0, 2, 1)), 9)
ZONE = re.compile(r"[0-9A-Za-z_.:-]{0,15}\Z", re.ASCII)


def one_input(data: bytes) -> None:
    """The bytes of a file."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        conf = wgconf.parse(text, "wg0.conf")
    except wgconf.ConfError as error:
        assert error.what and error.why and error.next and error.line_number > 0
        assert len(error.line) <= 100 and error.line.isprintable()
        if not error.line.lower().replace(" ", "").startswith("publickey="):
            assert not SECRETISH.search(error.line), error.line
        return
    stripped = wgconf.parse(wgconf.strip(text), "-", quick=False)
    assert _of_wg(stripped) == _of_wg(conf)
    written = wgconf.to_text(conf)
    assert wgconf.to_text(wgconf.parse(written, "-", quick=False)) == written
    _check_set(conf)


def _of_wg(conf: wgconf.Conf) -> object:
    peers = [(p.public_key, p.preshared_key, p.endpoint, p.keepalive, p.allowed_ips) for p in conf.peers]
    return conf.interface.private_key, conf.interface.listen_port, conf.interface.fwmark, peers


def _check_set(conf: wgconf.Conf) -> None:
    operation = wgconf.to_set(conf, lambda host: SOMEWHERE)
    peers = list(operation.peers)
    assert [peer.public_key for peer in peers] == [peer.public_key for peer in conf.peers]
    if all(peer.endpoint is None or ZONE.match(peer.endpoint.zone) for peer in peers):
        assert uapi.parse_set("".join(uapi.format_set(operation))) == operation
