"""`plait doctor`: what the engine needs of this host, and the mend of each lack. It changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import resource
import shutil
import socket
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait.standard_streams import terminal_width

if TYPE_CHECKING:
    from workers.supervisor.room import Need

CAP_NET_ADMIN = 12  # linux/capability.h
CAP_SYS_ADMIN = 21
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h
UDP_GRO = 104
KERNEL_LEAST = (5, 6)
FILES_LEAST = 1024
STATES = {"ok": "ok", "advice": "advice", "missing": "MISSING"}

State = Literal["ok", "advice", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. mend is empty when it is ok; only `missing` keeps the engine from running."""

    name: str
    state: State
    found: str
    mend: str = ""


def run(*, as_json: bool, rootless: bool = False, ready: str | None = None) -> int:
    """Print all findings on stdout, or those about what needs no root, or whether that interface is ready for
    clients. 1 when something required is missing, else 0."""
    findings = list(examine_ready(ready) if ready else examine_rootless() if rootless else examine())
    if as_json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _print_hanging(f"{STATES[finding.state]:7}  {finding.name:{width}}  ", finding.found)
            if finding.mend:
                _print_hanging(f"{'':7}  {'':{width}}  ", f"mend: {finding.mend}")
    return int(any(finding.state == "missing" for finding in findings))


def examine_ready(interface: str) -> Iterator[Finding]:
    """What a gateway lacks for its clients."""
    from plait.fleet import ready

    for look in ready.examine(interface):
        yield _finding(look.name, not look.mend, "missing", look.found, look.mend)


def _print_hanging(head: str, text: str) -> None:
    """One line; on a narrower terminal the text goes on below itself, or begins a line of its own."""
    columns = terminal_width()
    if columns is None or len(head + text) <= columns:
        print(head + text)
        return
    indent = " " * len(head)
    if columns < len(head) + 24:
        if head.strip():
            print(head.rstrip())
        head = indent = "  "
    for line in textwrap.wrap(text, max(columns - len(head), 1), break_on_hyphens=False):
        print(head + line)
        head = indent


def examine() -> Iterator[Finding]:
    """Every finding, what is required first. What the kernel does not let look at is one as well."""
    from workers.failure import explain

    for look in (
        build, kernel, tun_device, privilege, settings, shared_memory, memory, udp_sockets, socket_directory,
        open_files, stack, ipv6, udp_offloads, cores, aead, socket_buffers, lab_privilege,
    ):  # fmt: skip
        try:
            yield look()
        except OSError as error:
            why, mend = explain(error)
            yield Finding(look.__name__.replace("_", " "), "advice", why, mend)
    yield from promises()
    yield from running()
    yield from programs()


def _finding(name: str, ok: bool, otherwise: State, found: str, mend: str) -> Finding:
    return Finding(name, "ok" if ok else otherwise, found, "" if ok else mend)


def build() -> Finding:
    """The C parts can be loaded."""
    try:
        import workers._workers
    except ImportError as error:
        return Finding("build", "missing", f"the C parts do not load: {error}", "run scripts/setup")
    path = Path(str(workers._workers.__file__))
    return Finding("build", "ok", f"{path.name}, Python {platform.python_version()}")


def kernel() -> Finding:
    """A kernel with the calls that the engine makes."""
    system, release = platform.system(), platform.release()
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    least = ".".join(map(str, KERNEL_LEAST))
    ok = system == "Linux" and numbers >= KERNEL_LEAST
    return _finding("kernel", ok, "missing", f"{system} {release}", f"run Linux {least} or later")


def tun_device(path: Path = Path("/dev/net/tun")) -> Finding:
    """The TUN driver's device can be opened."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        mend = "modprobe tun; in a container, pass the device in (docker run --device /dev/net/tun)"
        return Finding("TUN", "missing", f"there is no {path}", mend)
    except OSError as error:
        mend = f"run as root; or check that the tun module fits the kernel: ls -l {path}; modprobe tun"
        return Finding("TUN", "missing", f"{path}: {error.strerror}", mend)
    return Finding("TUN", "ok", f"{path} opens")


def has_capability(number: int, status: str | None = None) -> bool:
    """Whether this process has a capability now. status: text of /proc/self/status."""
    text = Path("/proc/self/status").read_text() if status is None else status
    effective = next((line for line in text.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(effective.split()[1], 16) >> number & 1)


def privilege() -> Finding:
    """The right to make interfaces."""
    ok = has_capability(CAP_NET_ADMIN)
    found = "CAP_NET_ADMIN is there" if ok else f"no CAP_NET_ADMIN for user {os.geteuid()}"
    mend = "run as root (sudo); in a container, add the capability (docker run --cap-add NET_ADMIN)"
    return _finding("privilege", ok, "missing", found, mend)


def lab_privilege() -> Finding:
    """The right to make namespaces and mounts."""
    ok = has_capability(CAP_SYS_ADMIN)
    found = "CAP_SYS_ADMIN is there" if ok else "no CAP_SYS_ADMIN, which plait demo and the tests want"
    return _finding("namespaces", ok, "advice", found, "run as root, on a host or in a privileged container")


def settings_files(environment: Mapping[str, str] = os.environ, directory: Path | None = None) -> list[Path]:
    """What plaitd would read: PLAIT_CONFIG's file, else that of each interface that has one."""
    from workers.settings import DIRECTORY

    named = environment.get("PLAIT_CONFIG")
    return [Path(named)] if named else sorted((directory or DIRECTORY).glob("*.toml"))


def settings(files: Sequence[Path] | None = None) -> Finding:
    """Each settings file is one that plaitd takes."""
    from workers.failure import Failure
    from workers.settings import load

    files = settings_files() if files is None else files
    try:
        for path in [str(path) for path in files] or [""]:  # "": the defaults
            load("doctor", {**os.environ, "PLAIT_CONFIG": path})
    except Failure as failure:
        return Finding("settings", "missing", f"{failure.what}: {failure.why}", failure.next_step)
    return Finding("settings", "ok", ", ".join(map(str, files)) or "the defaults, there is no file")


def needed_memory(files: Sequence[Path] | None = None) -> int:
    """Bytes of /dev/shm that an engine takes at its start: by the settings that take most, else the defaults.

    Files that are refused do not count: `settings` tells of them.
    """
    return _most(files).shm


def _most(files: Sequence[Path] | None = None) -> Need:
    from workers.failure import Failure
    from workers.settings import load
    from workers.supervisor import room

    needs = []
    for path in settings_files() if files is None else files:
        with contextlib.suppress(Failure):
            environment = {**os.environ, "PLAIT_CONFIG": str(path)}
            needs.append(room.need(load("doctor", environment, shrink=room.fitted)))
    if not needs:
        needs.append(room.need(load("doctor", {}, shrink=room.fitted)))
    return room.Need(*map(max, *((each.shm, each.total, each.files) for each in (*needs, needs[0]))))


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Room for the packets of one engine."""
    from workers.supervisor import room

    try:
        free = room.shm_free(path)
    except OSError as error:
        mend = f"mount -t tmpfs -o mode=1777,size=50% tmpfs {path}"
        return Finding("shared memory", "missing", f"{path}: {error.strerror}", mend)
    need = needed_memory()
    takes = f"an engine takes {room.up(need)} MiB at its start"
    if free is None:
        return Finding("shared memory", "ok", f"{path} has no limit, {takes}")
    found = f"{path} has {free >> 20} MiB free, {takes}"
    mend = (
        f"mount -o remount,size={(need >> 19) + 64}m {path} (docker run --shm-size), or set fewer slots "
        "or receivers in the settings (/etc/plait/IFACE.toml, PLAIT_CONFIG)"
    )
    return _finding("shared memory", free > need, "missing", found, mend)


def memory() -> Finding:
    """Room for the processes of one engine, below the host's and all cgroups' limits."""
    from workers.supervisor import room

    need, limit = _most().total, room.memory_left()
    takes = f"an engine takes {room.up(need)} MiB at its start, /dev/shm included"
    if limit is None:
        return Finding("memory", "ok", takes)
    found = f"{limit.what} has {limit.left >> 20} MiB left, {takes}"
    mend = f"free memory or raise that limit (MemoryMax=, docker run --memory), {room.FEWER}"
    return _finding("memory", limit.left > need, "missing", found, mend)


def udp_sockets() -> Finding:
    """UDP over IPv4."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return Finding("UDP", "missing", f"no IPv4 socket: {error.strerror}", "run a kernel with CONFIG_INET")
    return Finding("UDP", "ok", "IPv4 sockets open")


def socket_directory(path: Path = Path("/var/run/wireguard")) -> Finding:
    """A place for the configuration socket."""
    from workers.supervisor import uapi_socket

    nearest = next(place for place in (path, *path.parents) if place.exists())
    ok = os.access(nearest, os.W_OK | os.X_OK)
    found = f"{path} {'is there' if nearest == path else 'can be made'}"
    if not ok:
        found = f"{nearest} is not writable"
    elif nearest == path and (others := uapi_socket.strangers(path)):
        is_mended = path.stat().st_uid in (0, os.geteuid())  # by the next plaitd
        return Finding(
            "UAPI socket", "advice" if is_mended else "missing", others, uapi_socket.OWN.format(path)
        )
    return _finding("UAPI socket", ok, "missing", found, "run as root, with a writable /var/run")


def open_files() -> Finding:
    """Descriptors for queues, sockets, bells and clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # plaitd raises its own to that
    need = _most().files
    mend = f"ulimit -n {FILES_LEAST} as root (LimitNOFILE=, docker run --ulimit nofile={FILES_LEAST})"
    if hard == resource.RLIM_INFINITY or hard >= FILES_LEAST:
        return Finding("open files", "ok", f"up to {hard} for a process, an engine takes {need}")
    found = f"up to {hard} for a process, an engine takes {need}, and one more for each client"
    return Finding("open files", "missing" if hard < need else "advice", found, mend)


def stack() -> Finding:
    """Stack of a process, which plaitd raises where it may."""
    from workers.failure import Failure
    from workers.supervisor import room

    try:
        room.raise_stack()
    except Failure as failure:
        return Finding("stack", "missing", failure.why, failure.next_step)
    return Finding("stack", "ok", f"{room.STACK_LEAST // 1024} KiB for a process, or more")


def ipv6() -> Finding:
    """IPv6, outside and inside of tunnels."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        mend = "boot without ipv6.disable=1, with the ipv6 module; IPv4 works without"
        return Finding("IPv6", "advice", "this kernel runs without it", mend)
    ok = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    found = "there" if ok else "disabled on all interfaces"
    return _finding("IPv6", ok, "advice", found, "sysctl net.ipv6.conf.all.disable_ipv6=0")


def udp_offloads() -> Finding:
    """Trains of datagrams in one call, both ways."""
    lacks = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, option in (("UDP_SEGMENT (GSO)", UDP_SEGMENT), ("UDP_GRO", UDP_GRO)):
            try:
                sock.setsockopt(socket.IPPROTO_UDP, option, 1)
            except OSError:
                lacks.append(name)
    found = f"no {' and no '.join(lacks)}: each packet costs a system call" if lacks else "GSO and GRO"
    return _finding("UDP offloads", not lacks, "advice", found, "run Linux 5.0 or later")


def cores() -> Finding:
    """Cores to spread the processes over."""
    count = len(os.sched_getaffinity(0))
    found = f"{count} for this process, of {os.cpu_count()}"
    mend = "one works; a second lets receivers and consumers run side by side (taskset, cpuset)"
    return _finding("cores", count >= 2, "advice", found, mend)


def aead() -> Finding:
    """Which provider seals and opens packets."""
    try:
        from workers._workers import ffi, lib
    except ImportError:
        return Finding("AEAD", "missing", "the C parts do not load", "see `build` above")
    chosen = lib.aead_new(-1)
    if chosen == ffi.NULL:
        return Finding("AEAD", "missing", "no provider works", "apt-get install libssl-dev; scripts/setup")
    try:
        name = str(ffi.string(lib.aead_name(chosen)).decode())
        which = lib.aead_which(chosen)
    finally:
        lib.aead_free(chosen)
    return compare_aead(name, which, lib.aead_best())


def compare_aead(name: str, chosen: int, fastest: int) -> Finding:
    """The provider that this build took, by name and number, beside the one that this CPU would have."""
    from engine.aead import PROVIDERS
    from plait import checkout

    if chosen == fastest:
        return Finding("AEAD", "ok", name)
    best = next(provider for provider in PROVIDERS.values() if provider.number == fastest)
    is_built_here = os.path.exists(os.path.join(checkout.ROOT, "scripts/setup"))
    again = "; rm .venv/setup.stamp; scripts/setup" if best is PROVIDERS["ipsec-mb"] and is_built_here else ""
    mend = f"apt-get install {best.package}{again}"
    return Finding("AEAD", "advice", f"{name}, slower than {best.library} would be here", mend)


def socket_buffers() -> Finding:
    """Room for bursts of datagrams."""
    from workers.supervisor.sockets import BUFFER_BYTES

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel tells twice the size
    found = f"{size >> 10} KiB of {BUFFER_BYTES >> 10} KiB wanted"
    mend = f"sysctl net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, or run as root"
    return _finding("socket buffers", size >= BUFFER_BYTES, "advice", found, mend)


def promises() -> Iterator[Finding]:
    """What an engine would promise here and could not keep, tried in a process that ends."""
    from workers.promises import WORDS, mend, tried

    broken = tried()
    for name, why in broken.items():
        found = f"does not hold here: {WORDS[name].promise}: {why}"
        yield Finding(f"promise {name}", "advice", found, mend(name, why))
    if not broken:
        yield Finding("promises", "ok", f"all {len(WORDS)} hold (docs/reliability.md)")


def examine_rootless() -> Iterator[Finding]:
    """What `plait exec` and `plait.sandbox` need, for the user who asks."""
    from plait.rootless import box

    names = "a user, a network, a mount and a pid namespace of one's own"
    lacks = box.probe(tun=False)
    yield _finding("namespaces", lacks is None, "missing", lacks.why if lacks else names,
                   lacks.next_step if lacks else "")  # fmt: skip
    if lacks is None:
        lacks = box.probe(tun=True)
        found = lacks.why if lacks else "a TUN can be made in them"
        yield _finding("TUN", lacks is None, "missing", found, lacks.next_step if lacks else "")
    for name, package in (("plaitd", ""), ("ip", "iproute2")):
        place = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
        step = f"apt-get install {package}" if package else "install Plait whole: the package has plaitd"
        yield _finding(name, place is not None, "missing", place or "not on PATH", step)


def running() -> Iterator[Finding]:
    """The engines of this host are what is installed."""
    from plait import plaitd_client
    from plait.failure import Failure
    from plait.watch import engines, installed

    try:
        told = list(engines.answers(engines.names(None), plaitd_client.engine))
    except Failure:
        return
    for name, report in told:
        if isinstance(report, Failure):
            continue
        differs = installed.difference(report)
        mend = installed.mend(name, report) if differs else ""
        yield _finding(f"engine {name}", not differs, "advice", differs or "what is installed runs", mend)


PROGRAMS = (
    ("ip", "iproute2", "plait up, plait demo"),
    ("wg", "wireguard-tools", "configuring interfaces"),
    ("nft", "nftables", "default routes of plait up"),
    ("resolvconf", "openresolv", "DNS lines of plait up"),
    ("ping", "iputils-ping", "plait demo"),
    ("iperf3", "iperf3", "plait demo"),
)


def programs(which: Callable[..., str | None] = shutil.which) -> Iterator[Finding]:
    """Programs of others that parts of Plait run."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    for name, package, purpose in PROGRAMS:
        place = which(name, path=path)
        found = place or f"not installed; it is for {purpose}"
        yield _finding(name, place is not None, "advice", found, f"apt-get install {package}")
