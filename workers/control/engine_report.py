"""The inside of the engine, read from the data segment: the answer to `get_engine=1`.

    {"version": "0.1.0", "layout": "58aa…", "commit": "ee68…",   of the supervisor's program (version.py)
     "program": ["/usr/bin/plaitd"],          what started it
     "aead": "libipsec-mb AVX512",            the provider in use
     "gateway": {"number": 1, "bits": 4},     what stands in its receiver indices; null: none
     "peers": 2,                              configured
     "connected": 1,                          of them have a session that may be used: not 180 s old
     "longest_turn_ms": 2.1,                  CPU of control's longest turn since the report before this one
     "processes": [{"role": "receiver", "number": 0, "worker": 2, "pid": 4711, "cpu": 0,
                    "state": "running", "asleep": true, "incarnation": 1, "beat_ms": 12.5,
                    "packets": {"udp_received": 6, "udp_sent": 4, "tun_received": 4, "tun_sent": 6}}, …],
     "queues": {"inbound":  {"waiting": 0, "peers": 0, "longest": 0}, "outbound": …},   wire-size packets,
                                                       staged ones that wait for a session included
     "tokens": {"idle": 2, "queued": 0, "held": 0, "dead": 0},
     "pools": [{"receiver": 0, "direction": "inbound", "nodes": 2048, "home": 2040, "mine": 8,
                "queued": 0, "in_hand": 0, "small_slots": 1024, "small_out": 8,
                "train_slots": 16, "train_out": 0}, …],
     "bytes_per_peer": {"idle": {"peer row": 512, …}, "session": {"keypair": 1152, …}},   by the layout
     "counters": {"udp_received": 10, "drop_data_tag": 0, …},      sums over all workers, every cause
     "kernel_drops": {"tun": 0, "udp": 0},    packets that never reached the engine (kernel_drops.py)
     "on_demand": {"peers": 1, "providers": 1, "parked": 0, "asked": 0, "refused": 12,    peers that may be
                   "seconds": {"bounds": [0.001, …], "counts": [0, …], "sum": 1.5}},   evicted, clients asked,
                   initiations that wait, open questions, keys refused now; how long answers took (lookups.py)
     "dead_gateways": [{"number": 2, "sessions": 10, "seconds": 3.5}],    of the same key, that were told of,
                   how many sessions each had, and for how long it is known to be dead (neighbours.py)
     "rules": {"quota": 2, "expires": 1, "ran_out": 1},    peers with a limit, and those that are cut off
     "broken_promises": [{"name": "locked", "promise": …, "why": …, "mend": …}, …],   promises.py
     "key_log": null}                         the file that gets the keys of every handshake (keylog.py)

beat_ms: since the process's latest turn (asleep ones do not turn); null before its first. cpu: null when not
pinned. packets: its own counters; who drains sends, so in mode pipeline receivers receive and consumers
send. No process is stopped while the segment is read, so numbers of one report may be a few packets apart.

Waiting packets are counted over nodes, of which there are thousands, not over the queues of 500,000 peers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shm.layout import COUNTERS
from workers._workers import ffi, lib
from workers.control.distinct import first_of_each
from workers.providers import new_context

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workers._workers import Pointer, TypeName, geometry, segment_p

NOT_PINNED = 0xFFFFFFFF
_ROLES = (  # first worker number, role
    (lib.WORKER_SUPERVISOR, "supervisor"),
    (lib.WORKER_CONTROL, "control"),
    (lib.WORKER_RECEIVER, "receiver"),
    (lib.WORKER_CONSUMER, "consumer"),
)
_PACKETS = ("UDP_RECEIVED", "UDP_SENT", "TUN_RECEIVED", "TUN_SENT")
_DIRECTIONS = {lib.INBOUND: "inbound", lib.OUTBOUND: "outbound"}


def report(
    segment: segment_p,
    now: int,
    peers: int,
    aead: str,
    program: dict[str, Any] | None = None,
    longest_turn: int = 0,
) -> dict[str, Any]:
    """The report of an attached `struct segment *`, ready for json.dumps.

    now: CLOCK_BOOTTIME ns; peers: how many there are, which control knows without looking; aead: its name;
    program: what the supervisor said of itself, which is unknown of one that says nothing. longest_turn: ns.
    """
    used = min(int(segment.device.rows_used), int(segment.geometry.max_peers))
    return {
        **(program or dict.fromkeys(("version", "layout", "commit"), "unknown")),
        "aead": aead,
        "gateway": _gateway(int(segment.device.index_key[2])),
        "peers": peers,
        "longest_turn_ms": round(longest_turn / 1e6, 1),
        "processes": _processes(segment, now),
        "queues": _queues(segment, used),
        "tokens": _tokens(segment, used),
        "pools": _pools(segment),
        "bytes_per_peer": bytes_per_peer(segment.geometry),
        "counters": counters(segment),
    }


def counters(segment: segment_p) -> dict[str, int]:
    """Every counter's name in lower case and its sum over all workers."""
    return {name.lower(): lib.counter_sum(segment, getattr(lib, name)) for name in COUNTERS}


def bytes_per_peer(geometry: geometry) -> dict[str, dict[str, float]]:
    """Bytes by part: of an idle peer with one allowed IP, and what a session adds. struct geometry."""
    return {
        "idle": {
            "peer row, both queues": lib.PEER_ROW_BYTES,
            "tokens": 8,
            "timer columns": 4 * lib.TIMER_COLUMNS,
            "allowed IP, two trie nodes": 2 * lib.TRIE_NODE_BYTES,
            "public-key buckets": 4 * int(geometry.public_key_buckets) / int(geometry.max_peers),
            "ready sets": (1 + int(geometry.max_consumers)) / 4,
            "vault row": ffi.sizeof("struct vault_row"),
        },
        "session": {
            "keypair, replay window": lib.KEYPAIR_BYTES,
            "index entry": lib.INDEX_ENTRY_BYTES,
            "control's list": 8,
        },
    }


def aead_name(setting: str) -> str:
    """What the provider that the setting `aead` means here calls itself. Opens files."""
    aead = new_context(setting)
    if aead == ffi.NULL:
        return "none"
    try:
        return str(ffi.string(lib.aead_name(aead)).decode())
    finally:
        lib.aead_free(aead)


def _gateway(word: int) -> dict[str, int] | None:
    """What an engine's receiver indices say of it. word: as in engine/index.h."""
    return {"number": word & 0xFF, "bits": word >> 8} if word else None


def _processes(segment: segment_p, now: int) -> list[dict[str, Any]]:
    states = ffi.typeof("enum worker_state").elements
    rows = []
    room = {"receiver": segment.geometry.max_receivers, "consumer": segment.geometry.max_consumers}
    for first, role in _ROLES:
        for number in range(room.get(role, 1)):
            line = segment.workers[first + number]
            state, beat, cpu = int(line.state), int(line.beat), int(line.cpu)
            if state == lib.WORKER_ABSENT:
                continue
            rows.append(
                {
                    "role": role,
                    "number": number,
                    "worker": first + number,
                    "pid": int(line.pid),
                    "cpu": None if cpu == NOT_PINNED else cpu,
                    "state": states.get(state, f"WORKER_{state}").removeprefix("WORKER_").lower(),
                    "asleep": int(line.epoch) % 2 == 0,
                    "incarnation": int(line.incarnation),
                    "beat_ms": round(max(now - beat, 0) / 1e6, 1) if beat else None,
                    "packets": _packets(segment, first + number),
                }
            )
    return rows


def _packets(segment: segment_p, worker: int) -> dict[str, int]:
    own = segment.counters + worker * lib.COUNTERS_A_WORKER
    return {name.lower(): int(own[getattr(lib, name)]) for name in _PACKETS}


def field(struct: TypeName, base: Pointer[Any], count: int, path: tuple[Any, ...], kind: str) -> NDArray[Any]:
    """One field of an array of structs as a strided view; path as for ffi.offsetof."""
    size = ffi.sizeof(struct)
    raw = np.frombuffer(ffi.buffer(base, count * size), np.uint8).reshape(count, size)
    offset = ffi.offsetof(struct, *path)
    width = np.dtype(kind).itemsize
    view: NDArray[Any] = raw[:, offset : offset + width].view(kind)[:, 0]
    return view


def _queues(segment: segment_p, used: int) -> dict[str, Any]:
    every = int(segment.nodes) + 1
    states = np.frombuffer(ffi.buffer(segment.states, every * 4), np.uint32)
    numbers = np.flatnonzero(states == lib.NODE_QUEUED)
    peers = field("struct node", segment.node, every, ("peer",), "<u4")[numbers]
    packets = field("struct node", segment.node, every, ("packets",), "<u2")[numbers]
    directions = (numbers - 1) // int(segment.geometry.nodes_a_pool) % lib.DIRECTIONS
    result = {}
    for direction, name in _DIRECTIONS.items():
        chosen = (directions == direction) & (peers < used)
        order = np.argsort(peers[chosen], kind="stable")
        first = np.flatnonzero(first_of_each(peers[chosen][order]))
        depth = np.add.reduceat(packets[chosen][order], first, dtype=np.int64) if len(first) else first
        result[name] = {
            "waiting": int(depth.sum()),
            "peers": len(first),
            "longest": int(depth.max(initial=0)),
        }
    return result


def _tokens(segment: segment_p, used: int) -> dict[str, int]:
    """Peers by the busier one of their two tokens; dead when both are."""
    places = -(-lib.DIRECTIONS * used // lib.TOKEN_BLOCK) * lib.TOKEN_BLOCK
    tokens = np.frombuffer(ffi.buffer(segment.tokens, places * 4), np.uint32)
    # A block of places is a square that lies on its side (token_place of shm/token.c).
    queues = tokens.reshape(-1, 16, 16).transpose(0, 2, 1).reshape(-1, lib.DIRECTIONS)[:used]
    held = (queues >= lib.TOKEN_HELD).any(axis=1)
    queued = (queues == lib.TOKEN_QUEUED).any(axis=1) & ~held
    dead = (queues == lib.TOKEN_DEAD).all(axis=1)
    states = {"queued": queued, "held": held, "dead": dead}
    counts = {name: int(np.count_nonzero(rows)) for name, rows in states.items()}
    return {"idle": used - sum(counts.values()), **counts}


def _pools(segment: segment_p) -> list[dict[str, Any]]:
    geometry = segment.geometry
    a_pool, small, trains = int(geometry.nodes_a_pool), int(geometry.small_slots), int(geometry.train_slots)
    every = int(segment.nodes) + 1
    states = np.frombuffer(ffi.buffer(segment.states, every * 4), np.uint32)
    slots = field("struct node", segment.node, every, ("slot",), "<u4")
    rows = []
    for pool in range(min(int(segment.pools), 2 * int(segment.device.receivers))):
        nodes = slice(1 + pool * a_pool, 1 + (pool + 1) * a_pool)
        state = states[nodes].copy()
        out = slots[nodes][state != lib.NODE_FREE]
        out = out[first_of_each(out)]
        rows.append(
            {
                "receiver": pool // lib.DIRECTIONS,
                "direction": _DIRECTIONS[pool % lib.DIRECTIONS],
                "nodes": a_pool,
                "home": int(np.count_nonzero(state == lib.NODE_FREE)),
                "mine": int(np.count_nonzero(state == lib.NODE_OWNED)),
                "queued": int(np.count_nonzero(state == lib.NODE_QUEUED)),
                "in_hand": int(np.count_nonzero(state >= lib.NODE_IN_HAND)),
                "small_slots": small,
                "small_out": int(np.count_nonzero(out < small)),
                "train_slots": trains,
                "train_out": int(np.count_nonzero((out >= small) & (out < small + trains))),
            }
        )
    return rows
