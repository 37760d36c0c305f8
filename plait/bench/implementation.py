"""What is compared: Plait in one of its modes, any other engine that `wg` configures, or the bare cable.

Each runs in the same lab: two hosts, a cable, at both ends an interface with MTU 1420 and one peer.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.namespaces import Engine, Host, Lab, Usage

INTERFACE = "wg0"
PORT = 51820
MTU = 1420
ADDRESSES = ("10.201.0.1", "10.201.0.2")
REACHED = 15.0  # seconds until the first answer through a tunnel
CABLE = "bare cable"


@dataclass(frozen=True)
class Implementation:
    """One column. command: None for the bare cable. handoff: of Plait; "" is its default."""

    title: str
    version: str
    command: tuple[str, ...] | None
    handoff: str = ""
    is_plait: bool = False

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
        found.append(Implementation(title, release, lab.PLAIT, handoff, is_plait=True))
    for text in dict.fromkeys(others):
        found.append(_other(text, {one.title for one in found}))
    return [*found, Implementation(CABLE, "", None)]


def _other(text: str, taken: set[str]) -> Implementation:
    try:
        command = tuple(shlex.split(text))
        if command == (replaced := tuple(part.format(iface=INTERFACE) for part in command)):
            raise ValueError(text)
        program = shutil.which(replaced[0], path=lab.search_path())
    except (ValueError, KeyError, IndexError) as error:
        mend = "Write it as in --vs 'wireguard-go -f {iface}'."
        why = "it is not one command with {iface} in it"
        raise Failure(f"cannot use --vs '{text}'", why, mend) from error
    if program is None:
        mend = "Install it, or give its whole path."
        raise Failure(f"cannot compare with '{text}'", f"there is no program {command[0]}", mend)
    title = program.rpartition("/")[2]
    if title in taken:
        title = text
    return Implementation(title, program_version(program), command)


def program_version(program: str) -> str:
    """What the program says of itself, else what its Debian package is, else "of unknown version"."""
    said = _output([program, "--version"]).splitlines()
    for word in said[0].split() if said else ():
        digits = word.lstrip("v")
        if digits[:1].isdigit() and "." in digits:
            return digits.rstrip(",;")
    package = _output(["dpkg-query", "-S", program]).partition(":")[0]
    packaged = _output(["dpkg-query", "-W", "-f", "${Version}", package]) if package else ""
    return packaged or "of unknown version"


def _output(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that processes have used so far, to the nanosecond; OSError when one has ended."""
    # include/linux/posix-timers.h: the clock of a whole process is ~pid << 3 | CPUCLOCK_SCHED.
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids) / 1e9


class Tunnel:
    """One implementation at work between two hosts of a lab. A context manager."""

    def __init__(self, implementation: Implementation) -> None:
        self.implementation = implementation
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
        self.hosts: list[Host] = self._lab.add_hosts(["a", "b"])
        a, b = self.hosts
        cable = self._lab.link(a, b)
        if self.implementation.command is None:
            self.addresses = (cable.address(a), cable.address(b))
            a.ip(f"link set {cable.interface(a)} mtu {MTU}")
            b.ip(f"link set {cable.interface(b)} mtu {MTU}")
        else:
            self.addresses = ADDRESSES
            self._start_engines(cable.endpoint(b, PORT))
        self._wait_reached()
        self._pids = [usage.pid for usage in self.processes()]
        if self.engines and not self._pids:
            name = self.implementation.title
            raise Failure(f"cannot measure {name}", "no process of it is left", "Look at what it logs.")

    def _start_engines(self, endpoint: str) -> None:
        command, handoff = self.implementation.command or (), self.implementation.handoff
        settings = f'handoff = "{handoff}"\n' if handoff else None
        self.engines = [host.engine(INTERFACE, command, settings=settings, wait=False) for host in self.hosts]
        keys = [lab.keypair() for _ in self.engines]
        for end, engine in enumerate(self.engines):
            engine.wait_ready()
            peer = lab.Peer(keys[1 - end][1], [f"{ADDRESSES[1 - end]}/32"], None if end else endpoint)
            engine.configure(keys[end][0], [peer], [f"{ADDRESSES[end]}/24"], PORT, MTU)

    def _wait_reached(self) -> None:
        deadline = time.monotonic() + REACHED
        while not self.hosts[0].ping(self.addresses[1], 1, wait=0.5).received:
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
        """The engines' processes at both ends, while nothing else of ours runs in the hosts."""
        return [usage for host in self.hosts for usage in host.usage()] if self.engines else []

    def cpu_seconds(self) -> float:
        """CPU time that all processes of both engines have used so far."""
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
        a, b = self.hosts
        return (a, b, self.addresses[1]) if towards_b else (b, a, self.addresses[0])
