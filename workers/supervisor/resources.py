"""What outlives every worker: TUN queues, sockets, bells and the shared segments.

The supervisor opens them before the first worker starts and hands them out again to each
replacement. They come back in the reverse order; closing the last TUN queue removes the
interface.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shm.segment import DataSegment, PlainSegment
from workers._workers import ffi, lib
from workers.failure import Exit, Failure
from workers.settings import Settings
from workers.supervisor import tun
from workers.supervisor.segments import discard, open_segments
from workers.supervisor.sockets import (
    GIVEN,
    Pair,
    adopt_sockets,
    close_sockets,
    empty,
    gather,
    is_empty,
    open_one_more,
    open_sockets,
    port_of,
    receive_trains,
    spread,
)
from workers.supervisor.uapi_socket import UapiSocket, adopt_uapi, open_uapi

log = logging.getLogger(__name__)


@dataclass
class Resources:
    """Every fd of one interface.

    receivers, consumers: how many run now; `Scaling` changes them. bells: an eventfd by worker number, for
    control and every receiver there is room for. queues: a TUN queue for every receiver there is room for;
    the first `attached` are in use. sockets: one (IPv4, IPv6) pair for each receiver, others after a change
    of the listen port. leaver: the receiver that is being removed, not counted any more; leaving: its pair.
    away: receivers whose sockets and queues others read meanwhile; away_consumers: consumers whose peers
    belong to others meanwhile. old_sockets: those of a port that is being left (ports.py), which receivers
    read too. joins, trains: the offloads that the kernel granted.
    """

    interface: str
    receivers: int
    consumers: int
    attached: int
    queues: list[int]
    uapi: UapiSocket
    joins: int
    trains: bool
    sockets: list[Pair]
    bells: dict[int, int]
    data: DataSegment
    vault: PlainSegment
    found: tun.Found | None = None  # the interface as it was before us, when we adopted it
    one_queue: str = ""  # why there can be no second receiver, in words
    given: bool = False  # the UDP sockets are those of whoever started plaitd, and no others can be opened
    leaver: int | None = None
    leaving: Pair | None = None
    away: set[int] = field(default_factory=set)
    away_consumers: set[int] = field(default_factory=set)
    old_sockets: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data.protect()
        self.data.keep_from_children()  # workers are forks, and map for themselves what is theirs (launch.py)
        self.vault.keep_from_children()
        self.segment = ffi.cast("struct segment *", self.data.segment_address)

    @classmethod
    def open(cls, interface: str, settings: Settings, environment: Mapping[str, str]) -> Resources:
        """Open all or none: raises Failure and leaves nothing behind."""
        with ExitStack() as stack:
            queues, found, one_queue = _open_queues(interface, settings, environment)
            stack.callback(_close_queues, queues, found)
            given = fd_of(environment, "WG_UAPI_FD")
            uapi = open_uapi(interface) if given is None else adopt_uapi(given)
            stack.callback(uapi.close)
            joins = tun.offload(queues[0]) if settings.tun_offload else 0
            if settings.tun_offload and not joins:
                log.info("the kernel takes no super-packets from a TUN: packets go one by one")
            fds = given_sockets(environment)
            sockets = adopt_sockets(fds) if fds else open_sockets(0, settings.receivers)
            if fds:
                one_queue = one_queue or f"UDP sockets were given as {' and '.join(fds)}"
            stack.callback(close_sockets, sockets)
            trains = settings.udp_offload and receive_trains(sockets)
            if settings.udp_offload and not trains:
                log.info("the kernel has no UDP_GRO: datagrams go one by one")
            bells = {}
            for worker in (lib.WORKER_CONTROL, *(lib.WORKER_RECEIVER + i for i in range(len(queues)))):
                bells[worker] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                stack.callback(os.close, bells[worker])
            data, vault = open_segments(interface, settings)
            stack.pop_all()
        return cls(
            interface, settings.receivers, settings.consumers, settings.receivers,
            queues, uapi, joins, trains, sockets, bells, data, vault, found, one_queue, bool(fds),
        )  # fmt: skip

    @classmethod
    def resume(cls, interface: str, handover: dict[str, Any]) -> Resources:
        """Those of the program whose place this one takes, as it described them."""
        fd, path, identity, *directory = handover["uapi"]  # a program before this one had no directory
        size, vault_size = handover["data"][1], handover["vault"][1]
        made = cls(
            interface=interface,
            receivers=handover["receivers"],
            consumers=handover["consumers"],
            attached=handover["attached"],
            queues=handover["queues"],
            uapi=UapiSocket(fd, None if path is None else Path(path), (identity[0], identity[1]), *directory),
            joins=handover["joins"],
            trains=handover["trains"],
            sockets=[(four, six) for four, six in handover["sockets"]],
            bells={int(worker): bell for worker, bell in handover["bells"].items()},
            data=DataSegment.attach(handover["data"][0], size),
            vault=PlainSegment(handover["vault"][0], vault_size),
            found=handover["found"] and tun.Found(*handover["found"]),
            one_queue=handover["one_queue"],
            given=handover.get("given", False),  # likewise
            away=set(handover.get("away", ())),  # a program before this one had none
            away_consumers=set(handover.get("away_consumers", ())),
        )
        for fd in made.fds():
            os.set_inheritable(fd, False)
        return made

    def describe(self) -> dict[str, Any]:
        """Everything, in words for JSON. No receiver is leaving, and no port."""
        return {
            "receivers": self.receivers,
            "consumers": self.consumers,
            "attached": self.attached,
            "queues": self.queues,
            "uapi": [
                self.uapi.fd,
                self.uapi.path and str(self.uapi.path),
                self.uapi.identity,
                self.uapi.directory,
            ],
            "joins": self.joins,
            "trains": self.trains,
            "sockets": self.sockets,
            "bells": self.bells,
            "data": [self.data.fd, self.data.bytes],
            "vault": [self.vault.fd, self.vault.bytes],
            "found": self.found,
            "one_queue": self.one_queue,
            "given": self.given,
            "away": sorted(self.away),
            "away_consumers": sorted(self.away_consumers),
        }

    def fds(self) -> list[int]:
        """Every descriptor in the description."""
        pairs = [fd for pair in self.sockets for fd in pair if fd is not None]
        uapi = [fd for fd in (self.uapi.fd, self.uapi.directory) if fd is not None]
        return [*self.queues, *uapi, *pairs, *self.bells.values(), self.data.fd, self.vault.fd]

    def __enter__(self) -> Resources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back: the interface, unless it was adopted, its socket file and its memory are gone
        then."""
        with ExitStack() as stack:  # the last first
            stack.callback(_close_queues, self.queues, self.found)
            stack.callback(self.uapi.close)
            leaving = [self.leaving] if self.leaving else []
            stack.callback(close_sockets, [*self.sockets, *leaving, *self.old_sockets])
            for fd in self.bells.values():
                stack.callback(os.close, fd)
            stack.callback(discard, self.vault)
            stack.callback(discard, self.data)

    # -- the name -----------------------------------------------------------------------------

    def follow_name(self) -> None:
        """The interface's name is what the kernel says, and the socket file is called so too. Raises Failure
        when that file has to keep its name."""
        self.interface = tun.name_of(self.queues[0])
        self.uapi.follow(self.interface)

    # -- the listen port ----------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The UDP port that all sockets are bound to."""
        return port_of(self.sockets)

    def change_port(self, port: int) -> bool:
        """Open sockets on another port (0: a random one); those before are the old ones from now on.

        False: the port is in use already, and nothing changes. Raises Failure, with the present sockets as
        they were.
        """
        if port == self.port or (self.given and not port):
            return False
        if self.given:
            why, step = "plaitd was given its UDP sockets", "start it again with sockets of another port"
            raise Failure(f"the listen port stays {self.port}", why, step, Exit.PORT, errno.EOPNOTSUPP)
        sockets = open_sockets(port, self.receivers, int(self.segment.device.fwmark))
        if self.trains:
            receive_trains(sockets)
        leaving = [self.leaving] if self.leaving else []
        self.old_sockets, self.sockets, self.leaving = [*self.sockets, *leaving], sockets, None
        return True

    # -- the number of receivers --------------------------------------------------------------

    def add_receiver(self) -> None:
        """The next receiver has a queue and sockets from now on, which fill whether it reads or not.

        Raises Failure, with everything as it was.
        """
        if self.receivers == self.attached:
            try:
                tun.use_queue(self.queues[self.attached], True)
            except OSError as error:
                why = error.strerror or str(error)
                raise Failure("cannot use another TUN queue", why, "see `dmesg`", Exit.INTERFACE) from error
            self.attached += 1
        pair = open_one_more(self.sockets, int(self.segment.device.fwmark))
        if self.trains:
            receive_trains([pair])
        self.sockets.append(pair)
        self.receivers += 1

    def take_receiver(self) -> None:
        """The last receiver gets no more datagrams; it still has its queue, and what its sockets hold.

        Raises OSError, with everything as it was.
        """
        try:
            gather(self.sockets)
        except OSError:
            spread(self.sockets)
            raise
        self.leaving = self.sockets.pop()
        self.receivers = self.leaver = self.receivers - 1

    @property
    def is_drained(self) -> bool:
        """Whether the sockets of the one that leaves hold nothing."""
        return self.leaving is None or is_empty(self.leaving)

    def forget_receiver(self) -> int:
        """It is gone, and nobody else has a copy of its sockets: they are closed, its queue is another's.

        Returns how many packets were still in the sockets.
        """
        lost = 0
        if self.leaving is not None:
            lost = empty(self.leaving)
            close_sockets([self.leaving])
        self.away.discard(self.receivers)  # its number
        self.leaver = self.leaving = None
        spread(self.sockets)
        return lost

    # -- what workers are given -----------------------------------------------------------------

    def fds_for(self, kind: str, number: int) -> tuple[list[str], list[int]]:
        """Names and fds of a worker's start message."""
        named = {"data": self.data.fd}
        if kind == "control":
            named |= {"vault": self.vault.fd, "uapi": self.uapi.fd}
            if self.uapi.directory is not None:
                named["directory"] = self.uapi.directory  # of the socket's file
        named |= {f"bell:{worker}": fd for worker, fd in self.bells.items()}
        named |= self._packet_fds(kind, number)
        return list(named), list(named.values())

    def packet_fds_for(self, kind: str, number: int) -> tuple[list[str], list[int]]:
        """Of these, what changes with the listen port and the number of receivers."""
        named = self._packet_fds(kind, number)
        return list(named), list(named.values())

    def _packet_fds(self, kind: str, number: int) -> dict[str, int]:
        """UDP sockets as `udp4:0`, `udp6:0`, `udp4:1`, …, TUN queues as `tun:0`, ….

        Control marks all sockets, and asks the kernel what it dropped at them; at old ones too. A receiver
        reads its own ones, its own queue, the queues that receivers before it left behind, its part of the
        old sockets, as `udp4:old:0`, …, and all that is of those for whom it stands in; a consumer sends
        through the sockets of the receiver with its number.
        """
        if kind == "control":
            return self._named(range(self.receivers)) | {"tun:0": self.queues[0]} | self._old_ones()
        if kind == "consumer":
            number %= self.receivers
            return self._named([number]) | {f"tun:{number}": self.queues[number]}
        named: dict[str, int] = {}
        for owner in (number, *(n for n in sorted(self.away) if self._stand_in(n) == number)):
            named |= self._belonging(owner) | self._old_ones(owner)
        return named

    def _old_ones(self, owner: int | None = None) -> dict[str, int]:
        """The old sockets of a receiver, or of all."""
        named: dict[str, int] = {}
        for number, pair in enumerate(self.old_sockets):
            if owner in (None, number % self.receivers):
                named |= _named_pair(f"old:{number}", pair)
        return named

    def _belonging(self, number: int) -> dict[str, int]:
        """The sockets and queues of this receiver."""
        if number < self.receivers:
            queues = (q for q in range(self.attached) if q % self.receivers == number and q != self.leaver)
            return self._named([number]) | {f"tun:{queue}": self.queues[queue] for queue in queues}
        if number != self.leaver:
            return {}  # not counted yet
        own = {f"tun:{number}": self.queues[number]}
        if self.leaving is None:  # the port has changed: until it ends it shares another's sockets
            return self._named([number % self.receivers]) | own
        return _named_pair(number, self.leaving) | own

    def _stand_in(self, number: int) -> int | None:
        """Who reads what belongs to a receiver that is away; None when all are."""
        here = [n for n in range(self.receivers) if n not in self.away]
        return here[number % len(here)] if here else None

    def _named(self, numbers: Iterable[int]) -> dict[str, int]:
        named: dict[str, int] = {}
        for number in numbers:
            named |= _named_pair(number, self.sockets[number])
        return named


def _named_pair(number: int | str, pair: Pair) -> dict[str, int]:
    return {f"udp{v}:{number}": fd for v, fd in zip((4, 6), pair, strict=True) if fd is not None}


def fit(settings: Settings, interface: str, environment: Mapping[str, str]) -> Settings:
    """The settings for the TUN interface that there may be: one queue has one reader. Failure when it is of
    no use."""
    if not environment.get("WG_TUN_FD") and not given_sockets(environment):
        found = tun.find(interface)
        if found is None or not found.has_one_queue:
            return settings
    return msgspec.structs.replace(settings, receivers=1, max_receivers=1)


def _close_queues(queues: list[int], found: tun.Found | None) -> None:
    if found is not None:
        tun.give_back(queues, found)
        return
    for fd in queues:
        os.close(fd)


def _open_queues(
    interface: str, settings: Settings, environment: Mapping[str, str]
) -> tuple[list[int], tun.Found | None, str]:
    """The queues, what was adopted, and why there can be no more of them."""
    given = fd_of(environment, "WG_TUN_FD")
    if given is None:
        tun.check_name(interface)
        found = tun.find(interface)
        count = settings.room_for("receiver")
        queues = tun.open_queues(interface, count, settings.receivers, found, multicast=settings.multicast)
        if found is None:
            return queues, None, ""
        why = f"{interface} was made without multi_queue" if found.has_one_queue else ""
        log.info("%s was there already and is adopted: %s", interface, found.words(count))
        return queues, found, why
    name, queues = tun.adopt_queue(given)
    if name != interface:
        os.close(given)
        raise Failure(
            f"cannot use the TUN queue given as WG_TUN_FD={given}",
            f"it belongs to the interface {name}",
            f"start plaitd with the name {name}",
            Exit.USAGE,
        )
    return queues, None, "one TUN queue was given as WG_TUN_FD"


def given_sockets(environment: Mapping[str, str]) -> dict[str, int | None]:
    """The UDP sockets that plaitd was given, by the variables that name them; empty when there are none."""
    return {name: fd_of(environment, name) for name in GIVEN.values() if environment.get(name)}


def fd_of(environment: Mapping[str, str], name: str) -> int | None:
    """The fd number in an environment variable, None without it. Failure when it is no open fd."""
    text = environment.get(name)
    if not text:
        return None
    try:
        fd = int(text)
        os.fstat(fd)
    except (ValueError, OSError) as error:
        raise Failure(
            f"cannot use {name}={text}",
            "it is not the number of an open file descriptor",
            "pass an inherited one, or unset it",
            Exit.USAGE,
        ) from error
    return fd
