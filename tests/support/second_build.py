"""A second build of the extension modules, with a Python of its own that loads them.

What is shipped, and what other tests load, stays as it is.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from plait.lab.namespaces import search_path
from tests.support.sources import ROOT, sources

PACKAGES = ("shm", "engine", "workers", "plait")
EXTENSIONS = PACKAGES[:3]


def python(build: Path, built: Sequence[str], options: Sequence[str],
           environment: Mapping[str, str] | None = None) -> Path:
    """A Python that loads the sources of this checkout; the extension modules of the packages `built` come
    from the build directory, which is brought up to date, the others from the installation.

    options: of `meson setup`, where that has not been done. environment: of meson and ninja besides.
    """
    if not (build / "build.ninja").exists():
        run(["meson", "setup", str(build), *options], environment)
    run(["ninja", "-C", str(build), *(f"{package}/_{package}.abi3.so" for package in built)], environment)
    packages = build / "packages"
    for package in PACKAGES:
        shutil.rmtree(packages / package, ignore_errors=True)
        modules = {path.relative_to(ROOT): path for path in sources(f"{package}/**/*.py", at_least=4)}
        if package in built:
            modules |= {path.relative_to(build): path for path in (build / package).rglob("*.so")}
        elif package in EXTENSIONS:
            extension = Path(str(importlib.import_module(f"{package}._{package}").__file__))
            modules[Path(package) / extension.name] = extension
        for name, module in modules.items():
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).symlink_to(module)
    made = build / "venv/bin/python"
    if not made.exists():
        run([sys.executable, "-m", "venv", "--without-pip", str(build / "venv")], environment)
    # A place that a .pth file names is searched, and its own .pth files are not: they would name the sources.
    place = next((build / "venv").glob("lib/python3*/site-packages"))
    (place / "second_build.pth").write_text(f"{packages}\n{sysconfig.get_paths()['purelib']}\n")
    return made


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    around = {**os.environ, "PATH": search_path(), **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=around)
    if done.returncode:
        raise RuntimeError(f"'{' '.join(command)}' failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
