"""numpy as an engine loads it: without numpy.lib, which nothing of the engine asks for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sources import sources
from workers.control.distinct import first_of_each

ROOT = Path(__file__).resolve().parents[3]
LOAD = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    "from workers.arrays import load_arrays; load_arrays(); import numpy as np; "
)
WORKS = "print(np.from_the_core(), np.lib.answer, np.answer, 'numpy.lib' in sys.modules)"
# A numpy in few lines: {init} and {core} are what differs.
FAKE = {
    "__init__.py": "class ndarray: pass\nfrom . import _core\nfrom .lib import answer\n{init}\n"
    "from_the_core = _core.from_the_core\n"
    "def __getattr__(name): raise AttributeError(name)\n",
    "_core/__init__.py": "from . import multiarray\n{core}\n",
    "_core/multiarray.py": "",
    "lib/__init__.py": "answer = 42\n",
    "lib/_function_base_impl.py": "",
}


def run(code: str, *path: Path) -> str:
    first = "".join(f"import sys; sys.path.insert(0, {str(directory)!r}); " for directory in path)
    command = [sys.executable, "-P", "-c", first + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def asked_for() -> set[str]:
    """The names that an engine's sources take from numpy."""
    names = set()
    for package in ("engine", "shm", "workers"):
        for source in sources(f"{package}/**/*.py", at_least=4):
            for node in ast.walk(ast.parse(source.read_text())):
                match node:
                    case ast.Attribute(value=ast.Name(id="np"), attr=name):
                        names.add(name)
                    case ast.ImportFrom(module="numpy"):
                        raise AssertionError(f"{source}: a name of numpy that stands alone")
    return names


def test_no_code_of_the_engine_asks_for_what_is_left_out() -> None:
    names = sorted(asked_for())
    assert len(names) > 20
    look = f"import json; [getattr(np, name) for name in json.loads({json.dumps(names)!r})]; "
    before = "before = 'numpy.lib' in sys.modules; "  # always, of a numpy before 2
    assert run(LOAD + before + look + "print(('numpy.lib' in sys.modules) - before)") == "0"


def test_whoever_asks_for_what_is_left_out_gets_all_of_it() -> None:
    every = "import json; print(json.dumps([name for name in dir(np) if hasattr(np, name)]))"
    whole = set(json.loads(run("import numpy as np; " + every)))
    assert set(json.loads(run(LOAD + "np.unique; " + every))) >= whole
    assert run(LOAD + "print(np.unique([2, 1, 2]), np.linalg.det(np.eye(2)))") == "[1 2] 1.0"
    assert run(LOAD + "print(np.lib.scimath is np.emath, np.emath.sqrt(-1))") == "True 1j"


def make(directory: Path, init: str, core: str) -> Path:
    """This fake numpy, below a directory for sys.path."""
    for name, text in FAKE.items():
        path = directory / "numpy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{init}", init).replace("{core}", core))
    return directory


@pytest.mark.parametrize(
    "init, core",
    [
        ("", "def from_the_core(): return 1"),
        ("half = answer / 2", "def from_the_core(): return 1"),  # it uses what is left out while it is loaded
        ("", "from numpy.lib import answer as a\ndef from_the_core(): return a - 41"),  # its core has it
    ],
)
def test_another_numpy_that_cannot_do_without_is_loaded_whole(tmp_path: Path, init: str, core: str) -> None:
    assert run(LOAD + WORKS, make(tmp_path, init, core)) == "1 42 42 True"


FAILS_ONCE = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._array_api_info":  # looked for behind numpy.lib
            sys.meta_path.remove(self)
            raise ValueError("not now")
sys.meta_path.insert(0, Finder())
"""


def test_a_start_survives_a_numpy_that_fails_half_way() -> None:
    works = "print(np.unique([2, 1, 2]), np.linalg.det(np.eye(2)), np._globals.__name__)"
    assert run(FAILS_ONCE + LOAD + works) == "[1 2] 1.0 numpy._globals"
    has_failed = "print(all(type(finder).__name__ != 'Finder' for finder in sys.meta_path))"
    assert run(FAILS_ONCE + LOAD + has_failed) == "True"


def test_a_numpy_before_2_is_left_to_whoever_imports_it(tmp_path: Path) -> None:
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").write_text("from .lib import answer")
    (package / "lib.py").write_text("answer = 1")
    assert run(LOAD + "print(np.answer, 'numpy.lib' in sys.modules)", tmp_path) == "1 True"


@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_first_of_each(values: list[int]) -> None:
    array = np.array(values, np.uint32)
    assert sorted(np.unique(array, return_index=True)[1]) == np.flatnonzero(first_of_each(array)).tolist()
