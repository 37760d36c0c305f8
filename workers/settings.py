"""The engine's own settings: what `wg` has no word for.

They stand in /etc/plait/IFACE.toml, or in the file that PLAIT_CONFIG names, because wg-quick
starts an engine without arguments. No file means the defaults. A file is taken whole or
refused whole, with file, line, what, why and the next step.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from engine.aead import PROVIDERS
from engine.constants import HANDSHAKE_QUEUE, KEYPAIR_NUMBER_BITS, MAX_PEERS
from engine.uapi.keys import NUMBERS
from shm._shm import lib
from workers.failure import Exit, Failure
from workers.handoffs import INLINE, Handoff, current
from workers.priorities import REALTIME, Priority
from workers.sharing import NEVER, Share

DIRECTORY = Path("/etc/plait")
MAX_WORKERS_OF_A_KIND = lib.MAX_RECEIVERS  # and MAX_CONSUMERS
MAX_SESSIONS = 1 << KEYPAIR_NUMBER_BITS
MAX_SMALL_SLOTS = 32767  # shm counts the nodes of a pool in 16 bits
MAX_TRAIN_SLOTS = 4096
IDLE_MOST = NUMBERS["idle_after"].most  # seconds
ALLOWED_IPS_A_PEER = 4  # an estimate; each allowed IP takes at most two trie nodes
QUIET_SHARERS = 4  # receivers, and as many consumers, that share a core (workers/datapath/affinity.c)
COUNTS = {"receivers", "consumers", "max_receivers", "max_consumers"}
NODES_A_TRAIN = 8  # a train whose packets belong to several sessions takes a node for each run

*_OTHERS, _LAST = (f'"{word}" ({provider.library})' for word, provider in PROVIDERS.items())
_AEAD = f"{', '.join(_OTHERS)} or {_LAST}"

# What each key means and accepts; the text of every refusal.
KEYS = {
    "receivers": f"a number from 1 to {MAX_WORKERS_OF_A_KIND}: processes that take packets in",
    "consumers": f"a number from 1 to {MAX_WORKERS_OF_A_KIND}: processes that seal, open and send",
    "max_receivers": f"a number from receivers to {MAX_WORKERS_OF_A_KIND}: room for `plait scale`",
    "max_consumers": f"a number from consumers to {MAX_WORKERS_OF_A_KIND}: room for `plait scale`",
    "cores": "a list of CPU numbers, for example [0, 1]: where receivers and consumers run",
    "pin": "true (receiver i and consumer i stay on the i-th of the cores) or false (the kernel places those "
    "that are busy; others share one)",
    "max_peers": f"a number from 1 to {MAX_PEERS}: peers that this interface can ever have at once",
    "sessions": f"a number from 64 to {MAX_SESSIONS}: session keys that can be live at once",
    "small_slots": f"a number from 64 to {MAX_SMALL_SLOTS}: packet buffers of 2 KiB, for each pool",
    "train_slots": f"a number from 1 to {MAX_TRAIN_SLOTS}: buffers of 68 KiB for trains, for each pool",
    "handoff": '"inline" (run to completion: the receiver drains a peer that nobody holds) or "pipeline" '
    "(every packet goes to its peer's consumer)",
    "priority": '"realtime" (receivers and consumers that wake run before ordinary processes, until they '
    'have been busy for 10 ms) or "normal"',
    "share": '"never", "auto" (a busy receiver or consumer lends parts of its batches to idle '
    'consumers while a core is idle) or "always" (also small batches on busy cores: for tests)',
    "aead": f'"auto" (the fastest that this build and CPU have), {_AEAD}: what seals and opens packets',
    "tun_offload": "true or false: super-packets between the kernel and the engine",
    "udp_offload": "true or false: trains of datagrams between the kernel and the engine",
    "idle_after": f'a time such as "90s", "30m", "12h" or "2d", at most {IDLE_MOST // 86400} days, or "0s" '
    "(never): how long a peer on demand may be idle before the provider gets it back",
    "gateway": "0 to 15, or as far as gateway_bits goes: which of several gateways of "
    "one private key this is; it stands in the clear in the receiver indices that it gives out",
    "gateway_bits": "2, 4, 6 or 8: bits of each receiver index that gateway takes",
    "multicast": "true (the interface takes multicast and has an IPv6 link-local address, as that of "
    "wireguard-go: for OSPFv3, Babel or mDNS) or false (neither, as the kernel module's)",
}

_TIME = re.compile(r"([0-9]{1,8})([smhd])\Z", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
log = logging.getLogger("plait")
_Workers = Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS_OF_A_KIND)]
_Core = Annotated[int, msgspec.Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one interface, complete: `load` has filled in what depends on the host."""

    receivers: _Workers
    consumers: _Workers
    cores: Annotated[tuple[_Core, ...], msgspec.Meta(min_length=1)]
    pin: bool = False
    max_receivers: _Workers | None = None
    max_consumers: _Workers | None = None
    max_peers: Annotated[int, msgspec.Meta(ge=1, le=MAX_PEERS)] = MAX_PEERS
    sessions: Annotated[int, msgspec.Meta(ge=64, le=MAX_SESSIONS)] | None = None
    small_slots: Annotated[int, msgspec.Meta(ge=64, le=MAX_SMALL_SLOTS)] = 2048
    train_slots: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRAIN_SLOTS)] = 22
    handoff: Handoff = INLINE
    priority: Priority = REALTIME
    share: Share = NEVER
    aead: str = "auto"
    tun_offload: bool = True
    udp_offload: bool = True
    multicast: bool = False
    idle_after: str = "0s"
    gateway: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    gateway_bits: Literal[2, 4, 6, 8] = 4

    @property
    def gateway_and_bits(self) -> tuple[int, int]:
        """(0, 0) without a gateway's number."""
        return (0, 0) if self.gateway is None else (self.gateway, self.gateway_bits)

    @property
    def idle_seconds(self) -> int:
        """`idle_after` in seconds; more than IDLE_MOST for what is no time."""
        found = _TIME.match(self.idle_after)
        return int(found[1]) * _UNITS[found[2]] if found else IDLE_MOST + 1

    def room_for(self, kind: str) -> int:
        """How many receivers or consumers (kind) there can ever be: twice as many as run from the start, and
        one for each core, unless the settings say it."""
        given, count = {
            "receiver": (self.max_receivers, self.receivers),
            "consumer": (self.max_consumers, self.consumers),
        }[kind]
        return given or min(max(2 * count, len(set(self.cores))), MAX_WORKERS_OF_A_KIND)

    def cores_of(self, number: int) -> tuple[int, ...]:
        """The CPUs that receiver or consumer `number` may run on."""
        if self.pin:
            return (self.cores[number % len(self.cores)],)
        return tuple(sorted(set(self.cores)))


    def quiet_core_of(self, number: int, interface: str) -> int | None:
        """The CPU on which receiver or consumer `number` stays while it has little to do; None: on none.
        Which one comes first depends on the interface's name, so that many engines do not share one."""
        cores = sorted(set(self.cores))
        if self.pin or self.priority != REALTIME or len(cores) == 1:
            return None
        first = zlib.crc32(interface.encode())
        return cores[(first + number // QUIET_SHARERS * QUIET_SHARERS) % len(cores)]


def path_of(interface: str, environment: Mapping[str, str]) -> Path:
    """The settings file of an interface, which need not exist unless PLAIT_CONFIG names it."""
    named = environment.get("PLAIT_CONFIG")
    return Path(named) if named else DIRECTORY / f"{interface}.toml"


def load(
    interface: str,
    environment: Mapping[str, str] = os.environ,
    available: frozenset[int] | None = None,
    shrink: Callable[[Settings], Settings] = lambda settings: settings,
) -> Settings:
    """The settings of an interface on this host. Raises Failure for a file that is refused.

    available: the CPUs that may be used, by default those of this process. WG_THREADS, known
    from other engines, takes the place of the default number of receivers and consumers. shrink: makes
    fewer of them, when nobody has said how many there are to be (room.py).
    """
    cpus = sorted(available or usable_cpus())
    threads = _threads(environment)
    workers = min(threads or len(cpus), MAX_WORKERS_OF_A_KIND)
    shrink = shrink if threads is None else lambda settings: settings
    defaults: dict[str, Any] = {"receivers": workers, "consumers": workers, "cores": cpus}
    path = path_of(interface, environment)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        if environment.get("PLAIT_CONFIG"):
            next_step = "write that file, or unset PLAIT_CONFIG to run with the defaults"
            raise _unreadable(path, error, next_step) from error
        return shrink(msgspec.convert(defaults, Settings))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    settings = parse(text, str(path), defaults)
    for core in settings.cores:
        if core not in cpus:
            raise _refusal(
                str(path), text, "cores", f"CPU {core} is not one that plaitd may use here ({_ranges(cpus)})"
            )
    return settings if COUNTS & _keys(text).keys() else shrink(settings)


def usable_cpus() -> frozenset[int]:
    """The CPUs that this process may use; all, where the kernel does not say."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:
        return frozenset(range(os.cpu_count() or 1))


def parse(text: str, path: str, defaults: Mapping[str, Any]) -> Settings:
    """The settings in a TOML text over defaults. path is for the words of a Failure."""
    try:
        given = _keys(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; arrays 1,000 deep
        raise _malformed(path, text, error) from error
    for key in given:
        if key not in KEYS:
            raise _refusal(path, text, key, "there is no such setting")
    given, note = _by_words_of_today(given)
    try:
        settings = msgspec.convert({**defaults, **given}, Settings)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = re.split(r"[\[`.]", place)[0]
        reason = reason[0].lower() + reason[1:].replace("`", "")
        raise _refusal(path, text, key, reason) from error
    if missing := _missing_provider(settings):
        raise _refusal(path, text, "aead", missing)
    if settings.idle_seconds > IDLE_MOST:
        raise _refusal(path, text, "idle_after", f"it is no time, or more than {IDLE_MOST // 86400} days")
    if (settings.gateway or 0) >> settings.gateway_bits:
        why = f"{settings.gateway_bits} bits have numbers up to {(1 << settings.gateway_bits) - 1}"
        raise _refusal(path, text, "gateway", why)
    for kind in ("receiver", "consumer"):
        count = getattr(settings, f"{kind}s")
        if settings.room_for(kind) < count:
            raise _refusal(path, text, f"max_{kind}s", f"there are {count} {kind}s from the start")
    if note:
        log.info("%s, line %d: handoff = %s", path, _line_of(text, "handoff"), note)
    return settings


def described(description: Mapping[str, Any]) -> Settings:
    """The settings that a running engine, perhaps of an earlier version, describes to the program that takes
    its place. Raises Failure when this program cannot run with them."""
    given, _ = _by_words_of_today(description)
    try:
        settings = msgspec.convert(given, Settings)
        why = _missing_provider(settings)
    except msgspec.ValidationError as error:
        why = str(error)
    if why:
        next_step = "stop the interface and start it with this program"
        raise Failure("cannot take over the engine's settings", why, next_step, Exit.SETTINGS)
    return settings


def _missing_provider(settings: Settings) -> str:
    return "" if settings.aead in ("auto", *PROVIDERS) else f"there is no provider {settings.aead}"


def _keys(text: str) -> dict[str, Any]:
    """What a TOML text sets. ValueError or RecursionError for what is none."""
    import tomllib  # late: most interfaces have no file

    return tomllib.loads(text)


def _by_words_of_today(given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The same settings, and what is to be said of an earlier version's word among them, else ""."""
    handoff = given.get("handoff")
    if not isinstance(handoff, str):
        return {**given}, ""
    word, note = current(handoff)
    return {**given, "handoff": word}, note


def geometry(settings: Settings) -> dict[str, int]:
    """The numbers of `struct geometry` (shm/layout.h) for these settings, for shm.segment."""
    peers = -(-settings.max_peers // 64) * 64
    sessions = settings.sessions or min(max(2 * peers, 64), MAX_SESSIONS)
    cells = HANDSHAKE_QUEUE // settings.receivers
    return {
        "max_peers": peers,
        "max_keypairs": _power_of_two(sessions),
        "max_receivers": settings.room_for("receiver"),
        "max_consumers": settings.room_for("consumer"),
        "nodes_a_pool": settings.small_slots + NODES_A_TRAIN * settings.train_slots,
        "small_slots": settings.small_slots,
        "train_slots": settings.train_slots,
        "mailbox_cells": 1 << (cells.bit_length() - 1),
        "max_trie_nodes": 2 * ALLOWED_IPS_A_PEER * peers,
        "public_key_buckets": _power_of_two(peers),
    }


def _threads(environment: Mapping[str, str]) -> int | None:
    text = environment.get("WG_THREADS")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise Failure(
            f"cannot use WG_THREADS={text}",
            "it is not a number above 0",
            "set it to the number of receivers and consumers wanted, or unset it",
            Exit.USAGE,
        )
    return int(text)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below number."""
    return 1 << (number - 1).bit_length()


def _ranges(cpus: list[int]) -> str:
    return ", ".join(map(str, cpus))


def _line_of(text: str, key: str) -> int:
    """The line (from 1) where a top-level key or table stands."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1


def _refusal(path: str, text: str, key: str, why: str) -> Failure:
    line = _line_of(text, key)
    words = " ".join(text.splitlines()[line - 1].split())
    next_step = f"{key} takes {KEYS[key]}" if key in KEYS else "remove it or use one of " + ", ".join(KEYS)
    return Failure(f"{path}, line {line}: cannot use `{words}`", why, next_step, Exit.SETTINGS)


def _malformed(path: str, text: str, error: Exception) -> Failure:
    reason, place = str(error), re.search(r" \(at line (\d+), column \d+\)$", str(error))
    if place:
        line, reason = int(place.group(1)), reason[: place.start()]
    else:  # "at end of document"
        line = max(len(text.splitlines()), 1)
    return Failure(
        f"{path}, line {line}: cannot read the settings",
        reason[0].lower() + reason[1:],
        "write lines such as `receivers = 2` (TOML)",
        Exit.SETTINGS,
    )


def _unreadable(
    path: Path, error: Exception, next_step: str = "mend it, or remove it to run with the defaults"
) -> Failure:
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        what, why = f"{path}, line {line}: cannot read the settings", "the file is not UTF-8 text"
    else:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        what = f"cannot read the settings file {path}"
    return Failure(what, why, next_step, Exit.SETTINGS)
