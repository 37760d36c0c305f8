"""The command behind scripts/fuzz.

Two ways to run. `--seconds N` replays what is kept of every target and then looks for news, briefly: a
test. `--hours N` goes on from where the last such run was, with the target that has had the least CPU time
next, until N core-hours more are spent: build/fuzz has the programs, the working corpus (corpus/TARGET),
the inputs that broke a target (findings/) and the log (log.jsonl).

A finding stops its target until it is mended; the next run looks whether it still breaks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from .log import LOG, Slice, append, read, table, totals
from .targets import BUILD, C_TARGETS, NAMES, CannotBuild, Program, clang, pack, programs, unpack

SLICE_SECONDS = 120
INPUT_BYTES = 2048  # of the longest input
CORPUS_BYTES = 64 << 10  # of one target's archive
FINDINGS = BUILD / "findings"
WORKING = BUILD / "corpus"
# Inputs that never end are found by CPU time (entry.c): a process that is frozen for an hour is well.
FLAGS = [
    "-timeout=86400",
    "-report_slow_units=86400",
    "-rss_limit_mb=2048",
    f"-max_len={INPUT_BYTES}",
    "-print_final_stats=1",
]
SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1:allocator_may_return_null=0:handle_abort=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"fuzz: {text}", file=sys.stderr, flush=True)


class Ended:
    """How a program ended: exit code, its words, CPU seconds."""

    def __init__(self, command: list[str], timeout: float | None = None) -> None:
        begin = time.monotonic()
        with tempfile.TemporaryFile() as words:
            process = subprocess.Popen(
                command, cwd=BUILD.parents[1], stdout=words, stderr=words, env=os.environ | SANITIZERS
            )
            timer = threading.Timer(timeout, process.kill) if timeout else None
            if timer:
                timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except KeyboardInterrupt:
                process.kill()
                os.wait4(process.pid, 0)
                raise
            finally:
                if timer:
                    timer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            words.seek(0)
            self.words = words.read().decode(errors="replace")
        self.code = process.returncode
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self.wall_seconds = time.monotonic() - begin

    @property
    def inputs(self) -> int:
        """As libFuzzer counted them."""
        found = re.findall(r"stat::number_of_executed_units:\s*(\d+)", self.words)
        return int(found[-1]) if found else 0


def replay(program: Program, files: list[Path]) -> Ended | None:
    """Run the files alone; None when there are none."""
    if not files:
        return None
    flags = ["-runs=0", "-timeout=86400"] if program.is_guided else []
    return Ended([*program.command, *flags, *map(str, files)])


def short(names: tuple[str, ...], seconds: float, jobs: int) -> int:
    """Replay what is kept, then look for news. Exit code: 1 when a target broke."""
    begin = time.monotonic()
    built = programs(names, jobs)
    alone = "" if clang() else " (no clang: replay alone)"
    say(f"{len(built)} targets built in {time.monotonic() - begin:.1f} s{alone}")
    each = max(1, int(seconds * jobs / len(built)))
    failed: list[str] = []

    def one(program: Program) -> None:
        with tempfile.TemporaryDirectory() as directory:
            kept = unpack(program.name, Path(directory) / "kept")
            done = replay(program, kept)
            if done is not None and done.code == 0 and program.is_guided:
                place = [f"-artifact_prefix={directory}/", f"-max_total_time={each}", f"{directory}/kept"]
                done = Ended([*program.command, *FLAGS, *place])
            if done is not None and done.code != 0:
                failed.append(program.name)
                say(f"{program.name}: BROKEN\n{done.words[-6000:]}")
                FINDINGS.mkdir(parents=True, exist_ok=True)
                for found in [*Path(directory).glob("crash-*"), *Path(directory).glob("leak-*")]:
                    shutil.copy(found, FINDINGS / f"{program.name}-{found.name}")
            else:
                news = f", {done.inputs:,} inputs tried" if done and program.is_guided else ""
                say(f"{program.name}: {len(kept)} kept inputs{news}")

    in_turn(built, one, jobs)
    print(f"{len(built)} targets, {len(failed)} broken{': ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


def in_turn(built: list[Program], work: object, jobs: int) -> None:
    """Each program once, that many at a time."""
    left = list(built)
    lock = threading.Lock()

    def take() -> None:
        while True:
            with lock:
                if not left:
                    return
                program = left.pop(0)
            work(program)  # type: ignore[operator]

    threads = [threading.Thread(target=take) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Campaign:
    """A long run: which target is next, and what it came to."""

    def __init__(self, built: list[Program], hours: float) -> None:
        self.programs = {program.name: program for program in built if program.is_guided}
        for program in built:
            if not program.is_guided:
                why = (
                    "atheris is not installed (pip install atheris)"
                    if program.command[0] == sys.executable
                    else "there is no clang"
                )
                say(f"{program.name}: left out, {why}")
        self.seconds = hours * 3600
        self.spent = 0.0
        self.running: set[str] = set()
        self.broken: set[str] = set()
        self.lock = threading.Lock()
        self.sums = {name: row["cpu_seconds"] for name, row in totals(read()).items()}

    def look_at_findings(self) -> None:
        """Open findings that no longer break anything are closed: their inputs join the working corpus."""
        FINDINGS.mkdir(parents=True, exist_ok=True)
        for path in sorted(FINDINGS.iterdir()):
            name = path.name.split("-")[0]
            if name not in self.programs:
                continue
            done = replay(self.programs[name], [path])
            if done is not None and done.code == 0:
                say(f"{name}: {path.name} is mended")
                (WORKING / name).mkdir(parents=True, exist_ok=True)
                shutil.move(path, WORKING / name / path.name)
            else:
                say(f"{name}: {path.name} still breaks it; the target waits")
                self.broken.add(name)

    def run(self) -> None:
        """Slices until the time is spent or every target is broken."""
        while True:
            with self.lock:
                free = [name for name in self.programs if name not in self.running | self.broken]
                if self.spent >= self.seconds or not self.programs.keys() - self.broken:
                    return
                name = min(free, key=lambda name: self.sums.get(name, 0.0), default="")
                self.running.add(name)
            if not name:
                time.sleep(1)
                self.running.discard("")
                continue
            self.slice(self.programs[name])
            with self.lock:
                self.running.discard(name)

    def slice(self, program: Program) -> None:
        """One run of one target."""
        name = program.name
        working = WORKING / name
        working.mkdir(parents=True, exist_ok=True)
        kept = BUILD / "kept" / name
        unpack(name, kept)
        place = [
            f"-artifact_prefix={FINDINGS}/{name}-",
            f"-max_total_time={SLICE_SECONDS}",
            str(working),
            str(kept),
        ]
        before = set(FINDINGS.glob(f"{name}-*"))
        done = Ended([*program.command, *FLAGS, *place])
        found = sorted(set(FINDINGS.glob(f"{name}-*")) - before)
        finding = (found[0].name if found else "it ended without an artifact") if done.code else ""
        entry = Slice(
            name, datetime.now(UTC).isoformat(timespec="seconds"), round(done.cpu_seconds, 2),
            round(done.wall_seconds, 2), done.inputs, len(list(working.iterdir())), finding,
        )  # fmt: skip
        with self.lock:
            append(entry)
            self.sums[name] = self.sums.get(name, 0.0) + done.cpu_seconds
            self.spent += done.cpu_seconds
            if finding:
                self.broken.add(name)
                (FINDINGS / f"{name}.txt").write_text(done.words[-20000:])
            say(
                f"{name}: {done.inputs:,} inputs, {entry.corpus} in its corpus, "
                f"{done.cpu_seconds:.0f} s of CPU; "
                f"{self.spent / 3600:.3f} of {self.seconds / 3600:g} core-hours"
                + (f"; FINDING {finding}" if finding else "")
            )


def long(names: tuple[str, ...], hours: float, jobs: int) -> int:
    """Go on with the campaign. Exit code: 1 while a finding is open."""
    campaign = Campaign(programs(names, jobs), hours)
    campaign.look_at_findings()
    threads = [threading.Thread(target=campaign.run, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(table(totals(read()))))
    still = ", ".join(sorted(campaign.broken)) or "none"
    print(f"log: {LOG}; working corpus: {WORKING}; findings open: {still}")
    return 1 if campaign.broken else 0


def minimise(names: tuple[str, ...], jobs: int) -> int:
    """Keep the smallest inputs of kept and working corpora that reach all that they reach together."""
    built = [program for program in programs(names, jobs) if program.is_guided]

    def one(program: Program) -> None:
        name = program.name
        with tempfile.TemporaryDirectory() as directory:
            unpack(name, Path(directory) / "kept")
            merged = Path(directory) / "merged"
            merged.mkdir()
            (WORKING / name).mkdir(parents=True, exist_ok=True)
            done = Ended(
                [*program.command, "-merge=1" if name in C_TARGETS else "-runs=0", "-timeout=86400",
                 f"-max_len={INPUT_BYTES}", str(merged), f"{directory}/kept", str(WORKING / name)]
            )  # fmt: skip
            if done.code:
                say(f"{name}: cannot be merged\n{done.words[-2000:]}")
                return
            # atheris cannot merge a module: of a Python target all are kept
            places = [merged] if name in C_TARGETS else [Path(directory) / "kept", WORKING / name]
            files = [path for place in places for path in place.iterdir()]
            files.sort(key=lambda path: path.stat().st_size)
            size = pack(name, files)
            while size > CORPUS_BYTES:  # the longest reach least that others do not
                files = files[: len(files) * 9 // 10]
                size = pack(name, files)
            say(f"{name}: {len(files)} inputs, {size:,} bytes")

    in_turn(built, one, jobs)
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  scripts/fuzz --seconds 20\n  scripts/fuzz --hours 4\n"
        "  scripts/fuzz --hours 0.5 --only receive\n  scripts/fuzz --log",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seconds", type=float, help="a short run of all targets, about so long")
    what.add_argument("--hours", type=float, help="core-hours to go on with the long run")
    what.add_argument(
        "--log", action="store_true", help="core-hours, inputs and findings of each target so far"
    )
    what.add_argument(
        "--minimise", action="store_true", help="make the kept corpora anew out of the working ones"
    )
    parser.add_argument("--only", choices=NAMES, action="append", help="this target (may be repeated)")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="with --log: as JSON")
    arguments = parser.parse_args()
    names = tuple(arguments.only or NAMES)
    try:
        if arguments.log:
            sums = totals(read())
            print(json.dumps(sums, indent=2) if arguments.json else "\n".join(table(sums)))
            return 0
        if arguments.minimise:
            return minimise(names, arguments.jobs)
        if arguments.hours is not None:
            return long(names, arguments.hours, arguments.jobs)
        return short(names, arguments.seconds, arguments.jobs)
    except CannotBuild as error:
        say(f"a target cannot be built: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
