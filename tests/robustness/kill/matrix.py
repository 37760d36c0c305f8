"""A whole engine killed at each marked point, one after another, under numbered packets both ways.

    python -m tests.robustness.kill.matrix             every point, in both hand-offs and with batches shared
    python -m tests.robustness.kill.matrix --handoff inline rotation      points with that word in them
    python -m tests.robustness.kill.matrix --seed 7    others of a point's passings

For each point: a process is held there until the others have shown that they go on, killed, repaired after,
replaced. Then everything must flow again, and once nothing flows: the segment is whole (shm/valid.c), every
node, token and keypair is back, what is missing of the numbers was counted, and is no more than the promise.
Over the whole time no nonce twice on the wire, no packet twice, none out of its peer's order.

Prints a line for each point, with what it cost; exit code 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from engine import noise
from plait.lab.namespaces import Lab, state, title
from plait.watch.processes import children
from shm.marks import marked
from tests.robustness.kill import cases, points
from tests.robustness.kill.cases import CONSUMER, CONTROL, MODES, RECEIVER, SHARED, Case
from tests.robustness.kill.numbered import BURST, Strand, Traffic
from tests.support.segment_words import Memory, reserved
from workers._workers import lib
from workers.handoffs import INLINE, PIPELINE, current

PORT = 51820
SETTINGS = """receivers = 1
consumers = 2
max_peers = 64
small_slots = 256
train_slots = 40
handoff = "{}"
share = "{}"
"""
TITLES = (RECEIVER, CONSUMER, "consumer 1", CONTROL)
IN, OUT = 0, 1  # ways of a strand
MESSAGES = 64  # of one receive call: datagrams, or trains of them
HELD = 40  # datagrams of a train while a consumer is held
TAKEN = 64 + HELD  # a consumer's batch: the last it takes may be a train
REACH_SECONDS = 60.0
STAND_SECONDS = 60.0  # at the point, at most
BACK_SECONDS = 60.0
REST_SECONDS = 60.0
SESSION_SECONDS = 0.1
SLOW = 0.05  # seconds between bursts while somebody is away: what the kernel keeps meanwhile is not much
DROPS = ("drop_queue_full_inbound", "drop_queue_full_outbound", "drop_no_slot", "drop_no_slot_outbound",
         "drop_peer_share", "drop_peer_share_outbound")  # fmt: skip
NOTHING_IN_HAND = ("take:", "give:", "sleep:", "order:", "retire:", "ring:", "rotation: key")
UNSEEN = "schedule: token queued, no ready bit"
GUEST = "10.0.0.99/32"


@dataclass
class Outcome:
    """What one kill came to."""

    case: Case
    passing: int
    back_ms: float = 0.0  # from the kill until packets of both strands came through again, both ways
    lost: int = 0  # packets that did not arrive
    counted: int = 0  # of all that is in hand of the dead: DROP_KILLED
    dropped: int = 0  # for want of room, counted by cause
    mended: int = 0  # wakes that only the sweep found
    wrong: tuple[str, ...] = ()


class Matrix:
    """An engine with points, its strands, and one kill after another."""

    def __init__(self, lab: Lab, handoff: str, command: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        gateway, field = lab.add_hosts(["gateway", "field"])
        link = lab.link(gateway, field)
        self.request = points.Request(gateway.root / points.FILE.lstrip("/"))
        environment = {"PLAIT_POINTS": points.FILE}
        self.engine = gateway.engine("wg0", command, settings=settings_of(handoff),
                                     environment=environment, wait=False).wait_ready(60)  # fmt: skip
        identity = noise.Identity(os.urandom(32))
        self.traffic = Traffic(link, identity.public_key, PORT, 2)
        key = base64.b64encode(identity.private_key).decode()
        self.engine.configure(key, [], ["10.0.0.1/24"], PORT)
        self.guest = noise.Identity(os.urandom(32)).public_key.hex()
        self.set("".join(strand.section for strand in self.traffic.strands))
        self.memory = Memory(self.engine.process.pid)
        self.asking = ThreadPoolExecutor(1)
        self.asked: Future[str] | None = None
        self.next_deed = 0.0
        self.held: int | None = None
        self.traffic.begin()

    # -- asking the engine ----------------------------------------------------------------------

    def set(self, text: str) -> None:
        answer = self.engine.uapi(f"set=1\n{text}\n")
        if answer != "errno=0\n\n":
            raise RuntimeError(f"set refused: {answer!r}")

    def report(self) -> dict[str, Any]:
        return self.engine.report()

    def handshake_time(self, strand: Strand) -> float:
        """What `wg show` calls the latest handshake."""
        key = f"public_key={strand.identity.public_key.hex()}\n"
        text = self.engine.uapi("get=1\n\n").partition(key)[2]
        lines = dict(line.split("=", 1) for line in text.partition("public_key=")[0].split("\n") if line)
        return int(lines["last_handshake_time_sec"]) + int(lines["last_handshake_time_nsec"]) / 1e9

    def pids(self) -> dict[str, int]:
        """The engine's processes by title."""
        titled = {title(pid): pid for pid in children(self.engine.process.pid)}
        return {name.removeprefix("plait: wg0 "): pid for name, pid in titled.items() if name}

    # -- one kill -------------------------------------------------------------------------------

    def kill(self, case: Case) -> Outcome:
        """Hold, kill, wait, look. What was wrong stands in the outcome."""
        outcome = Outcome(case, self.random.randint(1, 3) if case.cause == cases.TRAFFIC else 1)
        self.await_all(TITLES)
        self.traffic.settle()
        before, lost_before = self.counters(), self.traffic.lost
        pid = self.pids()[case.victim]
        self.request.ask(pid, case.point, outcome.passing)
        is_reached = self.traffic.pump(REACH_SECONDS, lambda: self.cause(case) or self.request.is_reached)
        self.request.withdraw()
        self.let_go()
        if not is_reached:
            outcome.wrong = (f"not reached in {REACH_SECONDS:.0f} s",)
            return outcome
        wrong = list(self.others_go_on(case))
        died_at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        try:
            self.await_all({case.victim}, other_than=pid)
            self.await_flow()
            outcome.back_ms = round(1000 * (time.monotonic() - died_at), 1)
            wrong += self.at_rest(case, outcome, before, lost_before)
        except TimeoutError as error:
            wrong.append(str(error))
        outcome.wrong = tuple(wrong + self.traffic.wrong())
        return outcome

    def cause(self, case: Case) -> None:
        """Besides the bursts: what makes the process come by. Called often."""
        now = time.monotonic()
        if now < self.next_deed:
            return
        self.next_deed = now + SESSION_SECONDS
        strand = self.traffic.strands[0]
        if case.cause == cases.SESSION:
            strand.renew()
        elif case.cause == cases.ROAM:
            strand.roam(self.traffic.selector)
        elif case.cause == cases.PEERS:
            self.change_peers()
        elif case.cause in (cases.FULL, cases.STARVE):
            self.hold_consumer(case)

    def change_peers(self) -> None:
        """A guest comes and goes, always in row 2; the answer is waited for elsewhere."""
        if self.asked is not None and not self.asked.done():
            return
        if self.memory.segment.rows[2].state != lib.PEER_UNUSED:
            return
        texts = (f"public_key={self.guest}\nallowed_ip={GUEST}\n", f"public_key={self.guest}\nremove=true\n")

        def change() -> str:
            for text in texts:
                self.engine.uapi(f"set=1\n{text}\n")
            return ""

        self.asked = self.asking.submit(change)

    def hold_consumer(self, case: Case) -> None:
        """Let packets pile up behind a consumer that does not run, then let it run: at once where the pile
        is there or the consumer itself is to come by, else until the next time."""
        cause = case.cause
        self.let_go()
        self.held = self.pids()[CONSUMER]
        os.kill(self.held, signal.SIGSTOP)
        strand = self.traffic.strands[1]  # consumer 0 has its outbound queue
        for _ in range(36 if cause == cases.FULL else 400):
            count = HELD if cause == cases.FULL else 1
            with contextlib.suppress(BlockingIOError):
                strand.push_out(self.traffic.inside, count, 60, is_train=cause == cases.FULL)
        time.sleep(0.05)
        if cause == cases.STARVE or case.victim == CONSUMER or self.request.is_reached:
            self.let_go()
        self.next_deed = time.monotonic() + 0.3

    def let_go(self) -> None:
        if self.held is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.held, signal.SIGCONT)
            self.held = None

    def others_go_on(self, case: Case) -> Iterator[str]:
        """While the victim stands: packets of whoever does not need it, and control's answers."""
        start = self.traffic.delivered
        if case.victim == RECEIVER:  # the only one
            answer = self.asking.submit(lambda: self.engine.uapi("get=1\n\n", STAND_SECONDS))
            if not self.traffic.pump(STAND_SECONDS, answer.done, SLOW) or answer.exception():
                yield "control did not answer meanwhile"
            return
        going = {(strand, way) for strand in (0, 1) for way in (IN, OUT)}
        if case.victim == CONSUMER:
            # It has strand 0's inbound queue and strand 1's outbound queue, consumer 1 the others (their rows
            # are 0 and 1); where strand 0 has orders, outbound waits for inbound, or is taken along.
            going -= {(0, IN), (1, OUT)}
            if case.cause != cases.TRAFFIC:
                going -= {(0, OUT)}
        elif case.point == UNSEEN:  # somebody has said that strand 0 is scheduled, and not yet where
            going -= {(0, IN), (0, OUT)}

        def is_going() -> bool:
            now = self.traffic.delivered
            return all(now[strand][way] > start[strand][way] for strand, way in going)

        if not self.traffic.pump(STAND_SECONDS, is_going, SLOW):
            yield f"packets of {sorted(going)} (strand, way) stood still meanwhile"

    def await_all(self, titles: Iterable[str], other_than: int = -1) -> None:
        """Until these processes are there."""
        wanted = set(titles)

        def are_there() -> bool:
            pids = self.pids()
            return wanted <= set(pids) and other_than not in pids.values()

        self.pump_until(are_there, f"no {', '.join(wanted)}")

    def await_flow(self) -> None:
        """Until packets that are sent from now on come through, each way of each strand."""
        marks = [(strand.sent_in, strand.sent_out) for strand in self.traffic.strands]

        def flows() -> bool:
            strands = zip(self.traffic.strands, marks, strict=True)
            return all(strand.arrived_last > mark[0] and strand.latest > mark[1] for strand, mark in strands)

        self.pump_until(flows, "packets do not flow again")

    def pump_until(self, condition: Callable[[], bool], complaint: str) -> None:
        looked_at, seen = 0.0, False

        def look() -> bool:
            nonlocal looked_at, seen
            if time.monotonic() >= looked_at + 0.02:
                looked_at, seen = time.monotonic(), condition()
            return seen

        if not self.traffic.pump(BACK_SECONDS, look, SLOW):
            raise TimeoutError(f"{complaint} within {BACK_SECONDS:.0f} s")

    # -- at rest --------------------------------------------------------------------------------

    def at_rest(
        self, case: Case, outcome: Outcome, before: dict[str, int], lost_before: int
    ) -> Iterator[str]:
        """Nothing is sent. What must hold then."""
        if case.cause == cases.SESSION:
            yield from self.renews()
        if case.cause == cases.PEERS:
            yield from self.guest_is_gone()

        def adds_up() -> bool:
            self.traffic.settle()
            after = self.counters()
            outcome.lost = self.traffic.lost - lost_before
            outcome.counted = after["drop_killed"] - before["drop_killed"]
            outcome.mended = after["lost_wakes"] - before["lost_wakes"]
            outcome.dropped = sum(after[name] - before[name] for name in DROPS)
            return outcome.lost <= outcome.counted + outcome.dropped

        if not _within(REST_SECONDS, adds_up):
            counted = f"{outcome.counted} counted as killed, {outcome.dropped} as dropped"
            yield f"{outcome.lost} packets lost, {counted}"
        if outcome.counted > promised(case):
            yield f"{outcome.counted} packets were in hand of the dead, promised are {promised(case)} at most"
        if outcome.mended:
            yield f"{outcome.mended} wakes were lost"
        yield from self.is_whole()

    def renews(self) -> Iterator[str]:
        """The present session was noted; a new one is made, and packets come in it."""
        strand = self.traffic.strands[0]
        if not _within(REST_SECONDS, lambda: self.handshake_time(strand) >= strand.began_at):
            yield "control does not know of the latest session"
        handshakes = strand.handshakes

        def is_renewed() -> bool:
            strand.renew()
            return strand.handshakes > handshakes

        try:
            self.pump_until(is_renewed, "no new session")
            self.await_flow()
        except TimeoutError as error:
            yield str(error)

    def guest_is_gone(self) -> Iterator[str]:
        """Whatever a change of peers had come to: it can be finished, and then leaves nothing."""
        if self.asked is not None:
            with contextlib.suppress(OSError):
                self.asked.result(60)
        self.set(f"public_key={self.guest}\nremove=true\n")
        if self.guest in self.engine.uapi("get=1\n\n"):
            yield "a removed peer is still there"
        if not _within(REST_SECONDS, lambda: self.memory.segment.rows[2].state == lib.PEER_UNUSED):
            yield "the row of a removed peer is not free again"
        if self.memory.segment.device.rows_used > 3:
            yield f"{self.memory.segment.device.rows_used} rows for 3 peers"

    def is_whole(self) -> Iterator[str]:
        """All nodes home, all tokens idle or dead, the segment valid."""
        segment = self.memory.segment

        def tokens() -> list[int]:
            return [int(lib.token_read(segment, queue)) for queue in range(2 * segment.device.rows_used)]

        idle = {lib.TOKEN_IDLE, lib.TOKEN_DEAD}
        if not _within(REST_SECONDS, lambda: not self.memory.nodes_out() and set(tokens()) <= idle):
            yield f"{self.memory.nodes_out()} nodes are not home, tokens {[hex(token) for token in tokens()]}"
        if not _within(REST_SECONDS, lambda: not self.memory.keypairs_out()):
            yield f"{self.memory.keypairs_out()} keypairs that nobody uses"
        if not _within(REST_SECONDS, lambda: not self.without_counter()):
            yield f"{self.without_counter()} handshake messages were taken and have no counter"
        if stray := [name for name, is_used in reserved(self.memory).items() if is_used]:
            yield f"not zero: {', '.join(stray)}"
        faults = ""
        for _ in range(20):  # a tick of control's may be under way
            with self.frozen():
                faults = self.memory.faults()
            if not faults:
                return
            time.sleep(0.05)
        yield f"the segment is not whole: {faults}"

    def without_counter(self) -> int:
        """Handshake messages that control took and did not count; nobody provides, so none is parked."""
        segment = self.memory.segment
        line = segment.counters[
            lib.WORKER_CONTROL * lib.COUNTERS_A_WORKER : (lib.WORKER_CONTROL + 1) * lib.COUNTERS_A_WORKER
        ]
        ended = sum(int(line[getattr(lib, name.upper())]) for name in marked("end message"))
        return (int(lib.mailbox_taken(segment)) - ended) % (1 << 32)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """No worker runs. (The supervisor must: nsenter would stop with it, and nobody would wake that.)"""
        pids = [pid for title, pid in self.pids().items() if title in TITLES]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            for pid in pids:
                _within(REST_SECONDS, lambda pid=pid: state(pid) in ("T", ""))
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.report()["counters"]
        return counters

    def end(self) -> list[str]:
        """What the whole of it must not have left."""
        self.asking.shutdown()
        words = self.engine.process.output()
        return [f"a process complained: {words[-3000:]}"] if "Traceback" in words else []


def settings_of(mode: str) -> str:
    """The settings of the engine: of a hand-off, or of SHARED."""
    return SETTINGS.format(*((INLINE, "always") if mode == SHARED else (mode, "never")))


def promised(case: Case) -> int:
    """What a kill may cost at most, in packets: a receive call of a receiver, a batch of a consumer."""
    has_none = case.victim == CONSUMER and case.handoff == PIPELINE and case.point.startswith(NOTHING_IN_HAND)
    if case.victim == CONTROL or has_none:
        return 0
    call = MESSAGES * (HELD if case.cause == cases.FULL else BURST)
    return call if case.victim == RECEIVER else TAKEN


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run(handoff: str, which: list[Case], seed: int, command: list[str]) -> Iterator[Outcome]:
    """The outcomes of these kills, one after another in one engine, started by the command of
    points.build(). Raises Failure, RuntimeError."""
    with Lab() as lab:
        matrix = Matrix(lab, handoff, command, seed)
        for case in which:
            outcome = matrix.kill(case)
            yield outcome
            if any("within" in words for words in outcome.wrong):  # it will not come to itself again
                print(matrix.engine.process.output()[-4000:], file=sys.stderr)
                return
        words = matrix.end()
        if words:
            yield Outcome(case, 0, wrong=tuple(words))


def _handoff(word: str) -> str:
    today, note = current(word)
    if note:
        print(f"--handoff {note}", file=sys.stderr)
    return today


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="python -m tests.robustness.kill.matrix",
                                     description="Kill a whole engine at each of its marked points.")
    made.add_argument("--handoff", choices=MODES, type=_handoff, action="append")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("words", nargs="*", help="only points with one of these in their names")
    return made


def main(arguments: list[str]) -> int:
    given = parser().parse_args(arguments)
    command = points.build()
    begun, count, bad = time.monotonic(), 0, 0
    print(f"{'':65}{'back ms':>9}{'lost':>6}{'counted':>9}{'dropped':>9}")
    for handoff in given.handoff or MODES:
        every = cases.cases(handoff)
        which = [case for case in every if not given.words or any(w in str(case) for w in given.words)]
        for outcome in run(handoff, which, given.seed, command):
            numbers = f"{outcome.back_ms:9}{outcome.lost:6}{outcome.counted:9}{outcome.dropped:9}"
            print(f"{outcome.case!s:65}{numbers}", flush=True)
            for words in outcome.wrong:
                print(f"    WRONG (passing {outcome.passing}): {words}", flush=True)
            count, bad = count + 1, bad + bool(outcome.wrong)
    print(f"{count} kills, {bad} with something wrong, {time.monotonic() - begun:.0f} s (seed {given.seed})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
