"""Questions about unknown peers: `python -m tests.bench unknown-peers`, as root.

One control process, whose mailbox is filled as receivers fill theirs, and a provider in Python, each a
process of its own. Each line has what was sent, its ends, and control's CPU and memory meanwhile.

known      fresh keys that the provider knows, as many a second as may be asked about
strangers  fresh keys that nobody knows, from as many addresses, ten times as many a second
garbage    likewise, with a timestamp that does not open
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click

import plait
from engine import cookie, noise, tai64n
from plait import Key, plaitd_client
from tests.bench.python_api import cpu_ms
from tests.support.control_harness import ControlProcess, Interface
from tests.support.provider import PROVIDER
from tests.support.waiting import until
from workers.control.lookups import QUESTIONS_A_SECOND
from workers.settings import Settings

TIMESTAMP = 90  # a byte of its tag
SECONDS = 5


def initiations(count: int, public_key: bytes) -> list[bytes]:
    """Messages of as many fresh keys, without their macs."""
    made = []
    for _ in range(count):
        identity = noise.Identity(os.urandom(32))
        keys = noise.PeerKeys(identity, public_key)
        made.append(noise.create_initiation(identity, keys, 1, tai64n.stamp(time.time_ns()))[0])
    return made


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def send(interface: Interface, pid: int, name: str, messages: list[bytes], rate: int) -> None:
    before, cpu, memory = interface.counters(), cpu_ms(pid), rss(pid)
    began, full = time.perf_counter(), 0
    for number, message in enumerate(messages):
        while number > (time.perf_counter() - began) * rate:
            time.sleep(0.0005)
        full += not interface.offer(message, ((0x7F000001 + number).to_bytes(4, "big"), 9))
    took = time.perf_counter() - began
    until(lambda: not plaitd_client.engine(interface.name)["on_demand"]["parked"], "all have ended")
    busy, grown = cpu_ms(pid) - cpu, rss(pid) - memory
    after = interface.counters()
    ends = {
        key.lower(): value - before.get(key, 0) for key, value in sorted(after.items())
        if key.startswith(("HS_", "UNKNOWN_")) and value != before.get(key, 0)
    }  # fmt: skip
    print(f"{name}: {len(messages)} in {took:.2f} s ({full} found the mailbox full); control {busy:.0f} ms, "
          f"{grown / (1 << 20):+.1f} MiB")  # fmt: skip
    print("   ", ", ".join(f"{key} {value}" for key, value in ends.items()), flush=True)


@click.command()
def unknown_peers() -> None:
    """Measure what questions about unknown peers cost."""
    settings = Settings(receivers=1, consumers=1, cores=(0,), max_peers=1 << 16)
    with Interface("unknown", settings) as interface, ControlProcess(interface) as control:
        private, pid, wg = Key.generate(), control.process.pid, plait.attach(interface.name)
        wg.configure(private_key=private)
        public = bytes(private.public_key)
        mac1_key = noise.PeerKeys(noise.Identity(os.urandom(32)), public).mac1_key
        known = initiations(QUESTIONS_A_SECOND * SECONDS, public)
        strangers = initiations(10 * QUESTIONS_A_SECOND * SECONDS // 2, public)
        garbage = [
            body[:TIMESTAMP] + bytes([body[TIMESTAMP] ^ 1]) + body[TIMESTAMP + 1:] for body in strangers
        ]  # fmt: skip
        for name, answer, bodies, rate in (
            ("known", "peer", known, QUESTIONS_A_SECOND),
            ("garbage", "refuse", garbage, 10 * QUESTIONS_A_SECOND),
            ("strangers", "refuse", strangers, 10 * QUESTIONS_A_SECOND),
        ):
            command = [sys.executable, "-P", "-c", PROVIDER, str(interface.path), answer]
            provider = subprocess.Popen(command)
            try:
                until(lambda: plaitd_client.engine(interface.name)["on_demand"]["providers"], "a provider")
                messages = [cookie.add_macs(body, mac1_key, None) for body in bodies]
                send(interface, pid, name, messages, rate)
            finally:
                provider.kill()
                provider.wait()
            until(lambda: not plaitd_client.engine(interface.name)["on_demand"]["providers"], "its end")
