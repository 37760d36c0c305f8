"""How many peers are connected, against sessions that come, are used, grow old and go."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.support.control_harness import Holder, Interface
from tests.unit.workers.test_control_handshakes import SECOND, Other
from tests.unit.workers.test_lookups import Unknown, section
from workers._workers import lib

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the harness makes a UAPI socket")

PEERS = 10


class Connecting(Unknown):
    def connected(self) -> int:
        answer = b"".join(self.parts.configuration.show_engine()).decode()
        return int(json.loads(answer.partition("\n")[0].removeprefix("engine="))["connected"])

    def add(self) -> tuple[Other, int]:
        other = self.stranger()
        self.set(section(other))
        row = self.parts.peers.find(other.identity.public_key)
        assert row is not None
        return other, row


@pytest.fixture
def world() -> Iterator[Connecting]:
    with Interface(f"plc{os.getpid()}") as interface:
        world = Connecting(interface)
        yield world
        world.parts.close()
        world.other.socket.close()


def test_who_is_connected_is_counted_and_nobody_else(world: Connecting) -> None:
    with Holder(world.interface) as holder:
        rows = []
        for number in range(PEERS):
            world.other, world.row = world.add()
            response, _ = world.respond(world.initiate())
            if number % 2:  # the others do not answer
                assert world.take(response) == "HS_RESPONSE_ACCEPTED"
                rows.append(world.row)
            world.pass_time(0)
        world.parts.settle(holder)
        assert world.connected() == len(rows) == PEERS // 2
        other, row = world.add()
        assert world.comes(other) == "HS_INITIATION_ACCEPTED"
        world.parts.settle(holder)
        assert int(world.parts.peers.rows[row].key_word) and world.connected() == len(rows), "not confirmed"
        world.parts.peers.order(rows[0], lib.ORDER_ZERO)
        world.parts.settle(holder)
        assert world.connected() == len(rows) - 1
        key = world.parts.peers.public_key(rows[1])
        world.set(f"public_key={key.hex()}\nremove=true\n")
        world.parts.settle(holder)
        assert world.connected() == len(rows) - 2
        world.parts.close()
        world.parts = world.make_parts()
        assert world.connected() == len(rows) - 2, "as the control before it counted"
        births = [world.parts.keypairs.current(row)[0] for row in rows[2:]]
        world.time[0] = max(births) + 180 * SECOND - 1
        assert world.connected() == births.count(max(births))
        world.time[0] += 1
        assert world.connected() == 0
