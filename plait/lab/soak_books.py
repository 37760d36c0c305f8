"""The books of two engines and the hosts around them: what went in is what came out plus what was counted.

    sender ─▶ TUN ─▶ engine ─▶ UDP ══ cable ══▶ UDP ─▶ engine ─▶ TUN ─▶ reader      and the same way back

An Account is all that one end has counted so far; `balance` compares two looks at both ends, taken at rest.
Causes are the engine's own (shm/counters.h), `kernel_drops` of its report, and what the host's IP and UDP
count: a closed port, an address that is not there, a full buffer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shm.marks import marked

# The ends of shm/counters.h, by the way that a packet goes; those of BOTH tell no direction.
INBOUND: Final = marked("end in")
OUTBOUND: Final = marked("end out")
BOTH: Final = marked("end both")
ENDS: Final = INBOUND + OUTBOUND + BOTH
LOSSES: Final = marked("end in", "end out", "end both", but="fine")
ON_THE_WIRE: Final = marked("wire")
# /proc/net/snmp and netstat: why a host gives no IPv4 datagram to a socket, each once.
HOST: Final = (
    ("Ip", "InHdrErrors"), ("Ip", "InAddrErrors"), ("Ip", "InDiscards"), ("Udp", "NoPorts"),
    ("Udp", "InErrors"), ("IpExt", "InNoRoutes"), ("TcpExt", "IPReversePathFilter"),
)  # fmt: skip


@dataclass
class Account:
    """What one end has counted since its start."""

    sent: int  # by the senders inside, which the kernel took
    received: int  # by the reader inside
    counters: Mapping[str, int]
    tun_drops: int  # kernel_drops: the TUN's queue was full
    host: Mapping[str, int] = field(default_factory=dict)

    def __sub__(self, before: Account) -> Account:
        return Account(
            self.sent - before.sent,
            self.received - before.received,
            {name: count - before.counters.get(name, 0) for name, count in self.counters.items()},
            self.tun_drops - before.tun_drops,
            {name: count - before.host.get(name, 0) for name, count in self.host.items()},
        )

    def sum(self, names: tuple[str, ...]) -> int:
        return sum(self.counters[name] for name in names)

    def lost(self) -> Counter[str]:
        """Packets that ended here, by cause."""
        found = Counter({"kernel_drops tun": self.tun_drops})
        found.update({name: self.counters[name] for name in LOSSES})
        found.update(self.host)
        return +found


@dataclass(frozen=True)
class Gap:
    """Where the books of a span do not balance: packets that are missing (or, below 0, too many)."""

    where: str
    packets: int

    def __str__(self) -> str:
        if self.packets > 0:
            return f"{self.packets} packets went into {self.where} and were neither seen nor counted behind"
        return f"{-self.packets} packets more than went into {self.where} were seen or counted behind"


def balance(spans: Mapping[str, Account]) -> Iterator[Gap]:
    """The gaps of a span of time, between two looks at rest; spans: of both ends, by name."""
    (one, a), (two, b) = spans.items()
    for name, there, peer, here in ((one, a, two, b), (two, b, one, a)):
        strays = there.counters["drop_no_peer_multicast"]
        yield from _gap(f"the TUN of {name}", there.sent + strays - there.counters["tun_received"]
                        - there.tun_drops)  # fmt: skip
        yield from _gap(
            f"the engine of {name}",
            there.counters["tun_received"] + there.counters["udp_received"] - there.sum(ENDS),
        )
        # The host's figures do not say whether a datagram was one of the cable or had come out of the tunnel.
        cable = there.sum(ON_THE_WIRE) - here.counters["udp_received"]
        inside = here.counters["tun_sent"] - here.received
        yield from _gap(f"the cable to {peer} and the host there", cable + inside - sum(here.host.values()))


def _gap(where: str, packets: int) -> Iterator[Gap]:
    if packets:
        yield Gap(where, packets)


def host_counts(pid: int) -> dict[str, int]:
    """The figures of HOST of the network namespace that a process is in."""
    found = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
        for titles, values in zip(lines[::2], lines[1::2], strict=True):
            group, _, words = titles.partition(": ")
            numbers = dict(zip(words.split(), values.split()[1:], strict=True))
            keys = (key for at, key in HOST if at == group and key in numbers)
            found.update({f"{group} {key}": int(numbers[key]) for key in keys})
    return found
