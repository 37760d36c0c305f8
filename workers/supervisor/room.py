"""How much memory an engine takes at its start, and how much this host has for it.

Limits of a memory cgroup are read where it is mounted, version 1 or 2, up to the root: the narrowest counts.
What a file system keeps for reading again (inactive_file) is given back before anybody is killed, and counts
as free. Nothing here is exact: others take and give back memory meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shm.segment import bytes_at_start
from workers.failure import Exit, Failure
from workers.settings import Settings, geometry

SHM = Path("/dev/shm")
MEBI = 1 << 20
FEWER = "or set fewer receivers, consumers, small_slots or train_slots"
MORE_SHM = f"enlarge it (mount -o remount,size={{0}}m {SHM}; docker run --shm-size={{0}}m) {FEWER}"
log = logging.getLogger("plait")
CONTROL_FIRST = 320 << 10  # of /dev/shm: the first trie nodes, buckets, the vault's header
# Private memory as an idle engine has it: measured on x86-64 with Python 3.11 (docs/scale.md).
SUPERVISOR_AND_CONTROL = 32 * MEBI
A_WORKER = 8 * MEBI
STACK_LEAST = MEBI  # a worker's largest frames, for a batch of packets, end a process that has 128 KiB
FILES_BESIDES = 32  # the log, signals, segments, and some to come and go


@dataclass(frozen=True)
class Need:
    """What a start takes: bytes of /dev/shm, bytes in all, descriptors of the process that has most."""

    shm: int
    total: int
    files: int


def need(settings: Settings) -> Need:
    """What an engine with these settings takes at its start, before it has peers."""
    shm = bytes_at_start(geometry(settings), settings.receivers) + CONTROL_FIRST
    workers = settings.receivers + settings.consumers
    most = settings.room_for("receiver"), settings.room_for("consumer")
    # A queue and a bell for each receiver there may be, two sockets, a channel and a pidfd for each worker.
    files = FILES_BESIDES + 2 * most[0] + 2 * most[0] + 2 * (1 + sum(most))
    return Need(shm, shm + SUPERVISOR_AND_CONTROL + workers * A_WORKER, files)


def fitted(settings: Settings) -> Settings:
    """Fewer receivers and consumers, one of each at least, where one a core would take more than there is.

    A quarter of /dev/shm, and of the memory, stays for the peers.
    """
    free, memory = shm_free() if SHM.is_dir() else None, memory_left()
    found = settings
    while found.receivers > 1 and free is not None and need(found).shm > free * 3 // 4:
        found = msgspec.structs.replace(found, receivers=found.receivers - 1)
    while memory is not None and need(found).total > memory.left * 3 // 4:
        if found.receivers == found.consumers == 1:
            break
        most = max(found.receivers, found.consumers) - 1
        found = msgspec.structs.replace(
            found, receivers=min(found.receivers, most), consumers=min(found.consumers, most)
        )
    if found != settings:
        log.info(
            "%d receivers and %d consumers instead of %d: this host has room for no more (%s%s); "
            "enlarge that, or say the numbers in the settings",
            found.receivers, found.consumers, settings.consumers,
            "no limit on /dev/shm" if free is None else f"/dev/shm has {free // MEBI} MiB free",
            f", {memory.what} {memory.left // MEBI} MiB" if memory else "",
        )  # fmt: skip
    return found


def check(interface: str, settings: Settings) -> None:
    """Say what the start of this interface takes. Failure when there is less."""
    wanted, memory = need(settings), memory_left()
    log.info(
        "%s takes %d MiB of /dev/shm at its start, %d MiB of memory in all: "
        "%d receivers with %d small and %d train slots a pool, %d consumers",
        interface, up(wanted.shm), up(wanted.total), settings.receivers,
        settings.small_slots, settings.train_slots, settings.consumers,
    )  # fmt: skip
    what = f"cannot make the shared memory of {interface}"
    try:
        free = shm_free()
    except OSError as error:
        mend = f"mount it: mount -t tmpfs -o mode=1777,size=50% tmpfs {SHM}"
        raise Failure(what, f"{SHM}: {error.strerror}", mend, Exit.MEMORY) from error
    if free is not None and wanted.shm > free:
        why = f"its start takes {up(wanted.shm)} MiB of {SHM}, which has {free // MEBI} MiB free"
        raise Failure(what, why, MORE_SHM.format(up(wanted.shm) + 64), Exit.MEMORY)
    if memory is not None and wanted.total > memory.left:
        left = f"{memory.what} has {memory.left // MEBI} MiB left"
        why = f"its start takes {up(wanted.total)} MiB of memory, and {left}"
        raise Failure(what, why, f"free memory or raise that limit, {FEWER}", Exit.MEMORY)


def raise_files(settings: Settings) -> None:
    """Let this process and its children open as many files as they may. Failure when those are too few."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # then there is one, and nobody knows it
        return
    with contextlib.suppress(OSError, ValueError):
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = need(settings).files
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Failure(
            "cannot open all that an engine needs",
            f"the limit is {hard} open files for a process, and {wanted} are needed",
            _more_files(settings, hard),
            Exit.MEMORY,
        )


def raise_stack() -> None:
    """Let this process and its children have the stack that a batch of packets takes, or Failure."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    except OSError:  # then there is one, and nobody knows it
        return
    if soft == resource.RLIM_INFINITY or soft >= STACK_LEAST:
        return
    try:
        hard = hard if hard == resource.RLIM_INFINITY else max(hard, STACK_LEAST)
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_LEAST, hard))
    except (OSError, ValueError) as error:
        raise Failure(
            "cannot have the stack that a worker needs",
            f"the limit is {soft // 1024} KiB for a process, and {STACK_LEAST // 1024} KiB are needed",
            f"raise it (ulimit -s {STACK_LEAST // 1024} as root; LimitSTACK=1M; "
            f"docker run --ulimit stack={STACK_LEAST})",
            Exit.MEMORY,
        ) from error


def _more_files(settings: Settings, hard: int) -> str:
    """The next step where a process may open no more than hard files. Fewer workers help only some."""
    wanted = max(1024, need(settings).files)
    raised = (
        f"raise it (ulimit -n {wanted} as root; LimitNOFILE={wanted}; "
        f"docker run --ulimit nofile={wanted})"
    )
    one = {"receivers": 1, "consumers": 1, "max_receivers": 1, "max_consumers": 1}
    if need(msgspec.structs.replace(settings, **one)).files > hard:
        return raised
    return f"{raised}, or set receivers, consumers, max_receivers and max_consumers lower"


def up(bytes_: int) -> int:
    """In MiB, rounded up."""
    return -(-bytes_ // MEBI)


def shm_free(path: Path = SHM) -> int | None:
    """Bytes that can be had of a tmpfs; None without a limit, or unknown. OSError without one there."""
    try:
        room = os.statvfs(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise
        return None
    return room.f_bavail * room.f_frsize if room.f_blocks else None


@dataclass(frozen=True)
class Limit:
    """One of the bounds on memory: what it is, and the bytes left below it."""

    what: str
    left: int


def memory_limits(proc: Path = Path("/proc"), root: Path = Path("/")) -> list[Limit]:
    """The host's memory and swap, and each cgroup's limit that this process is under; the narrowest first."""
    limits = [*_of_host(proc / "meminfo"), *_of_cgroups(proc, root)]
    return sorted(limits, key=lambda limit: limit.left)


def memory_left() -> Limit | None:
    """The narrowest; None where the host tells nothing."""
    return next(iter(memory_limits()), None)


def _of_host(meminfo: Path) -> Iterator[Limit]:
    numbers = _numbers(meminfo)
    if "MemAvailable" in numbers:
        yield Limit("this host", (numbers["MemAvailable"] + numbers.get("SwapFree", 0)) << 10)


def _of_cgroups(proc: Path, root: Path) -> Iterator[Limit]:
    for mounted, path, is_second in _groups(proc):
        # Above the mount there may be more limits, which nobody here can see.
        for group in (path, *path.parents):
            directory = root / mounted.relative_to("/") / group.relative_to("/")
            names = (
                ("memory.max", "memory.current", "inactive_file")
                if is_second
                else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            )
            limit, used = _number(directory / names[0]), _number(directory / names[1])
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 says "none" so
                free = limit - used + _numbers(directory / "memory.stat").get(names[2], 0)
                yield Limit(f"the memory cgroup {group} ({-(-limit // MEBI)} MiB)", max(free, 0))


def _groups(proc: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Of each hierarchy with memory limits: where it is mounted, our group below that, whether version 2."""
    ours: dict[bool, Path] = {}
    for line in _lines(proc / "self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            ours[controllers == ""] = Path(group)
    for line in _lines(proc / "self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        is_second = kind == "cgroup2"
        if is_second not in ours or not (is_second or (kind == "cgroup" and "memory" in options.split(","))):
            continue
        top, mounted, path = Path(fields.split()[3]), Path(fields.split()[4]), ours[is_second]
        # A container without a namespace for cgroups: its group is what is mounted.
        below = path.relative_to(top) if path.is_relative_to(top) else Path()
        yield mounted, Path("/") / below, is_second


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _numbers(path: Path) -> dict[str, int]:
    found = {}
    for line in _lines(path):
        name, _, value = line.replace(":", " ").partition(" ")
        if value.split() and value.split()[0].isdigit():
            found[name] = int(value.split()[0])
    return found
