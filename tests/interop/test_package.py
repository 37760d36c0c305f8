"""The package as pip installs it, not editable: it is complete without the source tree."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from plait.lab.namespaces import PLAIT, Lab
from tests.support.stream import pid_of
from tests.support.tunnel import eventually, two_hosts
from workers.version import commit

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "plait", "shm", "workers")

FAST = "--config-settings=setup-args=-Doptimization=0"  # to build; what runs fast is measured elsewhere
IMPORTS = """
import sys
import engine._engine, shm._shm, workers._workers, plait.bench._bench, plait.load._generator
import workers.entry_points, workers.supervisor.process
import plait.command, plait.daemon, plait.lab.soak, plait.load.run, plait.quick.up_down, plait.watch.show
for module in (engine, shm, workers, plait):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
assert workers._workers.lib.aead_new(-1)
from workers import version
print(version.commit())
from shm import marks
assert not marks.HEADER.exists() and "drop_data_tag" in marks.marked("end in"), marks.marked("end in")
"""


def link(site: Path, names: Iterable[str]) -> None:
    """Put links into site to these packages of our own environment and to all that they need; no extras."""
    waiting, seen = [*names], set()
    while waiting:
        need = Requirement(waiting.pop())
        if need.name in seen or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(need.name)
        found = importlib.metadata.distribution(need.name)
        waiting += found.requires or []
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (site / name).is_symlink():
                (site / name).symlink_to(str(found.locate_file(name)))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with Plait in it as pip installs it, and nothing besides but what it says that it
    depends on: links to this environment's. Its build is done with the same, and pytest is for fixtures."""
    if subprocess.run([sys.executable, "-c", "import mesonpy, pip"], capture_output=True).returncode:
        pytest.skip("pip or meson-python is not in this environment: scripts/setup --dev installs them")
    place = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    site = place / sysconfig.get_path("purelib", vars={"base": ""}).lstrip("/")
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    link(site, [*told["project"]["dependencies"], *told["build-system"]["requires"], "pytest"])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", FAST, str(ROOT)],
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def files_of(site: Path) -> list[Path]:
    """What Plait has there."""
    return [path for package in PACKAGES for path in (site / package).rglob("*") if path.is_file()]


def test_an_ordinary_install_has_every_part(installed: Path) -> None:
    done = subprocess.run(
        [str(installed / "bin/python"), "-I", "-c", IMPORTS, str(installed)],
        cwd=installed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{commit(ROOT)}\n"), done.stderr
    assert {"plait", "plaitd"} <= {path.name for path in (installed / "bin").iterdir()}
    [site] = (installed / "lib").glob("python*/site-packages")
    ours = files_of(site)
    stubs = {path.stem for path in ours if path.suffix == ".pyi"}
    assert stubs == {path.name.partition(".")[0] for path in ours if path.suffix == ".so"} and len(stubs) >= 4
    assert not any(path.is_symlink() for path in ours)
    typed = {path.parent.name for path in ours if path.name == "py.typed"}
    assert typed == set(PACKAGES)


def test_nothing_of_a_build_is_installed(installed: Path) -> None:
    """Python, modules for every Python, and stubs: no C, no byte code of the checkout's."""
    [site] = (installed / "lib").glob("python*/site-packages")
    own = [path for path in files_of(site) if "__pycache__" not in path.parts]  # pip makes its own
    assert {path.suffix for path in own} == {".py", ".pyi", ".so", ".typed"}
    modules = [path for path in own if path.suffix == ".so"]
    assert len(modules) == 5 and all(path.name.endswith(".abi3.so") for path in modules)


def test_the_modules_need_the_c_library_alone(installed: Path) -> None:
    """Libraries of ciphers are opened at run time: one build runs with them, without, and with others."""
    [site] = (installed / "lib").glob("python*/site-packages")
    for module in (path for path in files_of(site) if path.suffix == ".so"):
        said = subprocess.check_output(["readelf", "--dynamic", "--wide", str(module)], text=True)
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", said))
        assert needed - {"libpthread.so.0", "libm.so.6"} == {"libc.so.6"}, module


def test_manual_pages_completions_units_and_examples_are_installed(installed: Path) -> None:
    for name, place in (("share", "share"), ("configs", "share/plait")):
        inside = {path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*") if path.is_file()}
        assert len(inside) > 10
        for path in inside:
            assert (installed / place / path).read_bytes() == (ROOT / name / path).read_bytes()


@pytest.mark.parametrize(("arguments", "words"), [
    (["exporter"], "cannot serve metrics: the Python library prometheus-client"),
    (["load", "report", "run.json"], "cannot read histograms: the Python library hdrhistogram"),
])  # fmt: skip
def test_without_an_extra_its_command_says_what_to_install(
    installed: Path, arguments: list[str], words: str
) -> None:
    command = [str(installed / "bin/plait"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # There is no pip in that environment.
    words = f"plait: {words} is not installed. Put Plait's wheel into a virtual environment, and there: pip "
    assert done.returncode == 1 and done.stderr.startswith(words), done.stderr


@pytest.mark.network
def test_foreign_modules_on_the_path_are_not_loaded(installed: Path, tmp_path: Path) -> None:
    for name in ("engine", "workers", "shm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else is loaded')")
    with Lab() as lab:
        command = [str(installed / "bin/plaitd"), "-f", "{iface}"]
        engine = lab.host("a").engine(command=command, environment={"PYTHONPATH": str(tmp_path)})
        assert engine.counters()
        assert engine.stop() == 0


@pytest.mark.long
@pytest.mark.network
def test_the_running_program_survives_its_files(installed: Path, tmp_path: Path) -> None:
    """Another version is put over the files of a running engine, then all are deleted: 51 killed workers of
    the old version are replaced by workers of the old version, and the session goes on."""
    place = tmp_path / "venv"
    shutil.copytree(installed, place, symlinks=True)
    command = [str(place / "bin/python"), "-P", str(place / "bin/plaitd"), "-f", "{iface}"]
    with Lab() as lab:
        tunnel = two_hosts(lab, command, PLAIT, settings="receivers = 1\nconsumers = 1\n")
        one, two = tunnel.sides
        assert one.echo(two.address4, 2) == 2
        session = one.engine.wg("show", "wg0", "latest-handshakes")
        site = next((place / "lib").glob("python*/site-packages"))
        for package in PACKAGES:
            for path in (site / package).rglob("*"):
                if path.suffix in (".py", ".so"):
                    path.unlink()
                    path.write_text("raise SystemExit('another version')")
        for turn in range(17):
            if turn == 10:
                shutil.rmtree(place)
            time.sleep(1.1)  # who ran for a second is replaced at once
            for title in ("control", "receiver 0", "consumer 0"):
                victim = eventually(lambda title=title: pid_of(one, title))
                os.kill(victim, signal.SIGKILL)
                eventually(lambda title=title, victim=victim: pid_of(one, title) not in (None, victim))
        eventually(lambda: one.echo(two.address4, 2) == 2)
        assert one.engine.wg("show", "wg0", "latest-handshakes") == session
        one.engine.wg("set", "wg0", "listen-port", "12345")
        assert one.engine.wg("show", "wg0", "listen-port") == "12345\n"
        assert one.engine.counters()
        words = one.engine.process.output()
        assert "another version" not in words and "Traceback" not in words
        assert one.engine.stop() == 0


def test_a_program_of_a_user_is_typed_strictly(installed: Path, tmp_path: Path) -> None:
    """The programs of the guides pass mypy --strict with the installed package, and a wrong one fails."""
    guides = "".join((ROOT / "docs" / name).read_text() for name in ("python.md", "rootless.md"))
    blocks = re.findall(r"^```python\n(.*?)^```$", guides, re.M | re.S)
    assert len(blocks) >= 3
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(
        "\n".join(blocks) + "\nreveal_type(wg)\nreveal_type(busiest)\nreveal_type(wg.peer(me))\n"
    )
    wrong.write_text(
        'import plait\nplait.Peer("a string")\nplait.attach("wg0").peer(7)\nplait.no_such_name\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", right.name, wrong.name,
         "--python-executable", str(installed / "bin/python"),
         # What is installed stands in another place each time; mypy looks whether it is the same.
         "--cache-dir", str(ROOT / "build/mypy-of-a-user")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = re.findall(r"^([^:\n]+):.* error:", done.stdout, re.M)
    assert (done.returncode, errors) == (1, [wrong.name] * 3), done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "([^"]+)"', done.stdout)
    assert revealed[0] == "plait.api.interface.Interface" and revealed[2] == "plait.api.values.Peer"
    assert revealed[1].startswith("numpy.ndarray[") and "Any" not in revealed[0]


def test_pytest_finds_the_fixtures_of_the_installed_package(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(installed / "bin/python"), "-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"plait_tunnel", "plait_gateway"} <= set(re.findall(r"^plait_\w+", done.stdout, re.M)), done.stdout
