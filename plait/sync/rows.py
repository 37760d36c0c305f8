"""Rows as peers: every value is checked here, whoever wrote the store."""

from __future__ import annotations

import ipaddress

from engine import uapi
from plait.api.values import Endpoint, Key, Network, Peer, change_of
from plait.failure import Failure
from plait.sync.store import Row


class BadRow(Exception):
    """One row that is no peer: why, without secrets."""


def key_of(row: Row) -> bytes:
    """The public key of a row. BadRow when it is none."""
    try:
        return bytes(Key(row.public_key))
    except Failure:
        raise BadRow("its public key is not the 44 characters that wg(8) writes") from None


def change_to(row: Row) -> uapi.PeerChange:
    """All that a row says of its peer; a row that is gone removes it. BadRow when it is no peer."""
    key = key_of(row)
    if row.wrong:
        raise BadRow(row.wrong)
    return uapi.PeerChange(key, remove=True) if row.is_gone else change_of(_peer(row))


def _peer(row: Row) -> Peer:
    return Peer(
        Key(row.public_key), _allowed_ips(row.allowed_ips), _endpoint(row.endpoint),
        _preshared_key(row.preshared_key), _keepalive(row.keepalive),
    )  # fmt: skip


def _allowed_ips(given: object) -> list[Network]:
    if not isinstance(given, list | tuple):
        raise BadRow("its allowed_ips are no list")
    try:
        return [_network(each) for each in given]
    except ValueError as error:
        raise BadRow(f"its allowed_ips: {error}") from None


def _network(given: object) -> Network:
    if not isinstance(given, str):  # ipaddress takes numbers for addresses
        raise ValueError(f"{given!r:.60} is no prefix")
    return ipaddress.ip_network(given)


def _endpoint(given: object) -> Endpoint | None:
    if given is None or given == "":
        return None
    try:
        if not isinstance(given, str):
            raise Failure("", "it is no text", "")
        endpoint = Endpoint.parse(given)
    except Failure as failure:
        raise BadRow(f"its endpoint {given!r:.80}: {failure.why}") from None
    if not endpoint.port:
        raise BadRow(f"its endpoint {given!r:.80}: nothing can be sent to port 0")
    return endpoint


def _preshared_key(given: object) -> Key | None:
    if given is None or given == "":
        return None
    try:
        if isinstance(given, str):
            return Key(given)
    except Failure:
        pass
    raise BadRow("its preshared_key is not the 44 characters that wg(8) writes")


def _keepalive(given: object) -> int:
    if given is None:
        return 0
    most = uapi.NUMBERS["persistent_keepalive_interval"].most
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= most:
        raise BadRow(f"its keepalive {given!r:.40} is no number of seconds from 0 to {most}")
    return given
