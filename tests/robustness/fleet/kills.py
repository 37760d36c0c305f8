"""Kills at random in a fleet of three gateways: `python -m tests.robustness.fleet.kills --minutes 10`.

The hosts are those of `plait fleet demo` (plait/fleet/demo_scene.py): 200 clients send echoes, a row comes or
goes in PostgreSQL twice a second. Now and then something gets SIGKILL, and is started again as by a service
manager: the store, a gateway's sync, its routes, its BIRD, one worker of its engine, or all of a gateway.

In the end each engine must have the peers of the table, no more and no less, and every client its answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import click

from plait import uapi_client
from plait.bench.floods import EXIT_SHARE
from plait.failure import Failure
from plait.fleet import demo
from plait.fleet.demo_scene import GATEWAYS, INTERFACE, Gateway, Scene, settings
from plait.lab import namespaces as lab
from plait.lab.namespaces import Host, Lab, Process
from plait.lab.postgresql import PostgreSQL
from plait.lab.steps import Step, steps
from plait.signals import interruptible

SILENT: Final = 20.0  # seconds that a client may be without an answer
BETWEEN: Final = (1.0, 3.0)  # seconds from one kill to the next
AWAY: Final = (0.0, 2.0)  # seconds from a kill until it is started again
GATEWAY_EVERY: Final = 30.0  # seconds from one kill of a whole gateway to the next: longer than SILENT
WRITE_EVERY: Final = 0.5  # seconds
TURN: Final = 0.02
PATIENCE: Final = 120.0  # seconds until what is waited for is given up
WORKERS: Final = (f"plait: {INTERFACE} rece", f"plait: {INTERFACE} cons", f"plait: {INTERFACE} cont")
WHAT: Final = ("store", "plait sync", "plait routes", "bird", "worker")


@dataclass
class Found:
    seed: int
    seconds: float
    kills: dict[str, int]
    ended: dict[str, int]  # by themselves, and were started again
    rows: int  # in the table, in the end
    written: int  # rows that came or went
    refused: int  # writes, while the store was away
    clients: int
    longest: float  # seconds that a client was without an answer
    wrong: list[str] = field(default_factory=list)


class Fleet:
    """A scene in which things die."""

    def __init__(self, scene: Scene, seed: int) -> None:
        assert isinstance(scene.server, PostgreSQL)
        self.scene = scene
        self.store = scene.server
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()  # by themselves
        self.wrong: list[str] = []
        self.written = self.refused = 0
        self._random = random.Random(seed)
        self._again: list[tuple[float, Callable[[], None]]] = []  # when, and what is started again
        self._clients: Process | None = None
        self._busy: set[str] = set()  # what is away
        self._others: list[str] = []  # keys of rows that are no clients
        self._write_due = self._kill_due = self._gateway_due = 0.0

    def start(self) -> None:
        """Until each client has a session, and the router a route to it."""
        scene = self.scene
        scene.connect_hosts()
        scene.fill_store()
        for gateway in scene.gateways:
            scene.start_gateway(gateway)
        self._until(lambda: len(scene.ready()) == len(GATEWAYS), "the router hears that all are ready")
        self._clients = scene.start_clients()
        self._until(self._all_routed, "each client has a session, and the router a route to it")

    def go_on(self, seconds: float) -> None:
        """Kill for so long."""
        begun = time.monotonic()
        self._kill_due, self._gateway_due = begun, begun + self._random.uniform(0, GATEWAY_EVERY)
        self._write_due = begun
        while (now := time.monotonic()) < begun + seconds:
            if now >= self._kill_due:
                self._kill_due = now + self._random.uniform(*BETWEEN)
                self._kill(now)
            if now >= self._write_due:
                self._write_due = now + WRITE_EVERY
                self._write()
            self._turn()

    def end(self) -> None:
        """Everything runs again; what is not as it should be goes to `wrong`."""
        self._hope(lambda: not self._again, "all that was killed is started again")
        table = self._table()
        for gateway in self.scene.gateways:
            self._hope(partial(has_table, gateway, table), f"gateway {gateway.number} has the table")
        self._hope(self._all_routed, "each client has a session, and the router a route to it")

    def rows(self) -> int:
        """In the table."""
        return len(self._table())

    # --- what dies ----------------------------------------------------------------------------------

    def _kill(self, now: float) -> None:
        if now >= self._gateway_due:
            self._gateway_due = now + GATEWAY_EVERY
            free = [each for each in self.scene.gateways if not self._is_busy(each)]
            if len(free) == len(GATEWAYS):  # two others are there
                self._kill_gateway(self._random.choice(free))
            return
        what, gateway = self._random.choice(WHAT), self._random.choice(self.scene.gateways)
        name = what if what == "store" else f"{what} {gateway.number}"
        if name in self._busy or f"gateway {gateway.number}" in self._busy:
            return
        if what == "worker":
            if pids := workers_of(gateway.host):
                self.kills[what] += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(pids), signal.SIGKILL)
            return
        process = self.store.process if what == "store" else gateway.processes[what]
        assert process is not None
        process.signal(signal.SIGKILL)
        process.wait()
        beside = partial(self.scene.start_beside, gateway, what)
        self.kills[what] += 1
        self._start_later(name, self._start_store if what == "store" else beside)

    def _kill_gateway(self, gateway: Gateway) -> None:
        """Every process of it."""
        while pids := gateway.host.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in gateway.processes.values():
            process.wait()

        def again() -> None:
            gateway.engine = gateway.host.engine(INTERFACE, settings=settings(gateway.number), wait=False)
            self.scene.start_gateway(gateway)

        self.kills["gateway"] += 1
        self._start_later(f"gateway {gateway.number}", again)

    def _is_busy(self, gateway: Gateway) -> bool:
        return any(name.endswith(f" {gateway.number}") for name in self._busy)

    def _start_later(self, name: str, start: Callable[[], None]) -> None:
        self._busy.add(name)

        def again() -> None:
            start()
            self._busy.discard(name)

        self._again.append((time.monotonic() + self._random.uniform(*AWAY), again))

    def _start_what_ended(self) -> None:
        """As a service manager does: a sync ends that finds no store at its start, `plait routes` without an
        engine. An engine never ends by itself."""
        for gateway in self.scene.gateways:
            for name, process in gateway.processes.items():
                whole = f"{name} {gateway.number}"
                if process.poll() is None or whole in self._busy or f"gateway {gateway.number}" in self._busy:
                    continue
                if name == "plaitd":
                    raise Failure(f"{whole} ended", process.output().strip()[-300:], "See its log")
                self.ended[name] += 1
                self._start_later(whole, partial(self.scene.start_beside, gateway, name))

    def _start_store(self) -> None:
        """Its backends see that it is gone a moment later, and until then it does not start."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.store.start()
            except Failure:
                if time.monotonic() > until:
                    raise
                time.sleep(TURN)

    # --- what goes on meanwhile ---------------------------------------------------------------------

    def _turn(self) -> None:
        self.scene.look_at_router()
        self._start_what_ended()
        for entry in [each for each in self._again if each[0] <= time.monotonic()]:
            self._again.remove(entry)
            entry[1]()
        if self._clients is not None and self._clients.poll() is not None:
            raise Failure("the clients ended", self._clients.output().strip()[-300:], "See what they say")
        time.sleep(TURN)

    def _write(self) -> None:
        """A customer comes who never calls, or one of these goes."""
        import psycopg

        try:
            if self._others and self._random.random() < 0.4:
                key = self._random.choice(self._others)
                self.store.run("delete from plait.peer where public_key = %s", key)
                self._others.remove(key)
            else:
                _, key = lab.keypair()
                number = len(self.scene.clients) + self.written
                self.store.run(
                    "insert into plait.peer (public_key, allowed_ips) values (%s, %s::cidr[])",
                    key, [f"{self.scene.inner(number)}/32"],
                )  # fmt: skip
                self._others.append(key)
            self.written += 1
        except psycopg.OperationalError:
            self.refused += 1

    def _table(self) -> dict[str, list[str]]:
        found = self.store.run("select public_key, allowed_ips::text[] from plait.peer")
        return {key: sorted(ips) for key, ips in found}

    def _all_routed(self) -> bool:
        routed = [to for each in self.scene.gateways for to in self.scene.routes.of(each.address)]
        return set(self.scene.clients.values()) <= set(routed)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        if not self._came(is_so):
            raise Failure("the fleet does not start", f"not within {PATIENCE:.0f} s: {what}", "See above")

    def _hope(self, is_so: Callable[[], bool], what: str) -> None:
        if not self._came(is_so):
            self.wrong.append(f"not within {PATIENCE:.0f} s: {what}")

    def _came(self, is_so: Callable[[], bool]) -> bool:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self._turn()
            if is_so():
                return True
        return False


def has_table(gateway: Gateway, table: dict[str, list[str]]) -> bool:
    """Whether its engine has these peers and no others."""
    return peers_of(gateway) == table


def peers_of(gateway: Gateway) -> dict[str, list[str]]:
    """The peers of its engine; none when it cannot be asked now."""
    with contextlib.suppress(Failure):
        return {peer.public_key: sorted(peer.allowed_ips) for peer in uapi_client.get(gateway.socket).peers}
    return {}


def workers_of(host: Host) -> list[int]:
    """The pids of the engine's workers there, control among them."""
    found = []
    for pid in host.pids():
        with contextlib.suppress(OSError):  # it has gone
            if Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").startswith(WORKERS):
                found.append(pid)
    return found


def run(clients: int, seconds: float, seed: int, step: Step) -> Found:
    """The whole of it. Failure when this machine lacks something."""
    demo.check("postgresql")
    with Lab() as laboratory:
        step(f"three gateways, a router, a store, {clients} clients; seed {seed}")
        scene = Scene(laboratory, "postgresql", clients)
        with contextlib.closing(scene.server):
            fleet = Fleet(scene, seed)
            fleet.start()
            step(f"kills for {seconds:.0f} s")
            fleet.go_on(seconds)
            step("the end: everything runs again")
            fleet.end()
            scene.load.signal(signal.SIGINT)
            if scene.load.wait(PATIENCE):
                raise Failure(
                    "the clients cannot be counted", scene.load.output().strip()[-300:], "See above"
                )
            told = json.loads((scene.client.root / "run/found.json").read_text())
            rows = fleet.rows()
    if told["sessions"] != clients:
        fleet.wrong.append(f"{told['sessions']} of {clients} clients have a session")
    if told["wrong"]:
        fleet.wrong.append(f"clients got {told['wrong']} messages that no honest gateway sends")
    longest = told["gaps"].get("max", 0.0)
    return Found(
        seed,
        seconds,
        dict(fleet.kills),
        dict(fleet.ended),
        rows,
        fleet.written,
        fleet.refused,
        clients,
        longest,
        fleet.wrong,
    )


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True)
@click.option("--clients", type=click.IntRange(1, 10_000), default=200, show_default=True)
@click.option("--seed", type=int, default=None, help="Of what is killed, and when. Default: by chance.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def kills(minutes: float, clients: int, seed: int | None, as_json: bool) -> None:
    """Kill store, syncs, routing daemons, workers and gateways of a fleet at random.

    Needs root, BIRD, nftables and PostgreSQL.

    Exit code 1 when an engine does not have the table in the end, or a client no session; 99 when one was
    without an answer for more than 20 s.
    """
    seed = random.randrange(1 << 31) if seed is None else seed
    with interruptible(), steps("fleet kills") as step:
        found = run(clients, minutes * 60, seed, step)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(found.kills.items()))
        click.echo(f"killed in {found.seconds:.0f} s (seed {found.seed}): {counted}")
        if found.ended:
            ended = ", ".join(f"{count} {what}" for what, count in sorted(found.ended.items()))
            click.echo(f"ended by themselves, and were started again: {ended}")
        click.echo(f"rows written: {found.written}, {found.refused} more while the store was away")
        click.echo(
            f"rows in the end: {found.rows}; longest a client was without an answer: {found.longest:.1f} s"
        )
    for line in found.wrong:
        click.echo(f"fleet kills: wrong: {line}", err=True)
    if found.wrong:
        sys.exit(1)
    if found.longest > SILENT:
        sys.exit(EXIT_SHARE)


if __name__ == "__main__":
    try:
        kills(prog_name="python -m tests.robustness.fleet.kills")
    except Failure as failure:
        sys.exit(f"fleet kills: {failure}")
