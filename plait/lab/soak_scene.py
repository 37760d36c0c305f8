"""The scene of `plait soak --operations`: two hosts, an engine in each, packets between their insides.

      gateway                                     client
    plaitd -f wg0, 200 peers                     plaitd -f wg0
     10.202.0.1 │ 10.200.1.1 ═══ cable ═══ 10.200.1.2 │ 10.202.0.2

Each engine writes its log into a pipe of one page, and has a clock that can be stepped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from plait.keys import decode, encode
from plait.lab.namespaces import Engine, Host, Lab, Peer, descriptors, keypair
from plait.lab.soak_books import Account, host_counts
from plait.lab.soak_traffic import Inside, Traffic
from plait.watch.processes import pss_bytes

INTERFACE: Final = "wg0"
PORT: Final = 51820
GUESTS: Final = 199  # peers of the gateway beside the client
WORKERS: Final = ("control", "receiver 0", "receiver 1", "consumer 0", "consumer 1")
TITLES: Final = frozenset({"supervisor", *WORKERS})
SETTINGS: Final = (
    "receivers = 2\nconsumers = 2\nmax_receivers = 3\nmax_consumers = 3\nmax_peers = 1024\n"
    'pin = true\nhandoff = "{}"\n'
)
LOG: Final = "/run/log"
LOG_BYTES: Final = 4096  # of the pipe; the kernel's least
CLOCK: Final = "/run/clock"
BACK_SECONDS: Final = 60.0
SPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def hexadecimal(key: str) -> str:
    """A key as the configuration socket has it."""
    return decode(key).hex()


def until(condition: Callable[[], object], what: str, seconds: float = BACK_SECONDS) -> None:
    """TimeoutError, with what was waited for, when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)


class Log:
    """The pipe that an engine logs into, and its reader, which can stand still."""

    def __init__(self, host: Host) -> None:
        path = host.root / LOG.lstrip("/")
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR)  # also a writer, so that it never ends
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, LOG_BYTES)
        self.words = bytearray()
        self.goes_on = threading.Event()
        self.goes_on.set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while part := os.read(self.fd, 1 << 16):
            self.words += part
            self.goes_on.wait()

    def text(self) -> str:
        return self.words.decode(errors="replace")


class Side:
    """One end: a host, its engine and its clock."""

    def __init__(self, host: Host, number: int, handoff: str) -> None:
        self.host, self.name = host, host.name
        self.inner = f"10.202.0.{number}"
        self.private_key, self.public_key = keypair()
        self.preshared_key = encode(bytes(32))  # none
        self.clock = host.root / CLOCK.lstrip("/")
        self.stepped = 0.0
        self.clock.write_bytes(bytes(16))
        self.log = Log(host)
        (host.root / "proc/sys/net/ipv4/ip_forward").write_text("0")  # a lost packet shows where it ended
        command = ["sh", "-c", f"exec plaitd -f {INTERFACE} 2>{LOG}"]
        self.engine: Engine = host.engine(
            INTERFACE, command, settings=SETTINGS.format(handoff),
            environment={"PLAIT_CLOCK": CLOCK}, wait=False,
        )  # fmt: skip
        self.other: Side = self
        self.address = ""  # outside

    # -- the engine -----------------------------------------------------------------------------

    def set(self, text: str) -> None:
        """A set operation. RuntimeError when it is refused."""
        answer = self.engine.uapi(f"set=1\n{text}\n")
        if answer != "errno=0\n\n":
            raise RuntimeError(f"set refused: {answer!r}")

    @property
    def peer(self) -> str:
        """The lines that name the other end in a set operation and give it everything."""
        return (
            f"public_key={hexadecimal(self.other.public_key)}\nendpoint={self.other.address}:{PORT}\n"
            f"preshared_key={hexadecimal(self.preshared_key)}\n"
            f"replace_allowed_ips=true\nallowed_ip={self.other.inner}/32\n"
        )

    def guests(self, keys: Iterable[str], *, remove: bool = False) -> None:
        """Add peers without an endpoint, or remove them."""
        lines = []
        for number, key in enumerate(keys):
            allowed = f"allowed_ip=10.{203 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32\n"
            lines.append(f"public_key={hexadecimal(key)}\n" + ("remove=true\n" if remove else allowed))
        self.set("".join(lines))

    def report(self) -> dict[str, Any]:
        return self.engine.report()

    def answers(self) -> bool:
        """Whether it says how it is configured."""
        try:
            return self.engine.uapi("get=1\n\n", 10).endswith("errno=0\n\n")
        except OSError:
            return False

    def pids(self) -> dict[str, int]:
        return self.host.titles(INTERFACE)

    def is_complete(self) -> bool:
        return frozenset(self.pids()) == TITLES

    def await_complete(self, but: Iterable[int] = ()) -> None:
        """Until every process is there, and none of these any more."""
        gone = set(but)
        until(
            lambda: self.is_complete() and not gone & set(self.pids().values()),
            f"all processes of {self.name}",
        )

    def go_on(self, *pids: int) -> None:
        """SIGCONT. To whoever waits for the engine as well: nsenter stops with what it waits for."""
        for pid in (*pids, self.engine.process.session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def step(self, seconds: float) -> None:
        """Its clocks leap, as in a suspend."""
        self.stepped += seconds
        with self.clock.open("r+b") as file:
            file.write(struct.pack("<qq", *2 * [int(self.stepped * 1e9)]))

    # -- looking --------------------------------------------------------------------------------

    def account(self, inside: Inside, other: Inside) -> Account:
        """What it has counted so far; inside, other: the senders here and there."""
        report = self.report()
        kernel = report["kernel_drops"]["tun"] or 0
        return Account(inside.sent, other.arrived, report["counters"], kernel, host_counts(self.host.pid))

    def holdings(self) -> dict[str, int]:
        """What must be flat: descriptors, processes, namespaces; and memory in bytes."""
        pids = self.host.pids()
        found = {"descriptors": 0, "processes": len(pids), "namespaces": 0, "memory": 0}
        spaces: set[str] = set()
        for pid in pids:
            links = descriptors(pid)
            found["descriptors"] += len(links)
            spaces.update(link for link in links.values() if link.partition(":")[0] in SPACES)
            with contextlib.suppress(OSError):
                spaces.update(os.readlink(f"/proc/{pid}/ns/{space}") for space in SPACES)
                found["memory"] += pss_bytes(pid)
        found["namespaces"] = len(spaces)
        return found

    def settled_holdings(self) -> dict[str, int]:
        """The same, once every process is there and opens nothing more."""
        self.await_complete()
        looks: list[dict[str, int]] = []

        def is_settled() -> bool:
            time.sleep(0.05)
            looks.append(self.holdings())
            flat = [{**look, "memory": 0} for look in looks[-10:]]
            return len(flat) == 10 and flat == flat[:1] * 10

        until(is_settled, f"descriptors of {self.name} at rest")
        return looks[-1]


class Scene:
    """Both ends, configured, with traffic."""

    def __init__(self, lab: Lab, handoff: str) -> None:
        hosts = lab.add_hosts(["gateway", "client"])
        link = lab.link(*hosts)
        self.sides = [Side(host, number, handoff) for number, host in enumerate(hosts, 1)]
        for side, other in zip(self.sides, reversed(self.sides), strict=True):
            side.other, side.address = other, link.address(side.host)
            # A host counts a train that nobody takes as one datagram, so none travels over the cable.
            side.host.ip(f"link set {link.interface(side.host)} gso_max_segs 1")
        for side in self.sides:
            side.engine.wait_ready(BACK_SECONDS)
            other = side.other
            endpoint = link.endpoint(other.host, PORT)
            peer = Peer(other.public_key, [f"{other.inner}/32"], endpoint)
            side.engine.configure(side.private_key, [peer], [f"{side.inner}/24"], PORT)
        self.sides[0].guests([keypair()[1] for _ in range(GUESTS)])
        gateway, client = (Inside(side.host, side.other.inner) for side in self.sides)
        self.traffic = Traffic(gateway, client)

    def accounts(self) -> dict[str, Account]:
        """Of both ends, by name."""
        one, two = self.traffic.ends
        ends = ((self.sides[0], one, two), (self.sides[1], two, one))
        return {side.name: side.account(inside, other) for side, inside, other in ends}

    def end(self) -> list[str]:
        """End both engines; what they left."""
        found = []
        for side in self.sides:
            side.go_on()
            if code := side.engine.stop():
                found.append(f"the engine of {side.name} ended with {code}")
            for directory in ("run/wireguard", "dev/shm"):
                path = side.host.root / directory
                left = sorted(os.listdir(path)) if path.exists() else []
                found += [f"left in /{directory} of {side.name}: {', '.join(left)}"] if left else []
            found += [f"the log of {side.name} has a traceback"] if "Traceback" in side.log.text() else []
        return found
