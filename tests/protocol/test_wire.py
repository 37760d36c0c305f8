"""What the tests see of a cable: datagrams, also where the kernel keeps a train in one piece."""

from __future__ import annotations

import socket
import struct

import pytest

from plait.lab.namespaces import Lab
from tests.support.wire import Wire, udp_socket

SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.mark.network
@pytest.mark.parametrize("version", [4, 6])
def test_a_train_is_seen_as_its_datagrams(version: int) -> None:
    with Lab() as lab:
        here, there = lab.add_hosts(["here", "there"])
        link = lab.link(here, there)
        address = link.address(there, version)
        payloads = [bytes([number]) * 100 for number in range(3)] + [b"short"]
        with Wire(here, link.interface(here)) as leaving, Wire(there, link.interface(there)) as arriving, \
                udp_socket(here, link.address(here, version)) as sender, \
                udp_socket(there, address, 9) as receiver:
            sender.sendmsg([b"".join(payloads)], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 100))],
                           0, (address, 9))
            assert [receiver.recv(1 << 16) for _ in payloads] == payloads
            for wire in (leaving, arriving):
                for payload in payloads:
                    packet = wire.next(lambda packet: packet.protocol == socket.IPPROTO_UDP)
                    assert packet.payload == payload
                    length, header = (slice(4, 6), 40) if version == 6 else (slice(2, 4), 0)
                    assert int.from_bytes(packet.data[length], "big") == len(packet.data) - header
