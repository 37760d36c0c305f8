"""A copy of the project with a build of its own, in which one mutant after the other is built and tested.

    DIRECTORY/source     the files of the project; what changed since the last time is copied again
    DIRECTORY/build      meson's; warm, so that a mutant costs the compilation of one file
    DIRECTORY/python     a Python that finds the packages of `source`, and all others where this Python does

The extension modules in `source` are links into `build`. What tests build by themselves they build in
`source`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from .mutant import Mutant

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = {"plait": "plait.command", "plaitd": "plait.plaitd"}
BUILD_SECONDS = 300


class CannotWork(Exception):
    """What, why, and the next step."""


class Ended:
    """How a command ended: its exit code (None: it took too long and was killed), and what it said."""

    def __init__(self, command: list[str], where: Path, environment: dict[str, str], seconds: float) -> None:
        begin = time.monotonic()
        said = where.with_name("said")
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
        # Bytecode is told from stale by size and second of the source: a mutant may have both.
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
        wanted = {path.relative_to(self.root) for path in self._files()}
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

    def _files(self) -> list[Path]:
        if not (self.root / ".git").exists():
            return [path for path in self.root.rglob("*") if path.is_file()]
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                cwd=self.root, check=True, capture_output=True, text=True).stdout
        return [path for name in listed.split("\0") if name and (path := self.root / name).is_file()]

    def _make_python(self, where: Path) -> None:
        if not self.python.exists():
            venv.create(where, symlinks=True, with_pip=False)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(where), "platbase": str(where)}))
        # As plain paths: the .pth files of an editable install, which would find the original, are not read.
        (packages / "mutants.pth").write_text(f"{self.source}\n{sysconfig.get_path('purelib')}\n")
        for program, module in PROGRAMS.items():
            path = where / "bin" / program
            path.write_text(f"#!{self.python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
            path.chmod(0o755)

    # -- the build -------------------------------------------------------------------------------

    def _begin_build(self) -> None:
        if not (self.build / "build.ninja").exists():
            self._must(["meson", "setup", str(self.build), str(self.source)], "the build cannot be set up")
        self._must(["ninja", "-C", str(self.build)], "the sources do not build, without any mutant")
        for module in self.build.rglob("*.so"):
            link = self.source / module.relative_to(self.build)
            link.unlink(missing_ok=True)
            link.symlink_to(module)
        files = {path.relative_to(self.source) for path in self.source.rglob("*.c")}
        self.codes = {str(path): code for path in files if (code := self._code(str(path))) is not None}

    def _must(self, command: list[str], what: str) -> None:
        done = self._run(command, BUILD_SECONDS * 4)
        if done.code != 0:
            raise CannotWork(f"{what}: {done.words[-2000:].strip()}. Mend the build first.")

    def _run(self, command: list[str], seconds: float) -> Ended:
        return Ended(command, self.source, self.environment, seconds)

    # -- one mutant ------------------------------------------------------------------------------

    def test(self, tests: tuple[str, ...], seconds: float) -> Ended:
        """The sources as they are."""
        self._ninja()
        return self._test(tests, seconds)

    def _test(self, tests: tuple[str, ...], seconds: float) -> Ended:
        # What made one mutant fail is not tried on the next: the rates would flatter.
        shutil.rmtree(self.source / ".hypothesis", ignore_errors=True)
        command = [str(self.python), "-m", "pytest", "-q", "-x", "--hypothesis-seed=1", *tests]
        return self._run(command, seconds)

    def _ninja(self) -> Ended:
        return self._run(["ninja", "-C", str(self.build)], BUILD_SECONDS)

    def _code(self, path: str) -> bytes | None:
        """Of a C source: its object file, which the meson.build of its folder or of one above may ask for."""
        parts = Path(path).parts
        found = [place for at in range(1, len(parts))
                 for place in self.build.joinpath(*parts[:at]).glob(f"*.p/{'_'.join(parts[at:])}.o")]
        return found[0].read_bytes() if len(found) == 1 else None

    def judge(self, mutant: Mutant, tests: tuple[str, ...], seconds: float) -> tuple[str, str]:
        """("caught", "survived", "equivalent" or "broken", which is no mutant, why)."""
        path = self.source / mutant.path
        before = path.read_text()
        path.write_text(mutant.applied(before))
        try:
            if self._ninja().code != 0:
                return "broken", "it does not build"
            if self._code(mutant.path) == self.codes.get(mutant.path, b"another"):
                return "equivalent", "the machine code is the same"
            done = self._test(tests, seconds)
            if done.code is None:
                return "caught", f"the tests did not end within {seconds:.0f} s"
            if done.code == 0:
                return ("equivalent", mutant.equivalent) if mutant.equivalent else ("survived", "")
            return "caught", _first_failure(done)
        finally:
            path.write_text(before)  # built again with the next mutant


def _first_failure(done: Ended) -> str:
    for line in done.words.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" ", 1)[1].split(" - ")[0]
    return f"pytest ended with code {done.code}"
