"""One TCP stream under perf, and what each stage costs a packet: `python -m tests.bench profile`.

`perf record` samples the CPU clock of the whole machine (no hardware counter is needed); samples of the
engines' processes are sorted by their call chains (stages.py). It starts with its events off
and is switched on when the stream is under way. The release build keeps its symbols: no other is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from plait import plaitd_client
from plait.bench import figures
from plait.bench.implementation import INTERFACE, Tunnel, chosen
from plait.failure import Failure
from plait.handoff_option import HandoffChoice
from plait.lab import namespaces as lab
from plait.lab.namespaces import Host
from plait.signals import interruptible
from tests.bench.stages import STAGES, Frame, stage_of

FREQUENCY = 1999  # samples a second and core: not in step with a timer of 1,000
RAMP = 1.0  # seconds of the stream before perf is switched on
START = 10  # seconds that iperf3 and perf may need besides
IDLE = "swapper"


@dataclass(frozen=True)
class Profile:
    """One recording. stages: CPU seconds of both engines. packets, super_packets: from a to b."""

    seconds: float
    gbit: float
    packets: int
    super_packets: int
    stages: dict[str, float]
    idle_seconds: float
    other_seconds: float


@click.command(short_help="Where the engine's CPU goes, by stage (needs linux-perf).")
@click.option("--seconds", type=click.IntRange(1, 60), default=5, show_default=True, help="Of the recording.")
@click.option("--handoff", type=HandoffChoice(), default="", help="Default: the engine's default.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def profile(seconds: int, handoff: str, as_json: bool) -> None:
    """Record one TCP stream with perf: nanoseconds a packet and microseconds a super-packet, by stage.

    Needs root and linux-perf, no hardware counters; the engine runs as it ships.
    """
    lacks = lab.missing("wg", "iperf3", "ping", lab.PLAIT[0], "perf")
    if lacks:
        first = lacks[0]
        mend = (
            "Install linux-perf"
            if first.what == "no perf"
            else f"{first.next_step}; `plait doctor` tells all"
        )
        raise Failure(f"the profile cannot start: {first.what}", first.why, mend)
    with interruptible():
        found = record(seconds, handoff)
    if as_json:
        json.dump(asdict(found), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    _show(found)


def record(seconds: float, handoff: str) -> Profile:
    """One stream from a to b, recorded for some seconds."""
    implementation = chosen([], [handoff] if handoff else [])[0]
    with (
        Tunnel(implementation) as tunnel,
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(1) as other,
    ):
        figures.warm(tunnel)
        data = Path(directory) / "perf.data"
        source, target, address = tunnel.ends(towards_b=True)
        pids = {usage.pid for usage in tunnel.processes()}
        with _perf(data) as perf:
            stream = other.submit(source.iperf3, target, address, int(seconds + RAMP) + 1)
            time.sleep(RAMP)
            before = _sent(source, tunnel)
            begun = time.monotonic()
            perf.order("enable")
            time.sleep(seconds)
            perf.order("disable")
            spent = time.monotonic() - begun
            after = _sent(source, tunnel)
            perf.order("stop")
        packets, super_packets = (late - early for late, early in zip(after, before, strict=True))
        stages, idle, rest = _stages(_script(data), pids)
        gbit = stream.result().bits_per_second / 1e9
    return Profile(spent, gbit, packets, super_packets, stages, idle, rest)


def _sent(host: Host, tunnel: Tunnel) -> tuple[int, int]:
    """Datagrams that the engine of a host has sent, and super-packets that the kernel gave to its TUN."""
    report = plaitd_client.parse_engine(INTERFACE, tunnel.engines[0].uapi("get_engine=1\n\n"))
    for line in Path(f"/proc/{host.pid}/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == INTERFACE:
            return report["counters"]["udp_sent"], int(fields.split()[9])
    raise Failure("cannot count packets", f"host a has no {INTERFACE}", "Run it again.")


class _Perf:
    """A `perf record` that takes orders over two pipes (perf-record(1), --control)."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers = orders, answers

    def order(self, word: str) -> None:
        """Give an order and wait until it is carried out."""
        os.write(self._orders, word.encode() + b"\n")
        if not os.read(self._answers, 16).startswith(b"ack"):
            raise Failure(
                "cannot record", f"perf did not {word}", "Try `perf record -a -e cpu-clock sleep 1`."
            )


@contextmanager
def _perf(data: Path) -> Iterator[_Perf]:
    """perf recording into a file, its events still off."""
    order_read, order_write = os.pipe()
    answer_read, answer_write = os.pipe()
    control = f"fd:{order_read},{answer_write}"
    command = ["perf", "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", str(FREQUENCY), "-D", "-1"]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*command, f"--control={control}", "-o", str(data), "--", "sleep", "3600"],
            pass_fds=(order_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=words,
        )
        os.close(order_read)
        os.close(answer_write)
        try:
            perf = _Perf(order_write, answer_read)
            try:
                perf.order("ping")
            except (Failure, OSError) as error:
                words.seek(0)
                said = words.read().decode(errors="replace").strip() or "nothing"
                raise Failure(
                    "cannot record", f"perf said: {said}", "Is linux-perf that of this kernel?"
                ) from error
            yield perf
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(order_write)
            os.close(answer_read)


def _script(data: Path) -> str:
    command = ["perf", "script", "-i", str(data), "-F", "comm,pid,tid,ip,sym,dso"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not done.stdout:
        why = done.stderr.strip()[-300:] or "it printed nothing"
        raise Failure("cannot read what perf recorded", why, "Try `perf script` by hand on a recording.")
    return done.stdout


def samples(script: str) -> Iterator[tuple[str, int, list[Frame]]]:
    """Command name, process and frames of each sample in the output of `perf script`."""
    for block in script.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        named = re.match(r"\s*(.*?)\s+(\d+)/\d+\s*$", head)
        if named:
            frames = [re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line) for line in lines]
            yield named[1], int(named[2]), [(frame[1], frame[2]) for frame in frames if frame]


def _stages(script: str, pids: set[int]) -> tuple[dict[str, float], float, float]:
    """CPU seconds of the engines by stage, of idle cores, and of everything else."""
    found, idle, rest = Counter[str](), 0, 0
    for command, pid, frames in samples(script):
        if pid in pids:
            found[stage_of(frames)] += 1
        elif command == IDLE:
            idle += 1
        else:
            rest += 1
    return {stage: found[stage] / FREQUENCY for stage in STAGES}, idle / FREQUENCY, rest / FREQUENCY


def _show(found: Profile) -> None:
    from plait.watch.engine import console, table

    total = sum(found.stages.values())
    made = table("CPU of both engines", ("stage",), ("share", "ns a packet", "us a super-packet"))

    def row(title: str, seconds: float) -> None:
        made.add_row(
            title,
            f"{100 * seconds / total:.1f} %" if total else "-",
            f"{seconds * 1e9 / found.packets:.0f}" if found.packets else "-",
            f"{seconds * 1e6 / found.super_packets:.2f}" if found.super_packets else "-",
        )

    for stage, seconds in sorted(found.stages.items(), key=lambda one: -one[1]):
        row(stage, seconds)
    row("all", total)
    console().print(made)
    cores = len(os.sched_getaffinity(0))
    lines = (
        f"One TCP stream, {found.gbit:.2f} Gbit/s recorded for {found.seconds:.1f} s. From a to b:",
        f"{found.packets:,} packets in {found.super_packets:,} super-packets, and ACKs back.",
        f"CPU of {cores} cores: engines {total:.2f} s, idle {found.idle_seconds:.2f} s,",
        f"all else (iperf3 too) {found.other_seconds:.2f} s. 1 % is {total * FREQUENCY / 100:.0f} samples.",
    )
    click.echo("\n".join(lines))
