"""The engines that `--vs` knows by name: how they are named, found, told apart, listed and refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from plait.bench import bench as command
from plait.bench import competitors
from plait.bench.competitors import GO_MODULE, KNOWN, NEWEST, installed, named
from plait.bench.implementation import CABLE, chosen
from plait.failure import Failure
from plait.lab.versions import (
    GO_ALIGNMENT,
    GO_HEADER,
    GO_INLINE,
    GO_MAGIC,
    GO_MARK,
    UNKNOWN,
    go_build,
    program_version,
)

PSEUDO = "v0.0.0-20260101020304-abcdef012345"


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither go nor what the machine's user has installed; Debian's programs stay."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("GOBIN", "GOPATH", "CARGO_HOME", "CARGO_INSTALL_ROOT", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)


def executable(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def go_string(text: bytes) -> bytes:
    length = len(text)
    prefix = b""
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + text


def go_program(
    path: str = GO_MODULE, version: str = PSEUDO, *, before: int = 4096, flags: int = GO_INLINE
) -> bytes:
    """As Go 1.18 and later lay build information out (debug/buildinfo), within some other bytes."""
    header = (GO_MAGIC + bytes([8, flags])).ljust(GO_HEADER, b"\0")
    lines = f"path\t{path}\nmod\t{path}\t{version}\th1:AAAA=\ndep\tgolang.org/x/sys\tv9.9.9\th1:BBBB=\n"
    mark = b"\x30" * GO_MARK
    strings = go_string(b"go1.99") + go_string(mark + lines.encode() + mark)
    return b"\x7f" * before + header + strings + b"\0" * 64


def rust_program(words: str) -> bytes:
    return f"#!/bin/sh\necho '{words}'\n".encode()


@pytest.mark.parametrize(
    ("text", "title", "get"),
    [
        ("wireguard-go", NEWEST, f"go install {GO_MODULE}@latest"),
        ("wireguard-go@latest", NEWEST, f"go install {GO_MODULE}@latest"),
        ("wireguard-go@v0.0.20230223", "wireguard-go@0.0.20230223", f"go install {GO_MODULE}@v0.0.20230223"),
        ("wireguard-go@debian", "wireguard-go@debian", "apt-get install wireguard-go"),
        ("gotatun", "gotatun@latest", "cargo install gotatun-cli"),
        ("gotatun@0.9.1", "gotatun@0.9.1", "cargo install gotatun-cli --version 0.9.1"),
        ("boringtun@latest", "boringtun@latest", "cargo install boringtun-cli"),
    ],
)
def test_names_and_versions(text: str, title: str, get: str) -> None:
    found = named(text)
    assert found is not None and (found.title, found.get) == (title, get)


@pytest.mark.parametrize("text", ["wireguard-go -f {iface}", "/opt/engine {iface}", "", "engine@", "a@b c"])
def test_everything_else_is_a_command(text: str) -> None:
    assert named(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tailscale", "the bench knows wireguard-go@latest, gotatun@latest.*Give one of these, or a command"),
        ("gotatun@debian", "its version is one of latest, or a number.*Give gotatun@latest"),
        ("wireguard-go@newest", "its version is one of latest, debian, or a number"),
    ],
)
def test_names_that_nobody_has_are_refused(text: str, words: str) -> None:
    with pytest.raises(Failure, match=words):
        chosen([text], [])


@pytest.mark.parametrize("one", KNOWN[:3], ids=[one.title for one in KNOWN[:3]])
def test_what_is_missing_is_refused_with_the_command_that_gets_it(one: competitors.Competitor) -> None:
    with pytest.raises(Failure) as refused:
        chosen([one.title], [])
    assert refused.value.what == f"cannot compare with {one.title}"
    assert refused.value.why.startswith(f"there is no {one.program} made by {one.installed_by} install in /")
    assert refused.value.next_step == f"Get it: {one.get}"


@pytest.mark.parametrize("place", ["GOBIN", "GOPATH", "HOME", "PATH"])
def test_where_go_install_writes(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = {"GOBIN": "x", "GOPATH": "x/bin", "HOME": "home/go/bin", "PATH": "x"}[place]
    if place != "HOME":
        monkeypatch.setenv(place, f"{tmp_path}/x" + ":/usr/bin:/bin" * (place != "GOBIN"))
    program = executable(tmp_path / directory / "wireguard", go_program())
    (plait, found, cable) = chosen([NEWEST], [])
    assert (found.title, found.version, found.path) == (NEWEST, PSEUDO.removeprefix("v"), str(program))
    assert found.command == (str(program), "-f", "{iface}")
    assert plait.is_plait and plait.path.endswith("/plaitd") and cable.title == CABLE


@pytest.mark.parametrize("place", ["CARGO_INSTALL_ROOT", "CARGO_HOME", "HOME"])
def test_where_cargo_install_writes(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place != "HOME":
        monkeypatch.setenv(place, str(tmp_path / "x"))
    directory = tmp_path / ("home/.cargo/bin" if place == "HOME" else "x/bin")
    program = executable(directory / "gotatun", rust_program("gotatun 1.2.3"))
    found = chosen(["gotatun"], [])[1]
    assert (found.title, found.version, found.path) == ("gotatun@latest", "1.2.3", str(program))
    assert found.command == (str(program), "-f", "--disable-drop-privileges", "{iface}")


def test_sudo_finds_what_its_caller_has_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "daemon")
    with pytest.raises(Failure, match=r"/usr/sbin/go/bin"):
        chosen([NEWEST], [])
    monkeypatch.setenv("SUDO_USER", "no-such-user-here")
    with pytest.raises(Failure, match=r"there is no wireguard made by go install"):
        chosen([NEWEST], [])


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\necho wireguard v9.9.9\n",  # another program of this name
        go_program("example.org/wireguard"),
        go_program(version="(devel)"),  # of a checkout: which version, nobody can say
        b"",
    ],
)
def test_another_program_of_the_name_is_not_the_newest(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOBIN", str(tmp_path))
    executable(tmp_path / "wireguard", content)
    with pytest.raises(Failure, match="there is no wireguard made by go install"):
        chosen([NEWEST], [])


def test_one_version_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is not taken for it."""
    monkeypatch.setenv("GOBIN", str(tmp_path))
    program = executable(tmp_path / "wireguard", go_program(version="v0.0.20230223"))
    found = chosen(["wireguard-go@0.0.20230223"], [])[1]
    assert found.name == "wireguard-go@0.0.20230223 0.0.20230223"
    words = f"{program} is 0.0.20230223. Get it: go install {GO_MODULE}@v0.0.20250522"
    with pytest.raises(Failure, match=words):
        chosen(["wireguard-go@v0.0.20250522"], [])


def test_one_engine_by_two_names_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOBIN", str(tmp_path))
    executable(tmp_path / "wireguard", go_program())
    assert [one.title for one in chosen(["wireguard-go", NEWEST], [])] == ["plait", NEWEST, CABLE]


@pytest.mark.parametrize("before", [4096, 4096 + 3 * GO_ALIGNMENT])
def test_the_build_information_of_go(before: int, tmp_path: Path) -> None:
    program = executable(tmp_path / "program", go_program(before=before))
    assert go_build(str(program)) == {"path": GO_MODULE, "version": PSEUDO.removeprefix("v")}


def test_a_constant_in_the_program_is_no_version_where_go_says_one(tmp_path: Path) -> None:
    """The newest wireguard-go's --version is that of a release of long before."""
    talks = rust_program("wireguard-go v0.0.20250522") + b"exit 0\n"
    program = executable(tmp_path / "wireguard", talks.ljust(4096) + go_program(before=0))
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert "v0.0.20250522" in said
    assert program_version(str(program)) == PSEUDO.removeprefix("v")


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * (GO_ALIGNMENT + 1) + GO_MAGIC,  # neither aligned nor whole
        go_program(before=GO_ALIGNMENT + 1),
        go_program(flags=0),  # Go before 1.18
        go_program(before=0)[:40],
        GO_MAGIC,
        b"",
    ],
)
def test_what_is_no_build_information_says_nothing(content: bytes, tmp_path: Path) -> None:
    assert not go_build(str(executable(tmp_path / "program", content)))
    assert not go_build(str(tmp_path / "missing"))


@pytest.mark.skipif(not shutil.which("wireguard-go", path="/usr/bin"), reason="no wireguard-go of Debian's")
def test_the_distributions_wireguard_go() -> None:
    """A real program of Go that was built without a version: its own --version says it."""
    found = installed(KNOWN[-1])
    said = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True).stdout
    assert found.path == "/usr/bin/wireguard-go" and f"v{found.version}" in said.split()
    assert go_build(found.path)["path"] == GO_MODULE


def test_a_program_that_says_nothing_has_an_unknown_version(tmp_path: Path) -> None:
    assert program_version(str(executable(tmp_path / "engine", rust_program("hello")))) == UNKNOWN


def test_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there and what is not, without root; the JSON says the same as the table."""
    monkeypatch.setenv("CARGO_HOME", str(tmp_path))
    program = executable(tmp_path / "bin/boringtun-cli", rust_program("boringtun 0.0.7"))
    user = os.geteuid()
    answer = CliRunner().invoke(command, ["tunnel", "--list", "--json", "-"], catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads(answer.stdout)}
    assert list(rows) == [one.title for one in KNOWN]
    assert rows["boringtun@latest"] == {
        "name": "boringtun@latest",
        "version": "0.0.7",
        "path": str(program),
        "get": "cargo install boringtun-cli",
    }
    assert rows[NEWEST]["version"] == rows[NEWEST]["path"] == ""
    if user == 0:
        os.seteuid(65534)
    try:
        table = CliRunner().invoke(command, ["tunnel", "--list"], catch_exceptions=False).stdout
    finally:
        os.seteuid(user)
    for one in KNOWN:
        assert one.title in table and one.get in table
