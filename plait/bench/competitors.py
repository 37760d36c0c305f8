"""The engines that the benches know by name: where each is looked for, its version, and how to get it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from plait.failure import Failure
from plait.lab import namespaces as lab
from plait.lab.versions import UNKNOWN, go_build, output_of, package_of, program_version

LATEST = "latest"
DEBIAN = "debian"
GO_MODULE = "golang.zx2c4.com/wireguard"
NAME = re.compile(r"([a-z][a-z0-9-]*)(?:@([A-Za-z0-9.+~-]+))?")


@dataclass(frozen=True)
class Competitor:
    """One engine by name. version: LATEST, DEBIAN, or one that is asked for."""

    name: str
    version: str
    program: str
    arguments: tuple[str, ...]
    installed_by: str  # whose directories it is looked for in: go, cargo, dpkg
    get: str  # the command that installs it

    @property
    def title(self) -> str:
        """As --vs takes it."""
        return f"{self.name}@{self.version}"

    def of_version(self, version: str) -> Competitor:
        """The same of one version, where this is the latest."""
        plain = version.removeprefix("v")
        get = (
            self.get.replace("@latest", f"@v{plain}")
            if self.installed_by == "go"
            else f"{self.get} --version {plain}"
        )
        return Competitor(self.name, plain, self.program, self.arguments, self.installed_by, get)


@dataclass(frozen=True)
class Installed:
    """A program that was found."""

    path: str
    version: str


WIREGUARD_GO = Competitor("wireguard-go", LATEST, "wireguard", ("-f", "{iface}"), "go",
                          f"go install {GO_MODULE}@latest")  # fmt: skip
# Both of Rust give up root by default, and then cannot name whoever called su or sudo in a namespace.
KNOWN = (
    WIREGUARD_GO,
    Competitor("gotatun", LATEST, "gotatun", ("-f", "--disable-drop-privileges", "{iface}"), "cargo",
               "cargo install gotatun-cli"),
    Competitor("boringtun", LATEST, "boringtun-cli", ("-f", "--disable-drop-privileges", "{iface}"), "cargo",
               "cargo install boringtun-cli"),
    Competitor("wireguard-go", DEBIAN, "wireguard-go", ("-f", "{iface}"), "dpkg",
               "apt-get install wireguard-go"),
)  # fmt: skip
NEWEST = WIREGUARD_GO.title  # the engine that the bars are ratios to


def named(text: str) -> Competitor | None:
    """The competitor of `NAME` (its latest) or `NAME@VERSION`; None for other forms. Raises Failure."""
    match = NAME.fullmatch(text)
    if match is None:
        return None
    name, version = match[1], match[2] or LATEST
    of_name = {one.version: one for one in KNOWN if one.name == name}
    if not of_name:
        titles = ", ".join(one.title for one in KNOWN)
        raise Failure(
            f"cannot compare with '{text}'",
            f"the bench knows {titles}",
            "Give one of these, or a command as in --vs 'wireguard-go -f {iface}'.",
        )
    if version in of_name:
        return of_name[version]
    if not version.removeprefix("v")[:1].isdigit():
        versions = ", ".join(of_name)
        mend = f"Give {next(iter(of_name.values())).title}; `plait bench tunnel --list` shows what is there."
        raise Failure(f"cannot compare with '{text}'", f"its version is one of {versions}, or a number", mend)
    return of_name[LATEST].of_version(version)


def installed(competitor: Competitor) -> Installed:
    """Where it is, and which version it says it is. Raises Failure with the command that gets it."""
    others = []
    for path in _candidates(competitor):
        version = _version_if_it_is(competitor, path)
        if version is None:
            continue
        if competitor.version in (LATEST, DEBIAN) or version == competitor.version:
            return Installed(path, version)
        others.append(f"{path} is {version}")
    why = "; ".join(others) or f"there is no {competitor.program} {_whose(competitor)}"
    raise Failure(f"cannot compare with {competitor.title}", why, f"Get it: {competitor.get}")


def listing() -> list[dict[str, str]]:
    """Every competitor by name: what was found ("" where nothing was), and how to get it."""
    rows = []
    for one in KNOWN:
        try:
            found = installed(one)
        except Failure:
            found = Installed("", "")
        rows.append({"name": one.title, **asdict(found), "get": one.get})
    return rows


def _candidates(competitor: Competitor) -> Iterator[str]:
    for directory in dict.fromkeys([*DIRECTORIES[competitor.installed_by](), *lab.search_path().split(":")]):
        path = os.path.join(directory, competitor.program)
        if shutil.which(path):
            yield path


def _version_if_it_is(competitor: Competitor, path: str) -> str | None:
    """The version of what `go install`, cargo or dpkg made; None when somebody else made this program."""
    if competitor.installed_by == "dpkg":
        return program_version(path) if package_of(path) else None
    if competitor.installed_by == "go":
        build = go_build(path)
        return build.get("version") if build.get("path") == GO_MODULE else None
    version = program_version(path)
    return None if version == UNKNOWN else version


def _whose(competitor: Competitor) -> str:
    if competitor.installed_by == "dpkg":
        return "of a Debian package on PATH"
    where = ", ".join(DIRECTORIES[competitor.installed_by]())
    return f"made by {competitor.installed_by} install in {where} or on PATH"


def _homes() -> list[Path]:
    """The user's, and whose sudo this is: what they installed is theirs to measure."""
    homes = [Path.home()]
    if name := os.environ.get("SUDO_USER"):
        with contextlib.suppress(KeyError):
            homes.append(Path(pwd.getpwnam(name).pw_dir))
    return homes


def _go_directories() -> list[str]:
    """Where `go install` writes: GOBIN, the first GOPATH's bin, ~/go/bin; `go env -w` may have set them."""
    told = output_of(["go", "env", "GOBIN", "GOPATH"]).splitlines() if shutil.which("go") else []
    gobin, gopath = told if len(told) == 2 else [os.environ.get(name, "") for name in ("GOBIN", "GOPATH")]
    first = gopath.partition(":")[0]
    found = [gobin, os.path.join(first, "bin") if first else "", *(str(home / "go/bin") for home in _homes())]
    return list(dict.fromkeys(directory for directory in found if directory))


def _cargo_directories() -> list[str]:
    """Where `cargo install` writes: CARGO_INSTALL_ROOT, CARGO_HOME, ~/.cargo."""
    roots = [os.environ.get("CARGO_INSTALL_ROOT", ""), os.environ.get("CARGO_HOME", "")]
    roots += [str(home / ".cargo") for home in _homes()]
    return list(dict.fromkeys(os.path.join(root, "bin") for root in roots if root))


DIRECTORIES: dict[str, Callable[[], list[str]]] = {
    "go": _go_directories,
    "cargo": _cargo_directories,
    "dpkg": lambda: ["/usr/bin", "/usr/sbin"],
}
