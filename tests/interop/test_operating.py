"""`plait upgrade` and `plait scale` against engines that run: done, refused, and by whom not understood.

The program is a file of the host, /run/plaitd, that starts the installed one; a test changes it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import WIREGUARD_GO, Engine, Host, Lab, search_path
from tests.interop.test_upgrade import COMMAND, GOOD, NEW, OTHER_LAYOUT, PATH, install
from tests.support.tunnel import check_words, eventually

pytestmark = pytest.mark.network

SETTINGS = (
    "receivers = 1\nconsumers = 1\nmax_receivers = 2\nmax_consumers = 3\nmax_peers = 64\nsmall_slots = 64\n"
    "train_slots = 1\n"
)
# A program whose trial takes until it is let go, so that more can happen meanwhile.
SLOW = GOOD.format(
    "import time\nopen('/run/tried', 'w').close()\n"
    "while not os.path.exists('/run/go'): time.sleep(0.01)"
)
# One that passes its trial and fails right after exec.
FAILING = GOOD.format("if '--inherit' in sys.argv and '--trial' not in sys.argv: sys.exit(3)")
OLDER = """
import sys
import engine.uapi.requests
engine.uapi.requests.QUESTIONS = ("get", "get_engine", "get_busiest", "events")
from plait.daemon import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def engine(lab: Lab) -> Iterator[Engine]:
    made = lab.host("one").engine("wg0", COMMAND, settings=SETTINGS)
    eventually(lambda: "is ready" in made.process.output())
    yield made
    check_words(made.process)


def plait(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.run(["plait", *arguments], check=False, timeout=150)


def processes(engine: Engine) -> dict[str, int]:
    """Pids as the engine has them."""
    rows = engine.report()["processes"]
    return {f"{row['role']} {row['number']}": row["pid"] for row in rows if row["state"] == "running"}


def program(host: Host, pid: int) -> bool:
    """Whether a process, by its pid in the host, is of the new program."""
    return host.run(["cat", f"/proc/{pid}/coredump_filter"]).stdout == "00000007\n"


def test_a_worker_that_does_not_start_is_told(engine: Engine) -> None:
    """First of all: memory that a receiver had once stays. The host has no room for a second one's."""
    host = engine.host
    shm = host.root / "dev/shm"
    free = os.statvfs(shm).f_bavail * os.statvfs(shm).f_frsize
    with (shm / "full").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)
    done = plait(host, "scale", "wg0", "2")
    (shm / "full").unlink()
    became = "1 receiver and 1 consumer became 1 receiver and 2 consumers, not 2 receivers and 2 consumers: "
    assert done.returncode == 1 and became in done.stderr
    assert plait(host, "scale", "wg0", "1").stdout == "wg0: receivers 1 -> 1, consumers 2 -> 1\n"


def test_scaled_there_and_back(engine: Engine) -> None:
    host = engine.host
    done = plait(host, "scale", "wg0", "+1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wg0: receivers 1 -> 2, consumers 1 -> 2\n"
    assert {"receiver 1", "consumer 1"} <= processes(engine).keys()
    assert plait(host, "scale", "wg0", "2").stdout == "wg0: receivers 2 -> 2, consumers 2 -> 2\n"
    assert plait(host, "scale", "--consumers", "wg0", "3").stdout == (
        "wg0: receivers 2 -> 2, consumers 2 -> 3\n"
    )
    # Beyond the room, below one, and no number: nothing is half done.
    before = processes(engine)
    room = "the memory was laid out for {0}, and {0} run. Raise ".format("2 receivers and 3 consumers")
    both = "max_receivers and max_consumers in /run/wg0.toml, then end the engine and start it."
    for count, words in (
        ("+1", f"cannot run 3 receivers and 4 consumers: {room}{both}"),
        ("3", f"cannot run 3 receivers and 3 consumers: {room}max_receivers in /run/wg0.toml, then "),
        ("257", "No engine has more than 256 of each"),
        ("0", "cannot run 0 receivers and 0 consumers: an engine has one of each at least. Ask for 1"),
        ("-2", "cannot run 0 receivers and 1 consumer: "),
    ):
        done = plait(host, "scale", "wg0", count)
        assert done.returncode == 1 and done.stdout == "" and words in done.stderr, (count, done)
        assert done.stderr.startswith("plait: ") and done.stderr.count("\n") == 1
    assert plait(host, "scale", "wg0", "many").returncode == 2
    assert processes(engine) == before
    done = plait(host, "scale", "--json", "wg0", "9")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["interface"] == "wg0" and "max_receivers" in told["refused"]["next"]
    # From another pid namespace, where the pids of the engine mean nothing.
    command = ["nsenter", "-t", str(host.pid), "-n", "-m", "plait", "scale", "--json", "wg0", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": search_path()})
    assert json.loads(done.stdout) == {
        "interface": "wg0",
        "refused": None,
        "before": {"receivers": 2, "consumers": 3},
        "after": {"receivers": 1, "consumers": 1},
    }
    assert processes(engine).keys() == {"supervisor 0", "control 0", "receiver 0", "consumer 0"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.format("def main(:"), "SyntaxError: "),
        (OTHER_LAYOUT, "cannot take over: the layout of its shared memory is not the one"),
        (None, "it cannot be started: No such file or directory"),
    ],
)
def test_refused(engine: Engine, text: str | None, words: str) -> None:
    before = processes(engine)
    install(engine.host, text)
    for arguments in (["--dry-run"], []):
        done = plait(engine.host, "upgrade", *arguments, "wg0")
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith(f"plait: not upgraded, everything goes on as it was: {PATH}: ")
        assert words in done.stderr and done.stderr.count("\n") == 1
    told = json.loads(plait(engine.host, "upgrade", "--json", "wg0").stdout)
    assert words in told["refused"]["why"]
    assert processes(engine) == before
    install(engine.host, GOOD.format(""))


def test_tried_then_upgraded(engine: Engine) -> None:
    host, before = engine.host, processes(engine)
    which = host.run(["plaitd", "--version"]).stdout.removeprefix("plaitd ").strip()
    install(host, NEW)
    done = plait(host, "upgrade", "--dry-run", "wg0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wg0: {PATH} can take over: it is plaitd {which}\n"
    assert processes(engine) == before and not program(host, before["supervisor 0"])
    done = plait(host, "upgrade", "wg0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wg0: upgraded, every process runs {PATH} {which}\n"
    after = processes(engine)
    assert after["supervisor 0"] == before["supervisor 0"] and after.keys() == before.keys()
    assert all(program(host, pid) for pid in after.values())
    shown = plait(host, "show", "--engine", "wg0").stdout
    assert f"\nplaitd: {which}\n" in shown
    told = json.loads(plait(host, "show", "--engine", "--json", "wg0").stdout)["wg0"]
    assert "{version} (memory layout {layout}, commit {commit})".format(**told) == which


def test_asked_twice_and_control_killed_meanwhile_is_one_upgrade(engine: Engine) -> None:
    host, output = engine.host, engine.process.output
    said = f"upgraded: every process runs {PATH}"
    before, pids = output().count(said), processes(engine)
    install(host, SLOW)
    askers = []
    for _ in range(3):
        asker = socket.socket(socket.AF_UNIX)
        asker.settimeout(120)
        asker.connect(str(engine.socket_path))
        asker.sendall(b"upgrade=1\n\n")
        assert asker.recv(64) == b"asked=1\n"
        askers.append(asker)
    askers.pop().close()  # who gives up changes nothing
    for _ in range(100):
        engine.process.signal(signal.SIGUSR2)
        time.sleep(0.001)  # else the kernel makes one of them
    eventually((host.root / "run/tried").exists)
    host.run(["kill", "-KILL", str(pids["control 0"])])
    eventually(lambda: "control starts again" in output())
    (host.root / "run/go").touch()
    for asker in askers:
        with asker, asker.makefile() as answer:
            change, errno, _ = answer.read().split("\n", 2)
        assert json.loads(change.removeprefix("change="))["refused"] is None and errno == "errno=0"
    after = processes(engine)
    assert after.keys() == pids.keys() and after["supervisor 0"] == pids["supervisor 0"]
    assert not set(after.values()) & (set(pids.values()) - {pids["supervisor 0"]})
    assert output().count(said) == before + 1
    assert plait(host, "scale", "wg0", "1").returncode == 0


def test_a_supervisor_that_cannot_describe_itself_stays_and_takes_signals(engine: Engine) -> None:
    """The program is fit, and then there is no descriptor for what it would be left."""
    host, output, before = engine.host, engine.process.output, processes(engine)
    for name in ("tried", "go"):
        (host.root / "run" / name).unlink(missing_ok=True)
    install(host, SLOW)
    engine.process.signal(signal.SIGUSR2)
    eventually((host.root / "run/tried").exists)
    pid = host.titles("wg0")["supervisor"]
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most[1]))
    (host.root / "run/go").touch()
    words = "not upgraded, everything goes on as it was: no file for the description: too many open files"
    eventually(lambda: words in output())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, most)
    engine.process.signal(signal.SIGUSR1)
    eventually(lambda: "SIGUSR1 means nothing here" in output())
    assert processes(engine) == before


def test_an_engine_that_ends_instead_is_told(lab: Lab) -> None:
    engine = lab.host("ends").engine("wg0", COMMAND, settings=SETTINGS)
    eventually(lambda: "is ready" in engine.process.output())
    install(engine.host, FAILING)
    done = plait(engine.host, "upgrade", "wg0")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "plait: wg0 cannot be changed: its engine ended before it told what became of it. See why in its "
        "log; `plait show interfaces` tells which engines run.\n"
    )
    assert engine.process.wait() == 3


def test_engines_that_do_not_know_it(lab: Lab) -> None:
    other, older = lab.add_hosts(["other", "older"])
    other.engine("wg0", WIREGUARD_GO)
    done = plait(other, "upgrade", "wg0")
    assert done.returncode == 1 and done.stderr == (
        "plait: wg0 cannot be changed by `plait upgrade`: its engine does not know what is asked. Is it an "
        "engine other than plaitd?\n"
    )
    older.engine("wg0", [sys.executable, "-P", "-c", OLDER, "-f", "{iface}"], settings=SETTINGS)
    done = plait(older, "scale", "wg0", "+1")
    assert done.returncode == 1 and done.stderr == (
        "plait: wg0 cannot be changed by `plait scale`: its engine is an older Plait, which does not know "
        "what is asked. Its supervisor takes signals: SIGTTIN and SIGTTOU add and take away one of each; "
        "`plait show --engine wg0` tells its pid.\n"
    )
    done = plait(older, "upgrade", "none0")
    assert done.returncode == 1 and "nobody listens on /var/run/wireguard/none0.sock" in done.stderr
