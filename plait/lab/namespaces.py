"""A laboratory: hosts that are namespaces, cables between them, engines running in them.

    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        cable = lab.link(a, b)
        one = a.engine("wg0")                                # plaitd -f wg0
        two = b.engine("wg0", ["wireguard-go", "-f", "{iface}"])

A host is a network, mount and process namespace of its own. It has its own /run (so its own
/var/run/wireguard) and /dev/shm, so both ends may be called wg0, and nothing is ever visible
outside. The namespaces have no names: one process holds each of them, reading a pipe whose
other end is ours. When that pipe closes, be it by close(), by an exception, at exit or because we were
killed, the holder ends, and being process 1 of its namespace it takes every process of
the host with it; interfaces, segments and sockets go with the namespaces. No signal handler and no
list of things to undo is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from plait.failure import Failure
from plait.keys import preshared_key as preshared_key
from plait.keys import private_key, public_key
from plait.watch.processes import GONE, children, process_stat, pss_bytes

PLAIT = ("plaitd", "-f", "{iface}")
CLONE_NEWNET = 0x40000000  # sched.h
WIREGUARD_GO = ("wireguard-go", "-f", "{iface}")
PACKAGES = {  # of Debian, by program
    "bird": "bird2", "initdb": "postgresql", "ip": "iproute2", "iperf3": "iperf3", "mount": "mount",
    "nats-server": "nats-server", "nft": "nftables", "nsenter": "util-linux", "ping": "iputils-ping",
    "setpriv": "util-linux", "taskset": "util-linux", "unshare": "util-linux", "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}  # fmt: skip

# Runs as process 1 of the host. Orphans of the host are reaped by the kernel (SIG_IGN).
HOLDER = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""
# {shm} is the size of /dev/shm. /sys shows the interfaces of the namespace it was mounted in.
MOUNTS = """
set -e
mount -t tmpfs -o mode=755 lab /run
[ /var/run -ef /run ] || mount --bind /run /var/run
mount -t tmpfs -o mode=1777,size={shm} lab /dev/shm
[ ! -d /etc/plait ] || mount -t tmpfs lab /etc/plait
mount -t sysfs lab /sys
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
exec "$@"
"""


def missing(*programs: str) -> list[Failure]:
    """What this machine lacks to run a lab; empty when it can. programs: needed beyond the lab's own."""
    lacks: list[Failure] = []
    if os.geteuid() != 0:  # first: programs that root alone can see may be missing as well
        lacks.append(Failure("not root", "namespaces need CAP_SYS_ADMIN and more", "Run it as root"))
    wanted = dict.fromkeys(("ip", "mount", "unshare", "nsenter", *programs))
    if absent := [program for program in wanted if shutil.which(program, path=search_path()) is None]:
        is_one = len(absent) == 1
        why = "the program is not on PATH" if is_one else "these programs are not on PATH"
        lacks.append(Failure(f"no {', '.join(absent)}", why, how_to_get(absent)))
    if os.geteuid() != 0:
        return lacks
    if not os.path.exists("/dev/net/tun"):
        lacks.append(Failure("no /dev/net/tun", "the tun module is not there",
                             "Run 'modprobe tun', or give the container the device"))
    if not lacks:
        try:
            with Lab() as lab:
                lab.host("probe")
        except Failure as error:
            lacks.append(error)
    return lacks


def how_to_get(programs: Sequence[str]) -> str:
    """The next step for whoever lacks these programs."""
    if packages := dict.fromkeys(PACKAGES[program] for program in programs if program in PACKAGES):
        return f"Install Debian's {' '.join(packages)}: apt install {' '.join(packages)}"
    return "Install it, or name its path"


def search_path() -> str:
    """PATH with the programs installed beside this Python first: an inactive venv works too."""
    path = os.environ.get("PATH", os.defpath)
    return ":".join((os.path.dirname(sys.executable), path, "/usr/sbin", "/sbin"))


def keypair() -> tuple[str, str]:
    """A new private key and its public key, in base64."""
    private = private_key()
    return private, public_key(private.encode())


@dataclass
class Peer:
    """One [Peer] section."""

    public_key: str
    allowed_ips: Sequence[str]
    endpoint: str | None = None
    preshared_key: str | None = None
    keepalive: int = 0

    def section(self) -> str:
        lines = ["[Peer]", f"PublicKey = {self.public_key}", f"AllowedIPs = {', '.join(self.allowed_ips)}"]
        if self.endpoint:
            lines.append(f"Endpoint = {self.endpoint}")
        if self.preshared_key:
            lines.append(f"PresharedKey = {self.preshared_key}")
        if self.keepalive:
            lines.append(f"PersistentKeepalive = {self.keepalive}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Usage:
    """What one process has used."""

    pid: int
    name: str
    cpu_seconds: float
    pss_bytes: int


@dataclass(frozen=True)
class Ping:
    """Answers to a ping, in milliseconds, in order of arrival."""

    sent: int
    times: tuple[float, ...]
    last: int = 0  # Number of the last echo that was answered, counted from 1.

    @property
    def received(self) -> int:
        return len(self.times)

    @property
    def lost(self) -> int:
        """Echoes without an answer before the last that has one; answers to later echoes may still come."""
        return self.last - self.received

    def quantile(self, q: float) -> float:
        """The time that a share q of the answers did not exceed. nan when there are none."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


@dataclass(frozen=True)
class Stream:
    """An iperf3 run, as its receiver saw it."""

    bits_per_second: float
    bytes: int
    retransmits: int
    report: dict[str, Any] = field(repr=False)


class Process:
    """A program running in a host. pid is its number outside, where we are."""

    def __init__(self, arguments: Sequence[str], popen: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.arguments = list(arguments)
        self._popen = popen
        self._log = log
        self._pidfd = os.pidfd_open(popen.pid)
        self._pid = 0
        self.session = popen.pid

    @property
    def pid(self) -> int:
        """The program itself, not the nsenter that waits for it."""
        while not self._pid and self.poll() is None:
            self._pid = next(iter(children(self._popen.pid)), 0)
            if not self._pid:
                time.sleep(0.0005)
        return self._pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def wait(self, timeout: float = 60) -> int:
        """Exit code; negative for a signal. Failure when it still runs after timeout seconds."""
        if self._popen.returncode is None:
            ending = select.poll()  # select() would refuse an fd above 1023
            ending.register(self._pidfd, select.POLLIN)
            if not ending.poll(timeout * 1000):
                raise Failure(f"'{' '.join(self.arguments)}' still runs", f"not finished after {timeout} s",
                              f"Its output: {self.output()[-2000:] or '(none)'}")
            self._popen.wait()
        return self._popen.returncode

    def signal(self, number: int) -> None:
        """Send a signal to the program; nothing happens when it has ended."""
        if self.pid and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM, then wait."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def output(self) -> str:
        """What it wrote so far on stdout and stderr."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def output_since(self, begin: int) -> tuple[str, int]:
        """What it wrote behind so many bytes, and how many bytes there are now."""
        data = os.pread(self._log.fileno(), max(os.fstat(self._log.fileno()).st_size - begin, 0), begin)
        return data.decode(errors="replace"), begin + len(data)

    def close(self) -> None:
        """Kill it if it runs; forget its output."""
        self.signal(signal.SIGKILL)
        self._popen.wait()
        if self._pidfd >= 0:  # its number may be another's by the second time
            os.close(self._pidfd)
            self._pidfd = -1
        self._log.close()


class Engine:
    """An engine that owns one interface of a host, answering on its UAPI socket."""

    def __init__(self, host: Host, interface: str, process: Process) -> None:
        self.host, self.interface, self.process = host, interface, process

    @property
    def socket_path(self) -> Path:
        """The UAPI socket, as seen from outside the host."""
        return self.host.root / "run/wireguard" / f"{self.interface}.sock"

    def wait_ready(self, timeout: float = 60) -> Engine:
        """Until the UAPI socket accepts. Failure with the engine's own words if it fails."""
        deadline = time.monotonic() + timeout
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self.socket_path))
                return self
            code = self.process.poll()
            if code or time.monotonic() > deadline:
                raise Failure(f"'{' '.join(self.process.arguments)}' did not start in host {self.host.name}",
                              f"exit code {code}" if code else f"no UAPI socket after {timeout} s",
                              f"It said: {self.process.output()[-2000:] or '(nothing)'}")
            time.sleep(0.002)

    def uapi(self, text: str, timeout: float = 60) -> str:
        """Send one operation as it stands and return the answer up to its blank line."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(self.socket_path))
            client.sendall(text.encode())
            answer = bytearray()
            while not answer.endswith(b"\n\n"):
                part = client.recv(1 << 16)
                if not part:
                    break
                answer += part
            return answer.decode()

    def configure(self, private_key: str, peers: Sequence[Peer], addresses: Sequence[str] = (),
                  listen_port: int = 0, mtu: int = 1420) -> None:
        """Keys and peers by `wg setconf`; addresses (ADDRESS/LENGTH), MTU, up, a route per allowed IP."""
        text = f"[Interface]\nPrivateKey = {private_key}\n"
        if listen_port:
            text += f"ListenPort = {listen_port}\n"
        text += "".join(peer.section() for peer in peers)
        self.wg("setconf", self.interface, "/dev/stdin", text=text)
        commands = [f"link set {self.interface} mtu {mtu} up"]
        commands += [f"address add {a} dev {self.interface}" + " nodad" * (":" in a) for a in addresses]
        commands += [f"route replace {a} dev {self.interface}" for peer in peers for a in peer.allowed_ips]
        self.host.ip(*commands)

    def wg(self, *arguments: str, text: str | None = None) -> str:
        """Run wg(8) in the engine's host; its stdout."""
        return self.host.run(["wg", *arguments], text=text).stdout

    def report(self, timeout: float = 60) -> dict[str, Any]:
        """What a Plait engine tells of its inside (workers/control/engine_report.py)."""
        answer = self.uapi("get_engine=1\n\n", timeout)
        line = next(line for line in answer.splitlines() if line.startswith("engine="))
        report: dict[str, Any] = json.loads(line.partition("=")[2])
        return report

    def counters(self) -> dict[str, int]:
        """What a Plait engine has counted so far, by name (shm/counters.h)."""
        counters: dict[str, int] = self.report()["counters"]
        return counters

    def processes(self) -> list[Usage]:
        """Every process of the engine; also after it has gone to the background."""
        return self.host.usage(session=self.process.session)

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; exit code."""
        return self.process.stop(timeout)


class Host:
    """One set of namespaces. Made by Lab.host()."""

    def __init__(self, name: str, shm_bytes: int) -> None:
        self.name = name
        self.links = 0
        self._processes: list[Process] = []
        mounts = MOUNTS.format(shm=shm_bytes)
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
             "sh", "-c", mounts, "sh", sys.executable, "-I", "-S", "-c", HOLDER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "PATH": search_path()})
        self.pid = 0

    def wait_ready(self) -> None:
        """Until the holder has mounted what is the host's own."""
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            why = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise Failure(f"cannot make host {self.name}", why or "the holder ended",
                          "Run as root with CAP_SYS_ADMIN (a chroot: bind-mount its root onto itself first)")
        self.pid = next(iter(children(self._holder.pid)))

    @property
    def root(self) -> Path:
        """The host's file system as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def popen(self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None,
              text: str | None = None) -> Process:
        """Start a program in the host, with text on its stdin. Its output goes to a nameless file."""
        return self._popen(arguments, environment, text, tempfile.TemporaryFile())

    def _popen(self, arguments: Sequence[str], environment: Mapping[str, str] | None, text: str | None,
               log: IO[bytes], errors: IO[bytes] | None = None) -> Process:
        with tempfile.TemporaryFile() as stdin:
            if text is not None:
                stdin.write(text.encode())
                stdin.seek(0)
            popen = subprocess.Popen(
                ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", f"--wdns={os.getcwd()}", "--", *arguments],
                stdin=stdin if text is not None else subprocess.DEVNULL, stdout=log,
                stderr=errors or subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PATH": search_path(), **(environment or {})})
        process = Process(arguments, popen, log)
        self._processes.append(process)
        return process

    def run(self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None,
            text: str | None = None, timeout: float = 60,
            check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the host to its end. Failure when check is set and it fails."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self._popen(arguments, environment, text, out, err)
            try:
                code = process.wait(timeout)
                err.seek(0)
                stdout, stderr = process.output(), err.read().decode(errors="replace")
            finally:
                process.close()
                self._processes.remove(process)
        if check and code:
            raise Failure(f"'{' '.join(arguments)}' failed in host {self.name}", f"exit code {code}",
                          f"It said: {(stderr or stdout).strip()[-2000:]}")
        return subprocess.CompletedProcess(list(arguments), code, stdout, stderr)

    def ip(self, *commands: str) -> None:
        """ip(8) commands, all in one call: host.ip("link set eth0 up", "route add ...")."""
        self.run(["ip", "-batch", "-"], text="\n".join(commands) + "\n")

    def engine(self, interface: str = "wg0", command: Sequence[str] = PLAIT, *,
               environment: Mapping[str, str] | None = None, settings: str | None = None,
               wait: bool = True) -> Engine:
        """Start an engine; '{iface}' in command is replaced. settings: text of PLAIT_CONFIG's file."""
        extra = dict(environment or {})
        if settings is not None:
            (self.root / "run" / f"{interface}.toml").write_text(settings)
            extra["PLAIT_CONFIG"] = f"/run/{interface}.toml"
        process = self.popen([part.format(iface=interface) for part in command], environment=extra)
        engine = Engine(self, interface, process)
        return engine.wait_ready() if wait else engine

    def thread(self) -> ThreadPoolExecutor:
        """A thread of ours in the host's network (setns(2)): what it connects and binds is there."""
        libc = ctypes.CDLL(None, use_errno=True)
        thread = ThreadPoolExecutor(1)

        def enter() -> None:
            with open(f"/proc/{self.pid}/ns/net") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")

        try:
            thread.submit(enter).result()
        except BaseException:
            thread.shutdown()
            raise
        return thread

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM,
               protocol: int = 0) -> socket.socket:
        """A socket of ours in the host's network: the caller speaks from there, without a process."""
        with self.thread() as thread:
            return thread.submit(socket.socket, family, kind, protocol).result()

    def pids(self) -> list[int]:
        """The host's processes that were there when we looked, its holder left out."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            with contextlib.suppress(OSError):  # it has gone, or is none of ours to look at
                if pid != self.pid and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                    found.append(pid)
        return found

    def titles(self, interface: str = "wg0") -> dict[str, int]:
        """The processes of an interface's plaitd by title: `supervisor`, `receiver 0`, …"""
        prefix = f"plait: {interface} "
        # A worker bears its supervisor's title for a moment after the fork.
        titled = {title(pid): pid for pid in sorted(self.pids(), reverse=True)}
        return {name.removeprefix(prefix): pid for name, pid in titled.items() if name.startswith(prefix)}

    def usage(self, session: int | None = None) -> list[Usage]:
        """CPU seconds and PSS of the host's processes (of one session), its holder left out."""
        rows = []
        for pid in self.pids():
            with contextlib.suppress(*GONE):
                name, stat = process_stat(pid)
                if stat[0] == "Z" or (session is not None and int(stat[3]) != session):
                    continue
                seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
                rows.append(Usage(pid, name, seconds, pss_bytes(pid)))
        return rows

    def wait_listening(self, port: int, process: Process, timeout: float = 60) -> None:
        """Until something in the host listens on a TCP port."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and process.poll() is None:
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                    columns = line.split()
                    if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                        return
            time.sleep(0.002)
        raise Failure(f"nothing listens on TCP port {port} of host {self.name}",
                      f"'{' '.join(process.arguments)}' is not ready after {timeout} s",
                      f"Its output: {process.output()[-2000:] or '(none)'}")

    def ping(self, address: str, count: int = 5, interval: float | None = None, wait: float = 10,
             size: int = 56, *, whole: bool = False) -> Ping:
        """ICMP echo, every interval seconds, or all at once; waits wait seconds for answers that are late.
        whole: never in fragments.

        ping(8) that was answered waits for the rest no longer than its interval or two round trips, which is
        not enough on a busy machine: with an interval, late answers may be missing.
        """
        when = ["-l", str(count), "-i", str(wait)] if interval is None else ["-i", str(interval)]
        result = self.run(["ping", "-n", "-c", str(count), *when, "-W", str(wait), "-s", str(size),
                           *(["-M", "do"] if whole else []), address],
                          check=False, timeout=count * ((interval or 0) + 0.1) + wait + 20)
        times = []
        sent = last = 0
        for line in result.stdout.splitlines():
            if " time=" in line:
                times.append(float(line.rpartition(" time=")[2].split()[0]))
                last = max(last, int(line.partition("icmp_seq=")[2].split()[0]))
            elif "packets transmitted" in line:
                sent = int(line.split()[0])
        return Ping(sent, tuple(times), last)

    def iperf3(self, server: Host, address: str, seconds: float = 3, *, reverse: bool = False,
               streams: int = 1, port: int = 5201, extra: Sequence[str] = ()) -> Stream:
        """TCP from here to address on server (reverse: the other way)."""
        listener = server.popen(["iperf3", "-s", "-1", "-p", str(port)])
        try:
            server.wait_listening(port, listener)
            command = ["iperf3", "-J", "-c", address, "-p", str(port), "-t", str(seconds), "-P", str(streams)]
            result = self.run([*command, *(["-R"] if reverse else []), *extra], timeout=seconds + 30)
        finally:
            listener.close()
        report = json.loads(result.stdout)
        received = report["end"].get("sum_received") or report["end"]["sum"]
        return Stream(received["bits_per_second"], received["bytes"],
                      report["end"].get("sum_sent", {}).get("retransmits", 0), report)

    def close(self) -> None:
        """End every process of the host; the kernel takes down the rest."""
        assert self._holder.stdin is not None
        with contextlib.suppress(OSError):
            self._holder.stdin.close()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        for pipe in (self._holder.stdout, self._holder.stderr):
            if pipe:
                pipe.close()
        for process in self._processes:
            process.close()
        self._processes.clear()


@dataclass(frozen=True)
class Link:
    """A cable between two hosts, with an IPv4 and an IPv6 address at each end."""

    ends: tuple[Host, Host]
    interfaces: tuple[str, str]
    addresses4: tuple[str, str]
    addresses6: tuple[str, str]

    def address(self, host: Host, version: int = 4) -> str:
        """The address of that end."""
        return (self.addresses6 if version == 6 else self.addresses4)[self.ends.index(host)]

    def endpoint(self, host: Host, port: int, version: int = 4) -> str:
        """ADDRESS:PORT of that end, as wg writes it."""
        address = self.address(host, version)
        return f"[{address}]:{port}" if version == 6 else f"{address}:{port}"

    def interface(self, host: Host) -> str:
        return self.interfaces[self.ends.index(host)]


class Lab:
    """Hosts and the cables between them. A context manager; close() may also be called."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self._links = 0

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def host(self, name: str, *, shm_bytes: int = 1 << 32) -> Host:
        """A new host. shm_bytes: size of its /dev/shm (a limit, not an allocation)."""
        return self.add_hosts([name], shm_bytes=shm_bytes)[0]

    def add_hosts(self, names: Sequence[str], *, shm_bytes: int = 1 << 32) -> list[Host]:
        """Several hosts, made side by side."""
        made = []
        for name in names:
            made.append(Host(name, shm_bytes))
            self.hosts.append(made[-1])
        for host in made:
            host.wait_ready()
        return made

    def link(self, a: Host, b: Host, *, subnet4: str | None = None, subnet6: str | None = None,
             mtu: int = 1500) -> Link:
        """A veth pair, up at both ends, with the first two addresses of each subnet (default: a new one)."""
        self._links += 1
        net4 = ipaddress.IPv4Network(subnet4 or f"10.200.{self._links}.0/24")
        net6 = ipaddress.IPv6Network(subnet6 or f"fd00:200:{self._links:x}::/64")
        names = (f"eth{a.links}", f"eth{b.links}")
        a.links += 1
        b.links += 1
        macs = [f"02:00:00:{self._links >> 8:02x}:{self._links & 255:02x}:{end:02x}" for end in (1, 2)]
        ends = [[names[end], "mtu", str(mtu), "address", macs[end], "netns", str(host.pid)]
                for end, host in enumerate((a, b))]
        self._ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for end, host in enumerate((a, b)):
            # Neighbours are permanent: the first IPv6 neighbour solicitation on a fresh veth is lost, and
            # its retry comes a second later.
            host.ip(f"address add {net4[end + 1]}/{net4.prefixlen} dev {names[end]}",
                    f"address add {net6[end + 1]}/{net6.prefixlen} dev {names[end]} nodad",
                    f"link set {names[end]} up",
                    f"neighbour add {net4[2 - end]} dev {names[end]} lladdr {macs[1 - end]} nud permanent",
                    f"neighbour add {net6[2 - end]} dev {names[end]} lladdr {macs[1 - end]} nud permanent")
        return Link((a, b), names, (str(net4[1]), str(net4[2])), (str(net6[1]), str(net6[2])))

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False,
                              env={**os.environ, "PATH": search_path()})
        if done.returncode:
            raise Failure(f"'ip {' '.join(arguments)}' failed", done.stderr.strip(),
                          "Check that this kernel has the veth module")

    def close(self) -> None:
        """Take everything down. May be called twice."""
        for host in self.hosts:
            host.close()
        self.hosts.clear()


def read_proc(pid: int, name: str) -> str | None:
    """The text of /proc/PID/NAME; None when the process has gone, as any but our own may at any time."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except GONE:
        return None


def title(pid: int) -> str:
    """The first word of a process's command line; empty when the process has gone."""
    return (read_proc(pid, "cmdline") or "").partition("\0")[0]


def state(pid: int) -> str:
    """The letter of a process's state (proc(5)); empty when the process has gone."""
    return (read_proc(pid, "stat") or ") ").rpartition(") ")[2][:1]


def descriptors(pid: int) -> dict[int, str]:
    """What the descriptors of a process are links to, but for those that it closes meanwhile."""
    found: dict[int, str] = {}
    with contextlib.suppress(*GONE):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(*GONE):
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Meanwhile this process can open nothing."""
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = descriptors(pid)
    free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, most[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, most)
