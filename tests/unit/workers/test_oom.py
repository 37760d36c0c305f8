"""Short of memory: the kernel kills workers, which are replaced, and not the supervisor."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.doctor import has_capability
from plait.lab.namespaces import Host, Lab
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.network
SETTINGS = "receivers = 1\nconsumers = 1\nsmall_slots = 64\ntrain_slots = 1\n"
CONTAINER = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource")
CAP_SYS_RESOURCE = 24


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("a")


@pytest.mark.parametrize("prefix", [(), CONTAINER], ids=["root", "container"])
def test_workers_are_better_victims_than_the_supervisor(host: Host, prefix: tuple[str, ...]) -> None:
    engine = host.engine(command=(*prefix, "plaitd", "-f", "{iface}"), settings=SETTINGS)
    until(lambda: "is ready" in engine.process.output(), "it is ready")
    scores = {title: score(pid) for title, pid in host.titles().items()}
    assert engine.stop() == 0
    supervisor = scores.pop("supervisor")
    assert set(scores) == {"control", "receiver 0", "consumer 0"} and len(set(scores.values())) == 1
    own, may_lower = score(os.getpid()), not prefix and has_capability(CAP_SYS_RESOURCE)
    assert (supervisor, scores["control"]) == ((own - 300, own) if may_lower else (own, own + 300))
    assert "kills workers before the supervisor" not in engine.process.output()


def roots(directory: Path, stack: contextlib.ExitStack) -> Iterator[Path]:
    """Where cgroups are mounted; then, since a bare chroot has none, where they can be."""
    yield from (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
    for kind in (("cgroup", "-o", "memory"), ("cgroup2",)):
        place = directory / kind[0]
        place.mkdir()
        mount = ["mount", "-t", *kind, "none", str(place)]
        if not subprocess.run(mount, check=False, capture_output=True).returncode:
            stack.callback(subprocess.run, ["umount", str(place)], check=True)
            yield place


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A fresh memory cgroup, of version 1 or 2."""
    with contextlib.ExitStack() as stack:
        for root in roots(tmp_path, stack):
            made = root / f"plait-test-{os.getpid()}"
            with contextlib.suppress(OSError):
                made.mkdir()
                if (made / "memory.max").exists() or (made / "memory.limit_in_bytes").exists():
                    break
                made.rmdir()
        else:
            if os.environ.get("CI") == "true":
                pytest.fail("CI=true, and no memory cgroup can be made or mounted here", pytrace=False)
            pytest.skip("no memory cgroup can be made or mounted here")
        yield made
        until(lambda: not (made / "cgroup.procs").read_text(), "the group is empty")
        made.rmdir()


def limit(group: Path, mebibytes: int) -> None:
    second = group / "memory.max"
    (second if second.exists() else group / "memory.limit_in_bytes").write_text(str(mebibytes << 20))


class Grouped:
    """An engine in a network namespace of its own and in this group; it sees this host's cgroups."""

    def __init__(self, group: Path, directory: Path) -> None:
        self.name = f"plo{os.getpid()}"
        self.log = directory / "log"
        (directory / "settings.toml").write_text(SETTINGS)
        enter = f'echo $$ > {group}/cgroup.procs && exec unshare --net "$@"'
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", enter, "sh", "plaitd", "-f", self.name],
                stdout=log, stderr=log, env={**os.environ, "PLAIT_CONFIG": str(directory / "settings.toml")},
            )  # fmt: skip

    def __enter__(self) -> Grouped:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)

    def says(self, words: str) -> bool:
        return words in self.log.read_text()

    def uapi(self, text: str) -> str:
        """The answer as far as it came."""
        answer = bytearray()
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(PATIENCE)
            client.connect(f"/var/run/wireguard/{self.name}.sock")
            client.sendall(text.encode())
            while not answer.endswith(b"\n\n") and (part := client.recv(1 << 20)):
                answer += part
        return answer.decode()


def test_a_group_without_room_is_named_at_the_start(group: Path, tmp_path: Path) -> None:
    limit(group, 40)
    with Grouped(group, tmp_path) as engine:
        assert engine.process.wait(PATIENCE) == 8, engine.log.read_text()
        words = rf"of memory, and the memory cgroup \S*{group.name} \(40 MiB\) has \d+ MiB left"
        assert re.search(words, engine.log.read_text()), engine.log.read_text()


def test_the_supervisor_outlives_its_group_s_shortage(group: Path, tmp_path: Path) -> None:
    """Peers take what is left, and more; the kernel kills, the supervisor replaces."""
    limit(group, 400)
    with Grouped(group, tmp_path) as engine:
        until(lambda: engine.says("is ready"), "it is ready")
        names = ("memory.current", "memory.usage_in_bytes")
        used = next(int((group / name).read_text()) for name in names if (group / name).exists())
        limit(group, (used >> 20) + 8)
        keys = range(1, 50_000)
        peers = "".join(f"public_key={n:064x}\nallowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in keys)
        engine.uapi(f"set=1\n{peers}\n")
        until(lambda: engine.says("was killed by SIGKILL"), "the kernel kills a worker")
        assert engine.process.poll() is None
        limit(group, 400)
        until(lambda: engine.uapi("get=1\n\n").endswith("errno=0\n\n"), "it answers again")
        engine.process.terminate()
        assert engine.process.wait(PATIENCE) == 0
