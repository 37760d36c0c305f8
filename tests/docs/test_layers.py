"""Who may include whom in C, room by room (docs/rooms.md), and that no C file needs one that needs it.

Python's imports are held by import-linter (scripts/test); this is the same line for C.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import engine._engine
import shm._shm
import workers._workers
from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[2]
# Every folder with C, and the folders whose headers it may have.
MAY_INCLUDE = {
    "engine": {"engine"},
    "engine/uapi": {"engine/uapi"},
    "shm": {"shm"},
    "workers": {"engine", "shm", "workers"},
    "workers/control": {"engine", "engine/uapi", "shm", "workers", "workers/control"},
    "workers/datapath": {"engine", "shm", "workers", "workers/datapath"},
    "plait/bench": {"engine", "shm", "plait/bench"},
    "plait/load": {"engine", "workers", "plait/load"},
}
# What Python sees of all rooms of a package stands in one list.
LISTS = {
    "engine/engine.c.in": MAY_INCLUDE["engine"] | MAY_INCLUDE["engine/uapi"],
    "workers/native.c.in": MAY_INCLUDE["workers/control"] | MAY_INCLUDE["workers/datapath"],
}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def foreign(path: Path, text: str) -> list[str]:
    """The includes in a file's text that its room may not have."""
    name = str(path.relative_to(ROOT))
    may = LISTS.get(name) or MAY_INCLUDE[str(Path(name).parent)]
    found = []
    for include in INCLUDE.findall(text):
        near = path.parent / include
        target = near if near.exists() else ROOT / include
        home = str(target.resolve().parent.relative_to(ROOT)) if target.exists() else f"nothing at {include}"
        if home not in may:
            found.append(include)
    return found


def test_c_files_include_only_what_their_room_may() -> None:
    packages = ("engine", "shm", "workers", "plait")
    patterns = [f"{package}/**/*.{end}" for package in packages for end in ("c", "h", "c.in")]
    files = sources(*patterns, at_least=110)
    wrong = {str(path.relative_to(ROOT)): foreign(path, path.read_text()) for path in files}
    assert {name: includes for name, includes in wrong.items() if includes} == {}


def test_a_foreign_include_is_seen() -> None:
    text = '#include <stdint.h>\n#include "aead.h"\n  # include "../shm/queue.h"\n#include "shm/layout.h"\n'
    assert foreign(ROOT / "engine/x.c", text) == ["../shm/queue.h", "shm/layout.h"]
    text = '#include "shm/layout.h"\n#include "engine/aead.h"\n#include "workers/udp.h"\n'
    assert foreign(ROOT / "workers/x.c", text) == foreign(ROOT / "workers/control/x.c", text) == []
    assert foreign(ROOT / "shm/x.c", '#include "no-such.h"\n') == ["no-such.h"]
    for room, header in (
        ("workers", "workers/datapath/holder.h"),
        ("workers/control", "workers/datapath/holder.h"),
        ("workers/datapath", "workers/control/peer_table.h"),
        ("workers/datapath", "plait/load/generator.h"),
        ("plait/bench", "workers/clock.h"),
    ):
        assert foreign(ROOT / room / "x.c", f'#include "{header}"\n') == [header]


@pytest.mark.parametrize("module", [engine._engine, shm._shm, workers._workers])
def test_what_the_daemon_loads_has_nothing_of_load_and_benches(module: Any) -> None:
    """Neither for Python nor linked into it: not one symbol, hidden ones included."""
    assert not [name for name in dir(module.lib) if name.lower().startswith(("load_", "bench_"))]
    told = subprocess.run(["nm", str(module.__file__)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in told.splitlines()]
    assert len(symbols) > 50
    assert not [name for name in symbols if name.startswith(("load_", "bench_"))]


def needs(objects: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which file needs a function or variable of which others. objects: a source, and its object file."""
    homes: dict[str, list[str]] = {}
    wanted: dict[str, set[str]] = {}
    for source, path in objects.items():
        told = subprocess.run(["nm", "-g", str(path)], capture_output=True, text=True, check=True).stdout
        for line in told.splitlines():
            kind, symbol = line.split()[-2:]
            if kind == "U":
                wanted.setdefault(source, set()).add(symbol)
            else:
                homes.setdefault(symbol, []).append(source)

    def home(source: str, symbol: str) -> str:
        """Where it stands for this source: modules of two folders may call something the same."""
        near = [other for other in homes[symbol] if Path(other).parent == Path(source).parent]
        return (near or homes[symbol])[0]

    return {
        source: {home(source, name) for name in names & homes.keys()} - {source}
        for source, names in wanted.items()
    }


def compiled() -> dict[str, Path]:
    """The product's C files with their object files of this Python's build."""
    build = Path(str(workers._workers.__file__)).resolve().parents[1]
    listed = build / "compile_commands.json"
    if not listed.exists():
        pytest.skip("this Plait is installed, not a checkout with a build")
    found = {}
    for entry in json.loads(listed.read_text()):
        source = (Path(entry["directory"]) / entry["file"]).resolve()
        room = str(source.parent.relative_to(ROOT)) if source.is_relative_to(ROOT) else ""
        path = build / entry["output"]
        if room in MAY_INCLUDE and path.exists():
            found[str(source.relative_to(ROOT))] = path
    return found


def test_no_c_file_needs_one_that_needs_it() -> None:
    objects = compiled()
    assert set(objects) >= {str(path.relative_to(ROOT)) for path in sources("workers/**/*.c", at_least=20)}
    graph = needs(objects)
    assert "workers/udp.c" in graph["workers/datapath/holder_outbound.c"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        pytest.fail(f"{circle}: no file may need one that needs it; call what stands below both")


def test_a_circle_of_calls_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int b(int n);\nint a(int n) { return n ? b(n - 1) : 0; }\n")
    (tmp_path / "b.c").write_text("int a(int n);\nint b(int n) { return a(n); }\n")
    for name in "ab":
        subprocess.run(["cc", "-c", f"{name}.c", "-o", f"{name}.o"], cwd=tmp_path, check=True)
    assert needs({name: tmp_path / f"{name}.o" for name in "ab"}) == {"a": {"b"}, "b": {"a"}}
