"""A supervisor with fake workers: the real one, its real resources, but no packets.

    python fake_workers_program.py DIRECTORY IFACE    a supervisor; its workers are forks of it that run `act`

Everything happens in DIRECTORY: settings.toml holds the settings, patience.json what is to be other in the
supervisor's patience. The supervisor's word "ready" is a file of that name there. A fake worker called
TITLE ("receiver 0") does at its start what TITLE.start says: `fail`, `crash`, `exit`, `hang`, or `slow` (it
needs half a second of CPU). It writes each message it gets to TITLE.heard, one line of JSON with the ports
of the UDP sockets it holds then, and a byte to TITLE.rung each time that its bell rings. It obeys what is
sent to its datagram socket TITLE.orders: {"say": MESSAGE} on its channel, {"raw": TEXT} likewise, {"close":
true}, {"sleep": true}, {"deaf": true} (to `stop`), {"spin": ROW + 1} (busy with that peer for ever),
{"drink": true} (what its UDP sockets hold), {"claim": N} (the first peer is queued at consumer N for ever;
with "owner": M it belongs to that one), {"exit": CODE}, {"gift": N} (a log line with so many descriptors;
with "raw" that text). What hangs or sleeps does so for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from workers._workers import lib
from workers.channel import ChannelClosed
from workers.launch import WorkerStart
from workers.log import opened
from workers.settings import load
from workers.supervisor import process as supervisor
from workers.supervisor.patience import Patience
from workers.supervisor.resources import Resources
from workers.supervisor.signals import Signals

BEAT_SECONDS = 0.05
SLOW_SECONDS = 0.5


def act(directory: Path, start: WorkerStart) -> None:
    title = start.kind if start.kind == "control" else f"{start.kind} {start.number}"
    script = directory / f"{title}.start"
    match script.read_text() if script.exists() else "":
        case "fail":
            start.fail("the fake worker cannot start", "its orders say so", "send another one")
        case "crash":
            raise RuntimeError("the fake worker's orders say so")
        case "exit":
            os._exit(7)
        case "hang":
            sleep()
        case "slow":
            while time.process_time() < SLOW_SECONDS:
                pass

    def ports() -> dict[str, int]:
        found = {}
        for name, fd in start.fds.items():
            if name.startswith("udp"):
                with socket.socket(fileno=os.dup(fd)) as sock:
                    found[name] = sock.getsockname()[1]
        return found

    def note(message: dict[str, Any]) -> None:
        with (directory / f"{title}.heard").open("a") as heard:
            heard.write(json.dumps({**message, "ports": ports(), "held": sorted(start.fds)}) + "\n")

    def share_out() -> None:
        if start.kind == "control":
            start.channel.send({"kind": "shared_out", "consumers": start.consumers, "away": start.away})

    def drink(fd: int) -> None:
        with contextlib.suppress(BlockingIOError), socket.socket(fileno=os.dup(fd)) as sock:
            while True:
                sock.recv(65536, socket.MSG_DONTWAIT)

    (directory / f"{title}.orders").unlink(missing_ok=True)
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    orders.bind(str(directory / f"{title}.orders"))
    note(start.message)
    start.ready()
    deaf = False
    bells = [fd for name, fd in start.fds.items() if name == f"bell:{start.worker}"]
    while True:
        lib.epoch_turn(start.segment, start.worker, lib.clock_now())  # the watchdog sees that we live
        ready, _, _ = select.select([orders, start.channel, *bells], [], [], BEAT_SECONDS)
        for bell in set(bells) & set(ready):
            os.eventfd_read(bell)
            with (directory / f"{title}.rung").open("ab") as rung:
                rung.write(b"!")
        if orders in ready:
            order = json.loads(orders.recv(65536))
            gift = [orders.fileno()] * int(order.get("gift", 0))
            if gift:
                words = order.get("raw") or json.dumps(
                    {"kind": "log", "level": "info", "text": f"a gift of {len(gift)} descriptors"})
                socket.send_fds(start.channel.socket, [words.encode()], gift)
            elif "say" in order:
                start.channel.send(order["say"])
            elif "raw" in order:
                start.channel.socket.send(order["raw"].encode())
            elif "close" in order:
                start.channel.socket.shutdown(socket.SHUT_RDWR)
                sleep()
            elif "sleep" in order:
                note({"kind": "asleep"})
                sleep()
            elif "spin" in order:
                start.segment.workers[start.worker].peer_in_hand = order["spin"]
                while True:
                    pass
            elif "claim" in order:
                start.segment.rows[0].consumer[lib.INBOUND] = order.get("owner", order["claim"])
                start.segment.tokens[0] = lib.TOKEN_QUEUED
                lib.ready_set(start.segment, 1 + order["claim"], 0)
                note({"kind": "claimed"})
            elif "exit" in order:
                os._exit(order["exit"])
            elif "drink" in order:
                for name, fd in start.fds.items():
                    if name.startswith("udp"):
                        drink(fd)
            deaf = deaf or "deaf" in order
        if start.channel in ready:
            try:
                message, fds = start.channel.receive()
            except ChannelClosed:
                start.lost()
            if fds:
                start.replace_sockets(message, fds)
                share_out()
            if message["kind"] == "news":
                start.channel.send({"kind": "heard", "upto": message["upto"]})
            note(message)
            if message["kind"] == "stop" and not deaf:
                return


def sleep() -> NoReturn:
    while True:
        signal.pause()


def supervise(directory: Path, interface: str) -> None:
    patience = Patience(**json.loads((directory / "patience.json").read_text()))
    settings = load(interface, {"PLAIT_CONFIG": str(directory / "settings.toml")})
    with (
        opened("supervisor", os.environ),
        Signals(supervisor.Supervisor.SIGNALS) as signals,
        Resources.open(interface, settings, {}) as resources,
    ):
        work = dict.fromkeys(("control", "receiver", "consumer"), partial(act, directory))
        on_ready = (directory / "ready").touch
        supervisor.Supervisor(resources, settings, signals, on_ready, work, patience=patience).run()


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), sys.argv[2])
