"""A copy of the project with a build of its own, in which one mutant after the other is built and tested.

    DIRECTORY/source     the files of the project; what changed since the last time is copied again
    DIRECTORY/build      meson's; warm, so that a mutant costs the compilation of one file
    DIRECTORY/python     a Python that finds the packages of `source`, and all others where this Python does

The extension modules in `source` are links into `build`. What tests build by themselves they build in
`source`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .mutant import Mutant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PROGRAMS = {"plait": "plait.command", "plaitd": "plait.plaitd"}
BUILD_SECONDS = 300
# A test hangs when it takes this many times what it took while it was recorded, and so much more.
SLOW_TIMES, SLOW_SECONDS = 4, 30
NOTHING_COLLECTED = 5  # what pytest ends with then


def files(root: Path) -> list[Path]:
    """The project's: what git knows or would take, without git all."""
    if not (root / ".git").exists():
        return [path for path in root.rglob("*") if path.is_file()]
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=root, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := root / name).is_file()]


def say(text: str) -> None:
    print(f"mutants: {text}", file=sys.stderr, flush=True)


class CannotWork(Exception):
    """What, why, and the next step."""


@dataclass(frozen=True)
class Test:
    """A test as it was recorded."""

    name: str
    seconds: float
    has_failed: bool
    unit: float  # what its turn goes by: its own seconds, or the mean of a module whose tests share fixtures
    shared: float  # what those fixtures take


class Ended:
    """How a command ended: its exit code (None: it took too long and was killed), and what it said."""

    def __init__(
        self, command: list[str], where: Path, environment: dict[str, str], seconds: float, said: Path
    ) -> None:
        begin = time.monotonic()
        with said.open("wb") as out:
            # A session of its own: whatever the tests start ends with them.
            process = subprocess.Popen(command, cwd=where, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, start_new_session=True)
            try:
                self.code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.seconds = time.monotonic() - begin
        self.words = said.read_text(errors="replace")


class Workshop:
    def __init__(self, directory: Path, root: Path = ROOT) -> None:
        self.directory, self.root = directory, root
        self.source, self.build = directory / "source", directory / "build"
        python = directory / "python"
        self.python = python / "bin" / "python"
        path = [str(python / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        # What is written while a mutant stands there is told from stale by size and second of its source.
        self.environment = os.environ | {
            "PATH": ":".join(path), "PYTHONDONTWRITEBYTECODE": "1", "PLAIT_SOAK_SECONDS": "2", "CI": "true"
        }
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self.environment.pop(name, None)
        self._copy()
        self._make_python(python)
        self._begin_build()

    # -- the copy --------------------------------------------------------------------------------

    def _copy(self) -> None:
        wanted = {path.relative_to(self.root) for path in files(self.root)}
        if self.source.exists():
            for path in sorted(self.source.rglob("*")):
                name = path.relative_to(self.source)
                is_ours = path.suffix in (".c", ".h", ".py", ".in", ".build") and "build" not in name.parts[0]
                if is_ours and path.is_file() and name not in wanted:
                    path.unlink()
        for name in wanted:
            old, new = self.root / name, self.source / name
            if not new.exists() or new.read_bytes() != old.read_bytes():
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(old, new)
                shutil.copymode(old, new)

    def _make_python(self, where: Path) -> None:
        if not self.python.exists():
            venv.create(where, symlinks=True, with_pip=False)
        packages = self.packages(where)
        # As plain paths: the .pth files of an editable install, which would find the original, are not read.
        (packages / "mutants.pth").write_text(f"{self.source}\n{sysconfig.get_path('purelib')}\n")
        shutil.copyfile(HERE / "chosen.py", packages / "mutants_chosen.py")
        for program, module in PROGRAMS.items():
            path = where / "bin" / program
            path.write_text(f"#!{self.python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
            path.chmod(0o755)

    def packages(self, where: Path) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(where), "platbase": str(where)}))

    # -- the build -------------------------------------------------------------------------------

    def _begin_build(self) -> None:
        if not (self.build / "build.ninja").exists():
            self._must(["meson", "setup", str(self.build), str(self.source)], "the build cannot be set up")
        self._must(["ninja", "-C", str(self.build)], "the sources do not build, without any mutant")
        self.is_built_as_is = True
        for module in self.build.rglob("*.so"):
            link = self.source / module.relative_to(self.build)
            link.unlink(missing_ok=True)
            link.symlink_to(module)
        self._compile_python()
        files = {path.relative_to(self.source) for path in self.source.rglob("*.c")}
        self.codes = {str(path): code for path in files if (code := self._code(str(path))) is not None}

    def _compile_python(self) -> None:
        """Else each start of an engine would. By hashes: time and size of a mutant may be the original's."""
        words = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."]
        self._must([str(self.python), *words], "the Python sources do not compile")

    def _must(self, command: list[str], what: str) -> None:
        done = self.run(command, BUILD_SECONDS * 4)
        if done.code != 0:
            raise CannotWork(f"{what}: {done.words[-2000:].strip()}. Mend the build first.")

    def run(self, command: list[str], seconds: float, besides: Mapping[str, str] | None = None,
            said: Path | None = None) -> Ended:
        environment = self.environment | dict(besides or {})
        return Ended(command, self.source, environment, seconds, said or self.directory / "said")

    def _ninja(self) -> Ended:
        self.is_built_as_is = False
        return self.run(["ninja", "-C", str(self.build)], BUILD_SECONDS)

    def _code(self, path: str) -> bytes | None:
        """Of a C source: its object file, which the meson.build of its folder or of one above may ask for."""
        parts = Path(path).parts
        found = [place for at in range(1, len(parts))
                 for place in self.build.joinpath(*parts[:at]).glob(f"*.p/{'_'.join(parts[at:])}.o")]
        return found[0].read_bytes() if len(found) == 1 else None

    # -- one mutant ------------------------------------------------------------------------------

    def test(self, tests: Sequence[Test]) -> tuple[Ended, str]:
        """Runs these tests, in this order, up to the first that fails; how that ended, and which was last."""
        # What made one mutant fail is not tried on the next: the rates would flatter.
        shutil.rmtree(self.source / ".hypothesis", ignore_errors=True)
        limits = {test.name: (test.seconds + test.shared) * SLOW_TIMES + SLOW_SECONDS for test in tests}
        chosen = self.directory / "chosen.json"
        chosen.write_text(json.dumps(limits))
        chosen.with_suffix(".now").write_text("")
        files = list(dict.fromkeys(test.name.partition("::")[0] for test in tests))
        command = [str(self.python), "-m", "pytest", "-q", "-x", "--hypothesis-seed=1",
                   "-p", "mutants_chosen", *files]
        done = self.run(command, sum(limits.values()), {"PLAIT_CHOSEN": str(chosen)})
        return done, chosen.with_suffix(".now").read_text()

    def passes(self, test: Test) -> bool:
        """Without any mutant."""
        if not self.is_built_as_is:
            self.is_built_as_is = self._ninja().code == 0
        return self.test([test])[0].code == 0

    def judge(self, mutant: Mutant, tests: Sequence[Test]) -> tuple[str, str]:
        """("caught", "survived", "equivalent" or "broken", which is no mutant; why, or which test did)."""
        path = self.source / mutant.path
        before = path.read_text()
        path.write_text(mutant.applied(before))
        try:
            if path.suffix != ".py" or not self.is_built_as_is:
                if self._ninja().code != 0:
                    return "broken", "it does not build"
                self.is_built_as_is = path.suffix == ".py"
                if self._code(mutant.path) == self.codes.get(mutant.path, b"another"):
                    return "equivalent", "the machine code is the same"
            if tests:
                done, last = self.test(tests)
                if done.code == NOTHING_COLLECTED:
                    raise CannotWork(f"pytest does not find {tests[0].name} any more. Remove map.json.")
                if done.code != 0:
                    return "caught", last
            if mutant.equivalent:
                return "equivalent", mutant.equivalent
            return "survived", "" if tests else "no test runs it"
        finally:
            path.write_text(before)  # built again with the next mutant that is compiled
