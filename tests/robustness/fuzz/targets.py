"""What is fuzzed, and how each target becomes a program.

A C target is tests/robustness/fuzz/NAME.c with the engine's own sources, compiled with AddressSanitizer and
UndefinedBehaviorSanitizer: by clang with libFuzzer, or by any other compiler with a main that replays files.
A Python target is a module of tests/robustness/fuzz with one_input(data); atheris guides it where that is
installed.
Programs are kept under build/fuzz and made anew when a source has changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "fuzz"
CORPORA = HERE / "corpus"

CALLS = ("clock_now", "poll", "readv", "recvmmsg", "sendmmsg", "writev")  # that a target may answer itself
# Target: the calls that it answers.
C_TARGETS: dict[str, tuple[str, ...]] = {
    "packet": (),
    "segmentation": (),
    "coalescing": (),
    "icmp": (),
    "window": (),
    "session": (),
    "allowedips": (),
    "index": (),
    "mailbox": (),
    "queue": (),
    "udp": ("poll", "sendmmsg"),
    "holder": ("clock_now", "poll", "sendmmsg", "writev"),
    "receive": CALLS,
}
PYTHON_TARGETS = ("uapi_text", "conf_text", "settings_text", "handshake")
NAMES = (*C_TARGETS, *PYTHON_TARGETS)
# Of workers/, what runs without an interface.
WORKERS = ("clock", "udp", *(f"datapath/{name}" for name in (
    "burst", "mac1_filter", "holder", "holder_inbound", "holder_orders", "holder_outbound", "intake",
    "receive_tun", "receive_udp", "sharing", "tun", "turn")))  # fmt: skip
FLAGS = ["-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
         "-DPATIENCE=1000", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         f"-I{ROOT}", f"-I{HERE}"]  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A target that can be run: its command, and whether it looks for inputs itself (libFuzzer's flags)."""

    name: str
    command: tuple[str, ...]
    is_guided: bool


class CannotBuild(RuntimeError):
    """What the compiler said."""


@cache
def clang() -> str | None:
    """A clang whose libFuzzer and sanitizers are there too, or None."""
    found = shutil.which("clang") or shutil.which("clang-14")
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe.c"
        probe.write_text("int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return 0; }\n")
        command = [found, "-fsanitize=fuzzer,address,undefined", str(probe), "-o", f"{directory}/probe"]
        done = subprocess.run(command, capture_output=True, check=False)
    return found if done.returncode == 0 else None


def programs(names: tuple[str, ...] = NAMES, jobs: int = 2) -> list[Program]:
    """The named targets, built. Raises CannotBuild."""
    wanted = [name for name in names if name in C_TARGETS]
    built = _compile(wanted, jobs) if wanted else {}
    return [built[name] if name in built else _python(name) for name in names]


def unpack(name: str, directory: Path) -> list[Path]:
    """The kept corpus of a target as files of that directory, in order of their names."""
    directory.mkdir(parents=True, exist_ok=True)
    archive = CORPORA / f"{name}.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            file.extractall(directory)
    return sorted(directory.iterdir())


def pack(name: str, files: list[Path]) -> int:
    """Keep these files as the target's corpus; returns the archive's bytes. Same files, same bytes."""
    CORPORA.mkdir(exist_ok=True)
    archive = CORPORA / f"{name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for data in sorted((file.read_bytes() for file in files), key=lambda data: (len(data), data)):
            out.writestr(zipfile.ZipInfo(hashlib.sha1(data).hexdigest()[:16]), data, zipfile.ZIP_DEFLATED)
    return archive.stat().st_size


def _python(name: str) -> Program:
    guided = importlib.util.find_spec("atheris") is not None
    return Program(name, (sys.executable, "-m", "tests.robustness.fuzz.python_target", name), guided)


def _compile(names: list[str], jobs: int) -> dict[str, Program]:
    """Objects first, shared by all, then a program a target. Old programs are removed."""
    fuzzing = clang()
    compiler = fuzzing or shutil.which("cc")
    if compiler is None:
        raise CannotBuild("there is no C compiler: install clang (or gcc, to replay what is kept)")
    shared = sources("engine/**/*.c", "shm/**/*.c", at_least=30)
    shared += [ROOT / "workers" / f"{name}.c" for name in WORKERS]
    flags = [*FLAGS, "-fsanitize=fuzzer-no-link"] if fuzzing else [*FLAGS, "-DREPLAY"]
    if _has_ipsec_mb(compiler):
        flags = [*flags, "-DHAVE_IPSEC_MB"]
    headers = sources(
        *(f"{place}/**/*.h" for place in ("engine", "shm", "workers", "tests/robustness/fuzz")), at_least=40
    )
    directory = BUILD / ("clang" if fuzzing else "cc")
    directory.mkdir(parents=True, exist_ok=True)
    base = hashlib.sha1(" ".join([compiler, *flags]).encode())
    for header in headers:
        base.update(header.read_bytes())

    def compiled(source: Path) -> Path:
        digest = base.copy()
        digest.update(source.read_bytes())
        place = f"{source.parent.name}-{source.stem}"
        target = directory / f"{place}-{digest.hexdigest()[:16]}.o"
        if not target.exists():
            _replace(directory.glob(f"{place}-{'?' * 16}.o"), [compiler, *flags, "-c", str(source)], target)
        return target

    def linked(name: str) -> Program:
        objects = [*common, compiled(HERE / f"{name}.c")]
        target = directory / f"{name}-{hashlib.sha1(' '.join(map(str, objects)).encode()).hexdigest()[:16]}"
        if not target.exists():
            wraps = [f"-Wl,--wrap={call}" for call in C_TARGETS[name]]
            engine = "fuzzer,address,undefined" if fuzzing else "address,undefined"
            command = [compiler, f"-fsanitize={engine}", *map(str, objects), *wraps]
            _replace(directory.glob(f"{name}-{'?' * 16}"), command, target)
        return Program(name, (str(target),), fuzzing is not None)

    with ThreadPoolExecutor(jobs) as pool:
        common = list(pool.map(compiled, [*shared, HERE / "entry.c"]))
        return {program.name: program for program in pool.map(linked, names)}


def _replace(old: object, command: list[str], target: Path) -> None:
    """Run a compiler; its output takes the place of older ones of the same source."""
    partial = target.with_suffix(f".{os.getpid()}")
    done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    for path in old:  # type: ignore[attr-defined]
        path.unlink(missing_ok=True)
    partial.rename(target)


def _has_ipsec_mb(compiler: str) -> bool:
    command = [compiler, "-E", "-x", "c", "-", "-o", os.devnull]
    probe = subprocess.run(command, input=b"#include <intel-ipsec-mb.h>\n", capture_output=True, check=False)
    return probe.returncode == 0
