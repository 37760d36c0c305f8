"""A number of the product stands in one place: C's in its header, Python's in one file."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import engine._engine
import plait.load._generator
import shm._shm
import workers._workers
from engine import uapi
from tests.docs import tables
from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[2]
NATIVE = (engine._engine, plait.load._generator, shm._shm, workers._workers)
IN_C = {name for module in NATIVE for name in dir(module.lib) if isinstance(getattr(module.lib, name), int)}
# Measuring tools and their scenes have numbers of their own.
SCENES = ("plait/bench/", "plait/lab/", "plait/load/", "plait/demo", "plait/fleet/demo")
LINUX = {  # its headers' numbers that Python's library does not name
    "CAP_NET_ADMIN", "ETH_P_ALL", "IFF_UP", "PR_SET_PDEATHSIG", "SIOCGIFFLAGS", "SO_MARK", "SO_RCVBUFFORCE",
    "UDP_GRO",
}  # fmt: skip
UNITS = {"SECOND", "MILLISECOND"}
OTHER_THINGS = {"BYTES", "LOOKS", "RETRY", "RETRY_SECONDS", "SHORT_KEY", "TURN", "TURN_NS", "_PIECE"}
"""Of one name and number by chance: either may change alone."""


def numbers(text: str) -> dict[str, int | float]:
    """The upper-case names of a module that are given a number as such: 4096, 1 << 16, -1."""
    found: dict[str, int | float] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            name, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            name, value = statement.target, statement.value
        else:
            continue
        if isinstance(name, ast.Name) and name.id.isupper():
            is_plain = all(
                isinstance(part, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop)
                for part in ast.walk(value)
            )
            result: Any = eval(ast.unparse(value)) if is_plain else None
            if isinstance(result, int | float) and not isinstance(result, bool):
                found[name.id] = result
    return found


def product() -> dict[str, dict[str, int | float]]:
    """The numbers of each file that is no scene."""
    packages = ("engine", "shm", "workers", "plait")
    files = sources(*(f"{package}/**/*.py" for package in packages), at_least=200)
    names = {str(path.relative_to(ROOT)): path for path in files}
    return {name: numbers(path.read_text()) for name, path in names.items() if not name.startswith(SCENES)}


def written_twice(found: dict[str, dict[str, int | float]]) -> dict[tuple[str, int | float], list[str]]:
    places = defaultdict(list)
    for file, given in found.items():
        for name, number in given.items():
            places[name, number].append(file)
    return {key: files for key, files in places.items() if len(files) > 1}


def test_python_takes_numbers_from_the_headers() -> None:
    assert {"MAC_BYTES", "NAME_MOST", "MAX_RECEIVERS"} <= IN_C
    assert {file: given.keys() & IN_C for file, given in product().items() if given.keys() & IN_C} == {}


def test_no_number_of_python_is_written_twice() -> None:
    twice = written_twice(product())
    assert {key: files for key, files in twice.items() if key[0] not in LINUX | UNITS | OTHER_THINGS} == {}


def test_a_number_that_is_written_twice_is_seen() -> None:
    one, other = numbers("WINDOW_MOST: Final = 1 << 12\nNAMES = 3, 4\n"), numbers("WINDOW_MOST = 4096\n")
    assert written_twice({"a.py": one, "b.py": other}) == {("WINDOW_MOST", 4096): ["a.py", "b.py"]}
    assert numbers("MAC_BYTES = 16\n").keys() & IN_C


@pytest.mark.parametrize("key", [key for key, number in uapi.NUMBERS.items() if number.most > 1])
def test_the_page_of_the_socket_has_the_parsers_limit(key: str) -> None:
    (row,) = (row for row in tables.rows("socket.md") if row[0] == f"`{key}`" and row[1].startswith("0 to"))
    assert row[1].split(",")[0] == f"0 to {uapi.NUMBERS[key].most}"
