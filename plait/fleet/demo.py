"""`plait fleet demo`: three gateways, their router, their store and clients on this machine; one is killed.

The hosts are made by fleet/demo_scene.py and end with this process, however it ends. Clients connect and
send echoes; rows are added to the store all the while; then every process of the gateway that has most
clients is killed with SIGKILL, and the demo waits until its clients are at the other two. What is wrong is
collected in Result.wrong: a demo that finds anything there exits with 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from plait import extras, uapi_client
from plait.failure import Failure
from plait.fleet.demo_picture import picture
from plait.fleet.demo_result import Clients, Echoes, GatewayResult, Lag, Result, Times, show, times
from plait.fleet.demo_scene import GATEWAYS, Gateway, Scene
from plait.keys import encode
from plait.lab import namespaces as lab
from plait.lab import postgresql
from plait.lab.namespaces import Lab
from plait.lab.steps import Step, steps
from plait.result_file import ResultFile
from plait.signals import interruptible

PROGRAMS: Final = ("wg", "nft", "bird", "setpriv", lab.PLAIT[0])
SETTLE: Final = 3.0  # seconds of use before the kill, and behind the last client's return
CHANGE_EVERY: Final = 0.5  # seconds between two rows that are added
LOOK_EVERY: Final = 0.25  # seconds between two looks at all handshakes
TURN: Final = 0.02
PATIENCE: Final = 120.0  # seconds until what is waited for is given up
SECOND: Final = 1_000_000_000


def run(*, clients: int, store: str, svg: str | None, as_json: bool) -> int:
    """Run it and print what was found on stdout. 0, or 1 when anything is wrong. Failure before anything is
    built when this machine lacks something."""
    check(store)
    with contextlib.ExitStack() as stack:
        file = None if svg is None else stack.enter_context(ResultFile(svg))
        stack.enter_context(interruptible())
        step = stack.enter_context(steps("fleet demo"))
        result = play(clients, store, step)
        if file is not None:
            file.last(picture(result))
    if as_json:
        json.dump(dataclasses.asdict(result), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(result)
    for line in result.wrong:
        print(f"plait: wrong: {line}", file=sys.stderr)
    return 1 if result.wrong else 0


def check(store: str) -> None:
    """Failure when something is missing here."""
    library = {"nats": "nats"}.get(store, "psycopg")
    extras.require(library, "the fleet demo cannot start")
    server = ["nats-server"] if store == "nats" else [] if postgresql.programs() else ["initdb"]
    for lack in lab.missing(*PROGRAMS, *server):
        raise Failure(f"the fleet demo cannot start: {lack.what}", lack.why, lack.next_step)


def play(clients: int, store: str, step: Step) -> Result:
    """The whole of it."""
    with Lab() as laboratory:
        step(f"hosts: {len(GATEWAYS)} gateways, a router, a store, {clients} clients")
        scene = Scene(laboratory, store, clients)
        with contextlib.closing(scene.server):
            return Play(scene, Result(clients, store), step).whole()


class Change(NamedTuple):
    """A row that was added and is not in force everywhere yet."""

    public_key: str
    at: float  # time.time()
    waiting: set[int]  # gateways


class Play:
    """What is done in a scene, and what is found there."""

    def __init__(self, scene: Scene, result: Result, step: Step) -> None:
        self._scene, self._result, self._step = scene, result, step
        self._live = list(scene.gateways)
        self._change: Change | None = None
        self._change_due = 0.0
        self._added: list[str] = []
        self._killed_at = 0.0  # time.time()

    def whole(self) -> Result:
        """In order."""
        scene, step = self._scene, self._step
        step("addresses and routes; the router steers by the index")
        scene.connect_hosts()
        step(f"the store: {scene.kind}, with the clients in it")
        scene.fill_store()
        step("an engine, `plait sync`, `plait routes` and BIRD at each gateway")
        for gateway in scene.gateways:
            scene.start_gateway(gateway)
        self._until(lambda: len(scene.ready()) == len(GATEWAYS), "the router hears that all are ready")
        step("the clients connect")
        scene.start_clients()
        self._until(self._all_connected, "each client has a session, and the router a route to it")
        victim = max(scene.gateways, key=lambda each: len(scene.routes.of(each.address)))
        step(f"use: echoes of all clients, a new row in the store every {CHANGE_EVERY} s")
        self._go_on(SETTLE)
        theirs = self._note_before(victim)
        step(f"kill -9 of everything at gateway {victim.number}, which has {len(theirs)} clients")
        self._kill(victim)
        step("its clients hear nothing, and begin new handshakes after 15 s")
        self._hope(lambda: self._moved(theirs) == len(theirs), "its clients have sessions elsewhere")
        self._hope(lambda: self._rerouted(theirs) == len(theirs), "the router has routes to them")
        self._go_on(SETTLE)
        step("the end: what clients and gateways say")
        self._note_after(victim, theirs)
        return self._result

    # --- while it goes on ---------------------------------------------------------------------------

    def _turn(self) -> None:
        """What is to be done all the time."""
        self._scene.check()
        self._scene.look_at_router()
        if self._change is not None:
            self._look_for(self._change)
        elif self._change_due and time.monotonic() >= self._change_due:
            self._add_row()
        time.sleep(TURN)

    def _add_row(self) -> None:
        """A customer more, who never comes."""
        _, public = lab.keypair()
        address = self._scene.inner(len(self._scene.clients) + len(self._added))
        self._scene.server.add([(public, f"{address}/32")])
        self._added.append(public)
        self._change = Change(public, time.time(), {each.number for each in self._live})
        self._change_due = time.monotonic() + CHANGE_EVERY

    def _look_for(self, change: Change) -> None:
        for gateway in self._live:
            if gateway.number in change.waiting:
                with contextlib.suppress(uapi_client.Unknown):
                    uapi_client.get_peer(gateway.socket, change.public_key)
                    lag = Lag(change.at, gateway.number, time.time() - change.at)
                    self._result.timeline.lags.append(lag)
                    change.waiting.discard(gateway.number)
        if not change.waiting:
            self._change = None
        elif time.time() - change.at > PATIENCE:
            self._result.wrong.append(f"a row of the store did not come to gateways {sorted(change.waiting)}")
            self._change = None

    def _go_on(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._change_due = self._change_due or time.monotonic()
        while time.monotonic() < until:
            self._turn()

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        """Go on until something is so. Failure when it is not within PATIENCE."""
        if not self._came(is_so):
            why = f"not within {PATIENCE:.0f} s: {what}"
            raise Failure("the fleet demo does not come to its end", why, "Is this machine very busy?")

    def _hope(self, is_so: Callable[[], bool], what: str) -> None:
        """Go on until something is so. What is not so within PATIENCE is wrong, and the demo goes on."""
        if not self._came(is_so):
            self._result.wrong.append(f"not within {PATIENCE:.0f} s: {what}")

    def _came(self, is_so: Callable[[], bool]) -> bool:
        until, look = time.monotonic() + PATIENCE, 0.0
        while (now := time.monotonic()) < until:
            self._turn()
            if now >= look:
                if is_so():
                    return True
                look = now + LOOK_EVERY
        return False

    def _all_connected(self) -> bool:
        load = self._scene.load
        if load.poll() is not None:
            raise Failure("the clients ended", load.output().strip()[-300:], "See what they say")
        routed = [to for each in self._live for to in self._scene.routes.of(each.address)]
        return set(self._scene.clients.values()) <= set(routed)

    # --- the kill -----------------------------------------------------------------------------------

    def _kill(self, victim: Gateway) -> None:
        """SIGKILL to every process of a gateway, until none is left. Its host and cable stay."""
        self._live.remove(victim)
        self._scene.gateways.remove(victim)
        if self._change is not None:
            self._change.waiting.discard(victim.number)
        self._killed_at = time.time()
        while any(process.poll() is None for process in victim.processes.values()) or victim.host.pids():
            for pid in victim.host.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.time() > self._killed_at + PATIENCE:
                raise Failure("a gateway cannot be killed", "its processes stay", "See what they wait for.")

    def _moved(self, theirs: set[bytes]) -> int:
        """How many of these clients have a session at another gateway since the kill."""
        since = int(self._killed_at * SECOND)
        found = [gateway.handshakes() for gateway in self._live]
        return sum(any(each.get(key, 0) > since for each in found) for key in theirs)

    def _rerouted(self, theirs: set[bytes]) -> int:
        """How many of these clients the router has a route to."""
        routed = set().union(*(self._scene.routes.of(each.address) for each in self._live))
        return sum(self._scene.clients[key] in routed for key in theirs)

    # --- what is found ------------------------------------------------------------------------------

    def _note_before(self, victim: Gateway) -> set[bytes]:
        """Each gateway as it is before the kill; the keys of the victim's clients."""
        for gateway in self._scene.gateways:
            counters = gateway.engine.counters()
            there = self._scene.routes.of(gateway.address)
            self._result.gateways.append(GatewayResult(
                gateway.number, gateway is victim, len(there), 0, counters["hs_initiation_accepted"], 0,
                counters["drop_index_unknown"], 0,
            ))  # fmt: skip
            if counters["drop_index_unknown"]:
                what = f"{counters['drop_index_unknown']} messages came to a gateway without their session"
                self._result.wrong.append(f"before the kill, {what} (gateway {gateway.number})")
        self._result.killed = victim.number
        there = self._scene.routes.of(victim.address)
        return {key for key, address in self._scene.clients.items() if address in there}

    def _note_after(self, victim: Gateway, theirs: set[bytes]) -> None:
        result, scene = self._result, self._scene
        result.moved = self._moved(theirs)
        self._change_due = 0.0
        self._until(lambda: self._change is None, "the last row is in force")
        for gateway in self._live:
            told = next(each for each in result.gateways if each.number == gateway.number)
            counters = gateway.engine.counters()
            told.clients_after = len(scene.routes.of(gateway.address))
            told.handshakes_after = counters["hs_initiation_accepted"] - told.handshakes_before
            told.unknown_after = counters["drop_index_unknown"] - told.unknown_before
            have = {peer.public_key for peer in uapi_client.get(gateway.socket).peers}
            wanted = {encode(key) for key in scene.clients} | set(self._added)
            if have != wanted:
                what = f"{len(wanted - have)} peers of the store missing, {len(have - wanted)} others"
                result.wrong.append(f"gateway {gateway.number}: {what}")
        self._note_times(victim, theirs)
        self._note_clients()

    def _note_times(self, victim: Gateway, theirs: set[bytes]) -> None:
        """What the router was told, and how rows came into force."""
        result, scene = self._result, self._scene
        addresses = {scene.clients[key] for key in theirs}
        withdrawn: dict[str, float] = {}
        rerouted: dict[str, float] = {}
        others = {each.address for each in self._live}
        for at, to, via in scene.routes.moves:
            if to in addresses and at >= self._killed_at:
                withdrawn.setdefault(to, at - self._killed_at)
                if via in others:
                    rerouted.setdefault(to, at - self._killed_at)
        result.withdrawn, result.rerouted = times(withdrawn.values()), times(rerouted.values())
        result.changes = len(self._added)
        result.sync_lag = times(lag.seconds for lag in result.timeline.lags)
        for lag in result.timeline.lags:
            lag.at, lag.seconds = round(lag.at - self._killed_at, 3), round(lag.seconds, 3)
        result.timeline.clients = list(self._clients_by_gateway(victim))

    def _clients_by_gateway(self, victim: Gateway) -> Iterator[Clients]:
        """How many the router sends to each: an entry for each LOOK_EVERY in which that changed."""
        numbers = {each.address: each.number for each in (victim, *self._live)}
        via: dict[str, str] = {}
        moves = self._scene.routes.moves
        for at, several in itertools.groupby(moves, key=lambda move: move.at // LOOK_EVERY):
            via |= {move.to: move.via for move in several}
            counts = Counter(numbers[hop] for hop in via.values() if hop in numbers)
            seconds = round((at + 1) * LOOK_EVERY - self._killed_at, 3)
            yield Clients(seconds, {number: counts[number] for number in sorted(numbers.values())})

    def _note_clients(self) -> None:
        """The clients end, and tell."""
        result, load = self._result, self._scene.load
        load.signal(signal.SIGINT)
        if load.wait(PATIENCE):
            raise Failure("the clients cannot be counted", load.output().strip()[-300:], "See what they say")
        found = json.loads((self._scene.client.root / "run/found.json").read_text())
        result.handshakes = found["handshakes"]
        result.gaps = Times(found["waited"], _rounded(found["gaps"]))
        result.renewals = Times(found["renewed"], _rounded(found["renewals"]))
        result.timeline.echoes = [
            Echoes(round(each["at"] - self._killed_at, 3), each["asked"], each["answered"])
            for each in found["series"]
        ]
        if found["wrong"]:
            result.wrong.append(f"clients got {found['wrong']} messages that no honest gateway sends")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
