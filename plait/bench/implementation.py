"""What is compared: Plait in one of its modes, any other engine that `wg` configures, or the bare cable.

Each runs in the same lab: two hosts, a cable, at both ends an interface with MTU 1420 and one peer. Where a
figure needs a second peer, the receiving host has another cable to a third host.

    host a ── cable ── host b ── cable ── host c (the second peer)
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.constants import MTU
from plait.bench import competitors
from plait.failure import Failure
from plait.keys import decode
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab, Usage
from plait.lab.versions import program_version

INTERFACE = "wg0"
PORT = 51820
ADDRESSES = ("10.201.0.1", "10.201.0.2", "10.201.0.3")
REACHED = 15.0  # seconds until the first answer through a tunnel
CABLE = "bare cable"


@dataclass(frozen=True)
class Implementation:
    """One column. command: None for the bare cable. handoff, share: of Plait; "" is its default."""

    title: str
    version: str
    command: tuple[str, ...] | None
    handoff: str = ""
    share: str = ""
    is_plait: bool = False
    path: str = ""  # of the program

    @property
    def name(self) -> str:
        """With its version, as it stands beside a ratio."""
        return f"{self.title} {self.version}".strip()


def chosen(others: Sequence[str], handoffs: Sequence[str]) -> list[Implementation]:
    """What the options ask for: Plait in each mode, the others, the bare cable. Raises Failure."""
    from importlib.metadata import version

    from workers.settings import Settings

    default = str(Settings(receivers=1, consumers=1, cores=(0,)).handoff)
    found = []
    for handoff in handoffs or ("",):
        title = f"plait {handoff}" if handoff else "plait"
        release = version("plait") + ("" if handoff else f" ({default})")
        path = shutil.which(lab.PLAIT[0], path=lab.search_path()) or ""
        found.append(Implementation(title, release, lab.PLAIT, handoff, is_plait=True, path=path))
    for text in others:
        one = _other(text, {one.title for one in found})
        if one not in found:  # NAME and NAME@latest are one
            found.append(one)
    return [*found, Implementation(CABLE, "", None)]


def _other(text: str, taken: set[str]) -> Implementation:
    if (competitor := competitors.named(text)) is not None:
        found = competitors.installed(competitor)
        command = (found.path, *competitor.arguments)
        return Implementation(competitor.title, found.version, command, path=found.path)
    try:
        command = tuple(shlex.split(text))
        if command == (replaced := tuple(part.format(iface=INTERFACE) for part in command)):
            raise ValueError(text)
        program = shutil.which(replaced[0], path=lab.search_path())
    except (ValueError, KeyError, IndexError) as error:
        mend = f"Write it as in --vs {competitors.NEWEST} or --vs 'wireguard-go -f {{iface}}'."
        why = "it is not one command with {iface} in it"
        raise Failure(f"cannot use --vs '{text}'", why, mend) from error
    if program is None:
        mend = "Install it, or give its whole path."
        raise Failure(f"cannot compare with '{text}'", f"there is no program {command[0]}", mend)
    title = program.rpartition("/")[2]
    if title in taken:
        title = text
    return Implementation(title, program_version(program), command, path=program)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that processes have used so far, to the nanosecond; OSError when one has ended."""
    # include/linux/posix-timers.h: the clock of a whole process is ~pid << 3 | CPUCLOCK_SCHED.
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids) / 1e9


class Tunnel:
    """One implementation at work between two hosts of a lab, or three. A context manager.

    second_peer: host c is a peer of host b as well, and hosts[2].
    """

    def __init__(self, implementation: Implementation, *, second_peer: bool = False) -> None:
        self.implementation = implementation
        self._ends = 3 if second_peer else 2
        self._keys: list[tuple[str, str]] = []
        self._pids: list[int] = []
        self.engines: list[Engine] = []
        self.is_warm = False

    def __enter__(self) -> Tunnel:
        self._lab = Lab()
        try:
            self._start()
        except BaseException:
            self._lab.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._lab.close()

    def _start(self) -> None:
        self.hosts: list[Host] = self._lab.add_hosts(["a", "b", "c"][: self._ends])
        b = self.hosts[1]
        peers = [host for host in self.hosts if host is not b]
        self.cables = [self._lab.link(host, b) for host in peers]
        if self.implementation.command is None:
            for host, cable in zip(peers, self.cables, strict=True):
                for end in (host, b):
                    end.ip(f"link set {cable.interface(end)} mtu {MTU}")
            cable = self.cables[0]
            self.addresses: tuple[str, ...] = (cable.address(peers[0]), cable.address(b))
        else:
            self.addresses = ADDRESSES
            self._start_engines()
        for host in peers:
            self._wait_reached(host)
        self._pids = [usage.pid for usage in self.processes()]
        if self.engines and not self._pids:
            name = self.implementation.title
            raise Failure(f"cannot measure {name}", "no process of it is left", "Look at what it logs.")

    def _start_engines(self) -> None:
        command, handoff = self.implementation.command or (), self.implementation.handoff
        settings = f'handoff = "{handoff}"\n' if handoff else None
        self.engines = [host.engine(INTERFACE, command, settings=settings, wait=False) for host in self.hosts]
        self._keys = [lab.keypair() for _ in self.engines]
        publics = [public for _, public in self._keys]
        for end, engine in enumerate(self.engines):
            engine.wait_ready()
            if end == 1:
                others = [n for n in range(self._ends) if n != 1]
                peers = [lab.Peer(publics[n], [f"{ADDRESSES[n]}/32"]) for n in others]
            else:
                endpoint = self.cables[end // 2].endpoint(self.hosts[1], PORT)
                peers = [lab.Peer(publics[1], [f"{ADDRESSES[1]}/32"], endpoint)]
            engine.configure(self._keys[end][0], peers, [f"{ADDRESSES[end]}/24"], PORT, MTU)

    def keys_of_second_peer(self) -> tuple[bytes, bytes]:
        """Its private key, and the public key of host b."""
        return decode(self._keys[2][0]), decode(self._keys[1][1])

    def address_for(self, host: Host) -> str:
        """Where a peer reaches host b: through the tunnel, or on its cable where there is none."""
        if self.engines:
            return self.addresses[1]
        return next(cable for cable in self.cables if host in cable.ends).address(self.hosts[1])

    def _wait_reached(self, host: Host) -> None:
        deadline = time.monotonic() + REACHED
        while not host.ping(self.address_for(host), 1, wait=0.5).received:
            if time.monotonic() > deadline:
                raise Failure(
                    f"cannot measure {self.implementation.title}",
                    f"nothing came through its tunnel within {REACHED:.0f} s; it said: {self._last_words()}",
                    "Try it by hand, or leave it out.",
                )

    def _last_words(self) -> str:
        words = [line for engine in self.engines for line in engine.process.output().splitlines()[-2:]]
        return " / ".join(words) or "(nothing)"

    def processes(self) -> list[Usage]:
        """The engines' processes at all ends, while nothing else of ours runs in the hosts."""
        return [usage for host in self.hosts for usage in host.usage()] if self.engines else []

    def cpu_seconds(self) -> float:
        """CPU time that all processes of the engines have used so far."""
        try:
            return cpu_seconds(self._pids)
        except OSError as error:
            raise Failure(
                f"cannot measure {self.implementation.title}",
                f"a process of it has ended; it said: {self._last_words()}",
                "Try it by hand, or leave it out.",
            ) from error

    def ends(self, towards_b: bool) -> tuple[Host, Host, str]:
        """The sending host, the receiving one, and the receiver's address in the tunnel."""
        a, b = self.hosts[:2]
        return (a, b, self.addresses[1]) if towards_b else (b, a, self.addresses[0])
