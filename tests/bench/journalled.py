"""`plait bench queue` around the rejected candidate, for docs/adr/0001-publication-of-a-chain.md.

The rows called Plait's queue are then the journalled queue's; the others are measured once more, so that
two tables can be compared. Compiles tests/bench/journalled.c beside the shipped sources into a directory that
it removes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[2]
NAME = "_journalled"
HERE = "PLAIT_JOURNALLED"  # the built module, for the worker processes


def build(directory: str) -> Path:
    """Compile the candidate with cffi; returns the module's path."""
    from cffi import FFI

    sys.path.insert(0, str(ROOT / "scripts"))
    from cdef import cdef  # type: ignore[import-not-found]

    ffi = FFI()
    headers = [ROOT / "shm/layout.h", ROOT / "shm/segment.h", ROOT / "plait/bench/queue_bench.h"]
    text = "\n".join(cdef(header) for header in headers)
    ffi.cdef(text.replace("bench_sections", "journalled_sections"))
    shared = sources("shm/**/*.c", at_least=14)
    ffi.set_source(
        NAME,
        "#define bench_sections journalled_sections\n"
        '#include "shm/segment.h"\n#include "plait/bench/queue_bench.h"\n',
        sources=[str(p) for p in [*shared, ROOT / "tests/bench/journalled.c"]],
        include_dirs=[str(ROOT)],
        extra_compile_args=["-O3", "-std=gnu11", "-fno-strict-aliasing"],
    )
    return Path(ffi.compile(tmpdir=directory))


def load(path: str) -> ModuleType:
    """Import the built module."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(orders: dict[str, object]) -> None:
    """Be a worker of `plait.bench.queue`, with the candidate's sections in place of the shipped ones."""
    from plait.bench import _bench
    from plait.bench import queue as bench

    built = load(os.environ[HERE])

    class Library:
        """plait.bench._bench.lib, one function of it replaced."""

        def __getattr__(self, name: str) -> object:
            return getattr(_bench.lib, name)

        def bench_sections(self, *arguments: object) -> int:
            number = _bench.ffi.cast
            own = [
                a if isinstance(a, int) else built.ffi.cast("void *", int(number("uintptr_t", a)))
                for a in arguments
            ]
            return int(built.lib.journalled_sections(*own))

    bench.work(orders, Library())


def main() -> None:
    """Build, then measure with workers of this module."""
    from plait.bench import QUEUE_ROUNDS
    from plait.bench import queue as bench

    parser = argparse.ArgumentParser("python -m tests.bench.journalled", description=__doc__)
    parser.add_argument("--rounds", type=int, default=QUEUE_ROUNDS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ[HERE] = str(build(directory))
        method = bench.Method(worker=(sys.executable, "-m", "tests.bench.journalled", "work"))
        bench.run(asked.rounds, as_json=asked.json, method=method)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(json.loads(sys.argv[2]))
    else:
        main()
