"""`plait bench aead`: what sealing and opening a packet costs, by provider and size.

The C that ships (engine/aead*.c), a batch a call, as the engine calls it: packets of a train, each in its own
buffer, in place. Seal and open take turns over the same buffers, so every open is of what was just sealed and
every tag is checked. Providers take turns within a round, sizes within a provider.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import click

from plait.failure import Failure

SIZES = (64, 128, 512, 1420, 8920)
BATCH = 64
BYTES_A_MEASUREMENT = 8 << 20  # so that each of a round takes some milliseconds
LEAST_BATCHES = 20


@dataclass(frozen=True)
class Cost:
    """Nanoseconds a packet; medians of batches are a round's figure, here are those of all rounds."""

    provider: str
    size: int
    seal: float
    seal_least: float
    seal_most: float
    open: float
    open_least: float
    open_most: float


class Batch:
    """BATCH packets of one size, with keys and counters, sealed and opened in place."""

    def __init__(self, size: int) -> None:
        from engine._engine import ffi, lib

        self._lib = lib
        self.size = size
        stride = (size + lib.AEAD_TAG_BYTES + 63) // 64 * 64
        self._data = ffi.new("uint8_t[]", os.urandom(BATCH * stride))
        self._key = ffi.new("uint8_t[]", os.urandom(lib.AEAD_KEY_BYTES))
        self.jobs = ffi.new("struct aead_job[]", BATCH)
        for number in range(BATCH):
            job = self.jobs[number]
            job.data, job.key, job.counter = self._data + number * stride, self._key, number

    def seal(self, aead: Any) -> float:
        """Nanoseconds a packet."""
        return self._timed(self._lib.aead_seal, aead, self.size)

    def open(self, aead: Any) -> float:
        """Nanoseconds a packet. Failure when a tag that was just made is refused."""
        spent = self._timed(self._lib.aead_open, aead, self.size + self._lib.AEAD_TAG_BYTES)
        if any(self.jobs[number].refused for number in range(BATCH)):
            mend = "This is a fault of the provider or the engine; please report it."
            raise Failure("cannot measure the AEAD", "a packet that was just sealed does not open", mend)
        return spent

    def _timed(self, call: Any, aead: Any, length: int) -> float:
        for number in range(BATCH):
            self.jobs[number].length = length
        begun = time.perf_counter_ns()
        call(aead, self.jobs, BATCH)
        return (time.perf_counter_ns() - begun) / BATCH


def providers() -> dict[str, Any]:
    """A state of each provider that this build and CPU have, by name."""
    from engine._engine import ffi, lib
    from engine.aead import PROVIDERS

    found = {}
    for provider in PROVIDERS.values():
        aead = lib.aead_new(provider.number)
        if aead != ffi.NULL:
            found[ffi.string(lib.aead_name(aead)).decode()] = ffi.gc(aead, lib.aead_free)
    return found


def costs(rounds: int) -> list[Cost]:
    """Measure every provider and size. The first round warms up and does not count."""
    batches = [Batch(size) for size in SIZES]
    states = providers()
    found: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    for number in range(rounds + 1):
        for name, aead in states.items():
            for batch in batches:
                repeats = max(LEAST_BATCHES, BYTES_A_MEASUREMENT // (batch.size * BATCH) // 8)
                pairs = [(batch.seal(aead), batch.open(aead)) for _ in range(repeats)]
                if number:
                    seals, opens = found.setdefault((name, batch.size), ([], []))
                    seals.append(median(seal for seal, _ in pairs))
                    opens.append(median(opened for _, opened in pairs))
    return [
        Cost(name, size, median(s), min(s), max(s), median(o), min(o), max(o))
        for (name, size), (s, o) in found.items()
    ]


def run(rounds: int, *, as_json: bool) -> None:
    """Measure, then print the table or JSON on stdout."""
    from engine._engine import ffi, lib

    found = costs(rounds)
    used = ffi.gc(lib.aead_new(-1), lib.aead_free)
    chosen = ffi.string(lib.aead_name(used)).decode()
    if as_json:
        answer = {
            "rounds": rounds,
            "batch": BATCH,
            "used": chosen,
            "ns_per_packet": [asdict(c) for c in found],
        }
        json.dump(answer, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    from plait.watch.engine import console, table

    made = table(
        "ns per packet", ("provider",), ("bytes", "seal", "min..max", "open", "min..max", "Gbit/s sealed")
    )
    for cost in found:
        made.add_row(
            cost.provider,
            str(cost.size),
            f"{cost.seal:.0f}",
            f"{cost.seal_least:.0f}..{cost.seal_most:.0f}",
            f"{cost.open:.0f}",
            f"{cost.open_least:.0f}..{cost.open_most:.0f}",
            f"{cost.size * 8 / cost.seal:.1f}",
        )
    console().print(made)
    click.echo(
        f"One core, {BATCH} packets a call, each with its own buffer, in place; medians of {rounds} rounds.\n"
        f"Bytes are of plaintext. Every tag is checked when it is opened. The engine uses {chosen} here."
    )
