"""What a load process is told before it begins: its peers, its share of each rate and count, and its core.

A process has a contiguous share of the peers of one population. All shares of a whole number together are
that number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from plait.failure import Failure
from plait.load.key_derivation import Group, Keys, Network, inner_network
from plait.load.profile import BYTES, Packets, Part, Phase, Profile, ephemerals, handshake_count
from plait.load.progress import Run
from plait.load.result import GARBAGE
from plait.load.secrets_file import directory as secrets_directory

SECOND = 1_000_000_000  # the processes count nanoseconds


def gateway_key(profile: Profile, keys: Keys) -> bytes:
    """The gateway's public key: the profile's, or the seed's own."""
    from plait.keys import decode

    if profile.public_key is None:
        return keys.gateway()[1]
    try:
        return decode(profile.public_key)
    except ValueError as error:
        mend = "Give the gateway's public key as `wg show` prints it."
        raise Failure("cannot use public_key", str(error), mend) from error


def inner_networks(profile: Profile) -> list[Network]:
    """The networks inside: the gateway's host has the first address of each."""
    inners = dict.fromkeys(part.inner for part in profile.parts() if part.known != "nobody")
    return [inner_network(inner, profile.peers) for inner in inners]


def known_to(profile: Profile, who: str) -> list[Group]:
    """The peers that the gateway, or its provider, knows, with their networks."""
    return [
        (part.span, inner_network(part.inner, profile.peers))
        for part in profile.parts()
        if part.known == who
    ]


def parts_here(profile: Profile, span: range) -> Iterator[tuple[Part, range]]:
    """The populations that have peers on this machine, and which."""
    for part in profile.parts():
        here = range(max(part.span.start, span.start), min(part.span.stop, span.stop))
        if here:
            yield part, here


def orders_of(run: Run, setup: dict[str, Any], spare: int) -> Iterator[dict[str, Any]]:
    """What each process is told: of each population there is one on each core."""
    from plait.load._generator import lib

    run.bytes_per_peer = lib.load_bytes_per_peer()
    usable = sorted(os.sched_getaffinity(0))  # for preparation: the gateway has nothing to do then
    plans = [
        (part, here, number, count)
        for part, here in parts_here(run.profile, run.span)
        for count in [min(len(run.cores), processes_most(run.profile, here, part))]
        for number in range(count)
    ]
    for at, (part, here, number, count) in enumerate(plans):
        core = run.cores[number]
        first = here.start + len(here) * number // count
        after = here.start + len(here) * (number + 1) // count
        stock = _ephemerals(run.profile, part, after - first)
        stock += -int(-spare * (after - first) / run.profile.peers // 1)
        network = inner_network(part.inner, run.profile.peers)
        yield {
            "number": at,
            "population": part.name,
            "core": core,
            "setup": {
                **setup,
                "first_peer": first,
                "peers": after - first,
                "inner_family": 10 if network.version == 6 else 2,
                "inner_base": network.network_address.packed.hex(),
                "strangers": int(part.known == "nobody"),
            },
            "ephemerals": min(stock, 1 << 20),
            "helpers": sorted({core, *usable[at :: len(plans)]}),
            "cache": secrets_directory(),
            "phases": [
                phase_orders(run.profile, phase, place, first, after, number / count, part)
                for place, phase in enumerate(run.profile.phase)
            ],
        }


def _ephemerals(profile: Profile, part: Part, peers: int) -> int:
    """How many handshakes so many peers of a population may begin, as far as the plan says."""
    stock = 0
    for phase in profile.phase:
        share = profile.shares(phase, part).get("handshakes")
        if share is not None:
            stock += -int(-ephemerals(share.table, phase.length(), share.peers) * peers / share.peers // 1)
    return stock


def phase_orders(
    profile: Profile,
    phase: Phase,
    number: int,
    first: int,
    after: int,
    stagger: float,
    part: Part | None = None,
) -> dict[str, Any]:
    """struct load_phase for the process that has peers first to after, of one population."""
    part = part or profile.parts()[0]
    shares = profile.shares(phase, part)

    def of(key: str, whole: int) -> int:
        """This process's part of a whole number of a table: all parts together are the whole."""
        share = shares[key]
        return whole * (after - share.first) // share.peers - whole * (first - share.first) // share.peers

    def ramp(key: str, rate: float | list[float] | None) -> list[float]:
        ends = rate if isinstance(rate, list) else [rate or 0.0] * 2
        return [end * (after - first) / shares[key].peers for end in ends]

    def sizes(packets: Packets | None) -> dict[str, Any]:
        listed, up_to = packets.sizes() if packets is not None else ([], [])
        one = packets.bytes if packets is not None else None
        return {"bytes": one or BYTES, "mix": len(listed), "mix_bytes": listed, "mix_share": up_to}

    tables = {key: share.table for key, share in shares.items()}
    handshakes, traffic, oneway = (tables.get(key) for key in ("handshakes", "traffic", "oneway"))
    # Without seconds it lasts until the handshakes are over: those who have none are over at once.
    length = phase.length() if shares or phase.seconds is not None else 0
    orders: dict[str, Any] = {
        "number": number,
        "length": int(length * SECOND),
        "drain": int(phase.drain * SECOND),
        "stagger": stagger,
        "until_done": int(phase.seconds is None),
        "patience": SECOND,
        "traffic_peers": after - first,
        "oneway_peers": after - first,
        "echo": sizes(traffic),
        "oneway": sizes(oneway),
    }
    if handshakes is not None:
        peers = shares["handshakes"].peers
        rate = peers / handshakes.within if handshakes.within else handshakes.rate
        places = handshakes.outstanding
        orders |= {
            "handshakes": of("handshakes", handshake_count(handshakes, peers)),
            "outstanding": max(1, of("handshakes", places)) if places else 0,
            "handshake_rate": ramp("handshakes", rate),
            "patience": int(handshakes.patience * SECOND),
            "confirm": int(handshakes.confirm),
            "handshakes_random": int(handshakes.arrival == "poisson"),
        }
    if traffic is not None:
        orders |= {
            "traffic_rate": ramp("traffic", traffic.rate),
            "traffic_outstanding": min(of("traffic", traffic.outstanding or 0), after - first),
            "traffic_peers": max(1, of("traffic", traffic.peers or shares["traffic"].peers)),
            "traffic_random": int(traffic.arrival == "poisson"),
        }
    if oneway is not None:
        orders |= {
            "oneway_rate": ramp("oneway", oneway.rate),
            "oneway_peers": max(1, of("oneway", oneway.peers or shares["oneway"].peers)),
            "oneway_random": int(oneway.arrival == "poisson"),
        }
    if "keepalives" in tables:
        orders["keepalive_rate"] = (after - first) / tables["keepalives"].every
    if "roaming" in tables:
        (orders["roam_rate"], _) = ramp("roaming", tables["roaming"].rate)
    if "garbage" in tables:
        orders["garbage_rate"] = [ramp("garbage", getattr(tables["garbage"], kind))[0] for kind in GARBAGE]
    return orders


def processes_most(profile: Profile, span: range, part: Part | None = None) -> int:
    """More processes of a population would be some that have nothing to do, or more in flight than the
    profile says."""
    part, most = part or profile.parts()[0], [len(span)]
    for phase in profile.phase:
        for share in profile.shares(phase, part).values():
            wanted = [getattr(share.table, name, None) for name in ("outstanding", "peers")]
            most += [max(1, one * len(part.span) // share.peers) for one in wanted if one]
    return min(most)
