"""A TCP stream through a tunnel to which something is done: all bytes arrive, under the same keys."""

from __future__ import annotations

import json
import time
from types import TracebackType

import plait.lab.soak_stream
from tests.support.tunnel import PYTHON, Side

STREAM = str(plait.lab.soak_stream.__file__)
PORT = 7000
ACCEPTED = ("hs_response_accepted", "hs_initiation_accepted")


def pid_of(side: Side, title: str) -> int | None:
    """A process of the engine by the end of its title, numbered as in this test."""
    return side.host.titles(side.interface).get(title)


class Stream:
    """From one side to the other, as long as it is entered. The session is there before."""

    def __init__(self, one: Side, two: Side) -> None:
        self.one, self.two = one, two
        self.deeds: list[tuple[str, float, float]] = []
        self.sessions = one.handshake(), two.handshake()
        self.receiver = two.host.popen([*PYTHON, STREAM, "receive", str(PORT)])
        two.host.wait_listening(PORT, self.receiver)
        self.sender = one.host.popen([*PYTHON, STREAM, "send", two.address4, str(PORT), "/run/enough"])

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        (self.one.host.root / "run/enough").touch()

    def note(self, deed: str, begun: float) -> None:
        """What was done since then (time.monotonic())."""
        self.deeds.append((deed, begun, time.monotonic()))

    def check(self) -> None:
        """All bytes are there, and the keys are the same.

        How long a deed stalled the stream is printed, not judged: a busy machine has its say in it.
        docs/reliability.md has figures, of `plait soak`. A stream that stands for a minute gives up.
        """
        assert (self.sender.wait(), self.receiver.wait()) == (0, 0), (
            self.sender.output() + self.receiver.output()
        )
        sent, got = json.loads(self.sender.output()), json.loads(self.receiver.output())
        assert (got["bytes"], got["sha256"]) == (sent["bytes"], sent["sha256"])
        for deed, begun, done in self.deeds:
            pauses = [s for end, s in got["stalls"] if begun < end and end - s < max(done, begun + 2)]
            print(f"{deed:32}{max(pauses, default=0.0) * 1000:8.1f} ms in {done - begun:.1f} s")
        assert (self.one.handshake(), self.two.handshake()) == self.sessions
        assert sum(self.one.counters()[name] for name in ACCEPTED) == 1
