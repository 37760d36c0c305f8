"""What floods of initiations leave of a TCP stream.

usage: python -m tests.interop.floods [SECONDS [RATE [ROUNDS]]]

For each kind (flooder.py; two of them beside a provider that refuses every key): the flood alone, for its
CPU; then, by turns, a stream through a tunnel of two Plait engines, and one while the flood goes to the
engine that receives it, from the sender's host. All on this machine, the flooder beside them. Prints medians
of the rates, their ratio, CPU of control and of the receivers and consumers for each message of the flood
alone, and what the engine counted meanwhile; exits with 99 when a stream kept less than KEPT of its rate.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from plait.bench.implementation import cpu_seconds
from plait.lab.namespaces import PLAIT, Lab, Process
from tests.support.provider import PROVIDER
from tests.support.tunnel import PORT, two_hosts
from tests.support.waiting import until

KINDS = ("nothing", "mac1", "cookie", "strangers", "garbage")
PROVIDED = ("strangers", "garbage")  # while a provider serves, which refuses all that it is asked about
KEPT = 0.7
FLOODER = Path(__file__).with_name("flooder.py")


@dataclass
class Alone:
    """A flood and nothing else: microseconds of CPU a message, and the ends of those messages."""

    control_us: float
    others_us: float
    ends: dict[str, int]


class Scene:
    """A tunnel, and a flooder of one kind."""

    def __init__(self, lab: Lab, kind: str, rate: int) -> None:
        self.tunnel = two_hosts(lab, PLAIT, PLAIT)
        self.one, self.two = self.tunnel.sides
        self.one.echo(self.two.address4)
        key = b64decode(self.two.public_key).hex()
        if kind in PROVIDED:
            command = [sys.executable, "-P", "-c", PROVIDER, self.two.interface, "refuse"]
            self.two.host.popen(command)
            until(lambda: self.two.engine.report()["on_demand"]["providers"], "a provider")
        self.words = [self.tunnel.link.address(self.two.host), PORT, key, kind, rate]

    def flood(self, seconds: float) -> Process:
        return self.one.host.popen([sys.executable, str(FLOODER), *map(str, [*self.words, seconds])])

    def stream(self, seconds: float, *extra: str) -> float:
        return self.one.host.iperf3(self.two.host, self.two.address4, seconds, extra=extra).bits_per_second

    def flooded(self, seconds: float) -> tuple[float, float]:
        """Bits a second, and messages a second that were sent."""
        flooder = self.flood(seconds + 1.5)
        bits = self.stream(seconds, "-O", "1")
        flooder.wait(seconds + 30)
        return bits, int(flooder.output().split()[0]) / (seconds + 1.5)

    def alone(self, seconds: float) -> Alone:
        titles = self.two.host.titles(self.two.interface)
        control = [titles["control"]]
        others = [pid for title, pid in titles.items() if title.startswith(("receiver", "consumer"))]
        counted, used = self.two.counters(), [cpu_seconds(group) for group in (control, others)]
        flooder = self.flood(seconds)
        flooder.wait(seconds + 30)
        sent = int(flooder.output().split()[0])
        us = [
            (cpu_seconds(group) - before) / sent * 1e6
            for group, before in zip((control, others), used, strict=True)
        ]
        gained = {name: count - counted[name] for name, count in self.two.counters().items()}
        causes = ("hs_", "drop_mailbox", "unknown_")
        ends = {name: count for name, count in gained.items() if count and name.startswith(causes)}
        return Alone(us[0], us[1], ends)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    kept_all = True
    print(f"{'right':<9} {'Gbit/s':>7} {'flooded':>8} {'kept':>5} {'sent/s':>8} {'control us':>11}"
          f" {'others us':>10}  ends of the flood alone")
    for kind in KINDS:
        with Lab() as lab:
            scene = Scene(lab, kind, rate)
            alone = scene.alone(seconds)
            calm, during, sent = [], [], []
            for _ in range(rounds):
                calm.append(scene.stream(seconds) / 1e9)
                bits, a_second = scene.flooded(seconds)
                during.append(bits / 1e9)
                sent.append(a_second)
            scene.tunnel.check()
        kept = median(during) / median(calm)
        kept_all &= kept >= KEPT
        ends = ", ".join(f"{name} {count}" for name, count in alone.ends.items())
        print(f"{kind:<9} {median(calm):>7.2f} {median(during):>8.2f} {kept:>5.2f} {median(sent):>8.0f}"
              f" {alone.control_us:>11.1f} {alone.others_us:>10.1f}  {ends}", flush=True)
    return 0 if kept_all else 99


if __name__ == "__main__":
    sys.exit(main())
