"""plaitd as wg-quick and people start it: the launcher contract, every start error, every end.

host (own network, processes, /run, /dev/shm)
  plaitd t0      nothing else: no cable, no peer
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.daemon import NO_LOG
from plait.lab.namespaces import Host, Lab, descriptors, search_path, title
from tests.support.waiting import PATIENCE, until
from workers.failure import Exit

pytestmark = pytest.mark.network

CONFIGS = Path(__file__).parents[3] / "configs"
NO_SYSLOG = f"plaitd: {NO_LOG.format(interface='t0')}\n"
SMALL = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("daemon")


@pytest.fixture(autouse=True)
def nothing_left(host: Host) -> Iterator[None]:
    """After each test the host is soon as it was: no process, interface, socket, shared memory."""
    (host.root / "run/small.toml").write_text(SMALL)
    yield
    with contextlib.suppress(AssertionError):
        until(lambda: not leftovers(host), "an end that leaves nothing", 20)
    left = leftovers(host)
    for row in host.usage():  # a test that failed shall not fail those behind it
        with contextlib.suppress(ProcessLookupError):
            os.kill(row.pid, signal.SIGKILL)
    shutil.rmtree(host.root / "run/wireguard", ignore_errors=True)
    until(lambda: not leftovers(host), "an empty host")
    assert left == []


def leftovers(host: Host) -> list[str]:
    found = [row.name for row in host.usage()] + os.listdir(host.root / "dev/shm")
    directory = host.root / "run/wireguard"
    found += os.listdir(directory) if directory.exists() else []
    return found + [
        line for line in host.run(["ip", "-o", "link"]).stdout.splitlines() if " lo: " not in line
    ]


def plaitd(
    host: Host, *arguments: str, around: str = "exec {}", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run plaitd to its end (in the background: until it returns). around: shell text."""
    command = around.format(shlex.join(["plaitd", *arguments]))
    environment = {"PLAIT_CONFIG": "/run/small.toml", **environment}
    return host.run(["unshare", "--mount", "sh", "-ec", command], environment=environment, check=False)


# -- the contract ------------------------------------------------------------------------------


def test_returns_when_ready_and_ends_with_its_interface(host: Host) -> None:
    result = plaitd(host, "t0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", NO_SYSLOG)
    shown = host.run(["wg", "show", "t0", "listen-port"]).stdout
    assert 0 < int(shown) < 65536
    assert "mtu 1420" in host.run(["ip", "link", "show", "t0"]).stdout

    def titles() -> list[str]:
        return sorted(map(title, host.pids()))

    who = ("consumer 0", "control", "receiver 0", "supervisor")
    until(lambda: titles() == [f"plait: t0 {each}" for each in who], "the engine's processes and no others")
    host.ip("link delete t0")
    until(lambda: not leftovers(host), "the end")


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "ip link delete", "rm socket"])
def test_every_clean_end(host: Host, way: str) -> None:
    engine = host.engine("t0", settings=SMALL)
    match way:
        case "ip link delete":
            host.ip("link delete t0")
        case "rm socket":
            (host.root / "run/wireguard/t0.sock").unlink()
        case name:
            engine.process.signal(signal.Signals[name])
    assert engine.process.wait() == 0, engine.process.output()
    assert leftovers(host) == []
    assert "Traceback" not in engine.process.output()


def test_end_while_up_with_a_peer(host: Host) -> None:
    engine = host.engine("t0", settings=SMALL)
    key = host.run(["wg", "genkey"]).stdout.strip()
    engine.wg("set", "t0", "private-key", "/dev/stdin", "peer", key, "allowed-ips", "10.0.0.0/8",
              "endpoint", "127.0.0.1:9", "persistent-keepalive", "1", text=key)  # fmt: skip
    host.ip("address add 10.0.0.1/24 dev t0", "link set t0 up")
    host.run(["ping", "-c", "1", "-W", "0.2", "10.0.0.2"], check=False)
    engine.process.signal(signal.SIGTERM)
    assert engine.process.wait() == 0, engine.process.output()


@pytest.mark.parametrize("role", ["control", "receiver 0", "consumer 0"])
def test_killed_worker_comes_back_and_wg_answers(host: Host, role: str) -> None:
    engine = host.engine("t0", settings=SMALL)
    key = host.run(["wg", "genkey"]).stdout.strip()
    engine.wg("set", "t0", "private-key", "/dev/stdin", text=key)
    before = engine.wg("showconf", "t0")

    until(lambda: role in host.titles("t0"), "its first process")
    first = host.titles("t0")[role]
    os.kill(first, signal.SIGKILL)
    until(lambda: host.titles("t0").get(role) not in (None, first), "its replacement")
    assert engine.wg("showconf", "t0") == before
    assert engine.stop() == 0


def test_wg_quick_brings_it_up_and_down(host: Host) -> None:
    if host.run(["ip", "link", "add", "probe0", "type", "wireguard"], check=False).returncode == 0:
        host.ip("link delete probe0")
        pytest.skip("this kernel has WireGuard itself, and wg-quick prefers it")
    key = host.run(["wg", "genkey"]).stdout.strip()
    (host.root / "run/t0.conf").write_text(f"[Interface]\nPrivateKey = {key}\nAddress = 10.9.0.1/24\n")
    (host.root / "run/t0.conf").chmod(0o600)
    environment = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "plaitd", "PLAIT_CONFIG": "/run/small.toml"}
    host.run(["wg-quick", "up", "/run/t0.conf"], environment=environment)
    assert key in host.run(["wg", "showconf", "t0"]).stdout
    assert "10.9.0.1/24" in host.run(["ip", "address", "show", "t0"]).stdout
    host.run(["wg-quick", "down", "/run/t0.conf"], environment=environment)
    until(lambda: not leftovers(host), "the end")


ADOPTED = """
import os, socket, sys
from workers.supervisor import tun
queues = tun.open_queues("t0", 1, 1)
os.makedirs("/run/wireguard", exist_ok=True)
sock = socket.socket(socket.AF_UNIX)
sock.bind("/run/wireguard/t0.sock")
sock.listen()
for fd in (queues[0], sock.fileno()):
    os.set_inheritable(fd, True)
os.environ.update(WG_TUN_FD=str(queues[0]), WG_UAPI_FD=str(sock.fileno()), WG_PROCESS_FOREGROUND="1")
os.execvp("plaitd", ["plaitd", "t0"])
"""


def test_inherited_tun_and_socket(host: Host) -> None:
    """One queue was given: one receiver, whatever the settings say."""
    process = host.popen(
        [sys.executable, "-c", ADOPTED],
        environment={"PLAIT_CONFIG": "", "LOG_LEVEL": "info"},
    )
    until(lambda: "t0 is ready" in process.output() or process.poll() is not None, "ready")
    assert process.poll() is None, process.output()
    assert host.run(["wg", "show", "t0", "listen-port"]).stdout.strip().isdigit()
    assert sum(name.startswith("receiver") for name in host.titles("t0")) == 1
    assert process.stop() == 0


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_starts(host: Host, config: Path) -> None:
    assert len(os.sched_getaffinity(0)) >= 2, "the examples are written for CPUs 0 and 1"
    result = plaitd(host, "t0", PLAIT_CONFIG=str(config), LOG_LEVEL="silent")
    assert (result.returncode, result.stderr) == (0, "")
    assert host.run(["wg", "show", "interfaces"]).stdout == "t0\n"
    host.ip("link delete t0")
    until(lambda: not leftovers(host), "the end")


def test_examples_are_three() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == {"one-core", "per-core", "gateway"}


# -- the command line --------------------------------------------------------------------------


def test_help_and_version(host: Host) -> None:
    told = plaitd(host, "--help")
    assert told.returncode == 0 and "examples:\n  plaitd wg0 " in told.stdout and "exit codes:" in told.stdout
    told = plaitd(host, "--version")
    assert told.returncode == 0 and told.stdout.startswith("plaitd 0.")
    for option in ("--help", "--version"):
        told = plaitd(host, option, around="exec {} >/dev/full")
        assert (told.returncode, told.stderr) == (1, (
            "plaitd: the output could not be written: No space left on device. "
            "Free some space there, or send the output to another place.\n"
        ))  # fmt: skip


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_at_the_start(host: Host, closed: str) -> None:
    told = plaitd(host, "t0", around=f"exec {{}} {closed}")
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == ("" if "2>" in closed else NO_SYSLOG)
    supervisor = host.titles("t0")["supervisor"]
    assert [name for fd, name in descriptors(supervisor).items() if fd <= 2] == ["/dev/null"] * 3
    host.ip("link delete t0")
    until(lambda: not leftovers(host), "the end")


@pytest.mark.parametrize("first", ["WG_LOG_FILE=t0.log", "OMP_NUM_THREADS=2"])
def test_titles_whatever_stands_first_in_the_environment(host: Host, first: str) -> None:
    """logrotate and administrators find the supervisor by its title (docs/observe.md)."""
    around = f"cd /run; exec env -i {first} PATH=$PATH PLAIT_CONFIG=/run/small.toml {{}}"
    assert plaitd(host, "t0", around=around).returncode == 0
    assert set(host.titles("t0")) == {"supervisor", "control", "receiver 0", "consumer 0"}
    host.ip("link delete t0")
    until(lambda: not leftovers(host), "the end")


@pytest.mark.parametrize("arguments", [[], ["--fore", "t0"], ["t0", "t1"]])
def test_wrong_command_line(host: Host, arguments: list[str]) -> None:
    told = plaitd(host, *arguments)
    assert told.returncode == Exit.USAGE and "usage: plaitd" in told.stderr


def test_log_file(host: Host) -> None:
    told = plaitd(host, "t0", WG_LOG_FILE="/run/t0.log", LOG_LEVEL="verbose")
    assert (told.returncode, told.stderr) == (0, "")
    log = host.root / "run/t0.log"
    assert "t0 is ready" in log.read_text() and log.stat().st_mode & 0o777 == 0o600
    host.ip("link delete t0")
    until(lambda: "nothing is left" in log.read_text(), "its last word")
    until(lambda: not leftovers(host), "the end")


def test_rotated_log_file(host: Host) -> None:
    """As logrotate does it: after the SIGHUP no process has the old file, and every one writes to the new."""
    log, old = host.root / "run/t0.log", host.root / "run/t0.log.1"
    assert plaitd(host, "t0", WG_LOG_FILE="/run/t0.log", LOG_LEVEL="verbose").returncode == 0
    log.rename(old)
    os.kill(host.titles("t0").get("supervisor", 0), signal.SIGHUP)
    until(lambda: log.exists() and "was reopened" in log.read_text(), "the new file")
    held = [name for row in host.usage() for name in open_files(row.pid)]
    assert "/run/t0.log" in held and "/run/t0.log.1" not in held
    before = old.read_text()
    os.kill(host.titles("t0").get("control", 0), signal.SIGABRT)
    until(lambda: "control is ready" in log.read_text(), "words of what happened since")
    host.ip("link delete t0")
    until(lambda: "nothing is left" in log.read_text(), "its last word")
    until(lambda: not leftovers(host), "the end")
    assert old.read_text() == before


def open_files(pid: int) -> list[str]:
    """Names of what a process has open."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


SYSLOG = """
cd /run; mkdir -p dev; mount -t tmpfs none dev; mkdir dev/net dev/shm; ln -s /run/log.sock dev/log
for each in null zero urandom random net/tun; do touch dev/$each; mount --bind /dev/$each dev/$each; done
mount --rbind dev /dev
exec {}
"""


def test_background_logs_to_syslog(host: Host) -> None:
    """A start that fails, and what happens later."""
    path = host.root / "run/log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        syslog.settimeout(PATIENCE)
        told = plaitd(host, "t0", around=SYSLOG, PLAIT_CONFIG="/run/none.toml")
        assert told.returncode == Exit.SETTINGS, told.stderr
        heard = syslog.recv(4096).decode()
        assert heard.startswith("<27>plaitd[") and "t0 supervisor: cannot read the settings file" in heard
        told = plaitd(host, "t0", around=SYSLOG)
        assert (told.returncode, told.stderr) == (0, "")
        while "]: t0 supervisor: t0 is ready, UDP port" not in heard:
            heard = syslog.recv(4096).decode()
        assert heard.startswith("<30>plaitd[")
        host.ip("link delete t0")
        while "nothing is left" not in syslog.recv(4096).decode():
            pass
    until(lambda: not leftovers(host), "the end")
    path.unlink()


def test_log_that_stands_still_holds_nobody_up(host: Host) -> None:
    """Stderr is a full pipe that nobody reads: starts, repairs, configuration and the end go on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * size)
    os.set_blocking(writer, True)
    command = ["nsenter", "-t", str(host.pid), "-n", "-m", "-p", "--", "plaitd", "--foreground", "t0"]
    environment = {"PATH": search_path(), "PLAIT_CONFIG": "/run/small.toml", "LOG_LEVEL": "debug"}
    engine = subprocess.Popen(command, stderr=writer, env={**os.environ, **environment})
    try:
        are_replaced(host)
        os.kill(host.titles("t0").get("supervisor", 0), signal.SIGTERM)
        assert engine.wait() == 0
    finally:
        engine.kill()
        engine.wait()
        os.close(writer)
        os.close(reader)


def test_syslog_that_stands_still_holds_nobody_up(host: Host) -> None:
    """It is there and takes nothing: its socket is full."""
    path = host.root / "run/log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
            other.setblocking(False)
            while True:
                other.sendto(b"of another", str(path))
        told = plaitd(host, "t0", around=SYSLOG)
        assert (told.returncode, told.stderr) == (0, "")
        are_replaced(host)
        os.kill(host.titles("t0").get("supervisor", 0), signal.SIGTERM)
        until(lambda: not leftovers(host), "the end")
    path.unlink()


def are_replaced(host: Host) -> None:
    """Kill one of each kind: each is replaced, and the engine answers."""
    until(lambda: all_run(host), "all of them")
    for each in ("receiver 0", "consumer 0", "control"):
        pid = until(lambda each=each: host.titles("t0").get(each), each)
        os.kill(pid, signal.SIGKILL)
        until(lambda each=each, pid=pid: host.titles("t0").get(each, pid) != pid, f"the next {each}")
    until(lambda: answers(host), "an answer of the next control")


def all_run(host: Host) -> bool:
    told = host.run(["plait", "show", "--engine", "--json", "t0"], check=False)
    if told.returncode:
        return False
    states = [row["state"] for row in json.loads(told.stdout)["t0"]["processes"]]
    return states == ["running"] * 4


def answers(host: Host) -> bool:
    """Whether t0 does, to wg."""
    return host.run(["wg", "show", "t0", "listen-port"], check=False).returncode == 0


# -- start errors: one sentence, the code, and nothing left -------------------------------------

TMPFS = "mount -t tmpfs -o size={} none /dev/shm; "
# name, shell around plaitd, environment, exit code, words
NO_SHM = "of /dev/shm, which has 4 MiB free; enlarge it (mount -o remount,size="
NO_TUN = "cannot create the interface t0: "
BAD = "printf 'receivers = 1\\nconsumers = 999\\n' > /run/bad.toml; exec {}"
OF_ANOTHER = "ip tuntap add dev t0 mode tun user 12345; trap 'ip link delete t0' EXIT"
WITHOUT_RIGHT = "setpriv --bounding-set -net_admin {}"
ERRORS: list[tuple[str, str, dict[str, str], Exit, str]] = [
    ("taken name", "ip link add t0 type veth peer other0; trap 'ip link delete t0' EXIT; {}", {},
     Exit.INTERFACE, NO_TUN + "an interface of that name exists already, of kind veth, and only a TUN "),
    ("a TAP", "ip tuntap add dev t0 mode tap; trap 'ip link delete t0' EXIT; {}", {},
     Exit.INTERFACE, NO_TUN + "an interface of that name exists already, a TAP, and only a TUN can "),
    ("a TUN of another user", f"{OF_ANOTHER}; {WITHOUT_RIGHT}", {},
     Exit.PRIVILEGE, "cannot use the interface t0: it belongs to user 12345, and this user may not use "),
    ("no TUN device", "mount -t tmpfs none /dev/net; exec {}", {},
     Exit.INTERFACE, NO_TUN + "this host has no usable /dev/net/tun; "),
    ("loopback", "ip link set lo name t0; trap 'ip link set t0 name lo' EXIT; {}", {},
     Exit.INTERFACE, NO_TUN + "an interface of that name exists already, no TUN, and only a TUN can be "
     "adopted; choose another name\n"),
    ("no capability", "exec setpriv --bounding-set -net_admin {}", {},
     Exit.PRIVILEGE, NO_TUN + "/dev/net/tun refuses this user"),
    ("small /dev/shm", TMPFS.format("4m") + "exec {}", {"PLAIT_CONFIG": ""}, Exit.MEMORY, NO_SHM),
    ("full /dev/shm", TMPFS.format("64m") + "head -c 60M /dev/zero > /dev/shm/x; exec {}",
     {"PLAIT_CONFIG": ""}, Exit.MEMORY, NO_SHM),
    ("bad settings", BAD, {"PLAIT_CONFIG": "/run/bad.toml"},
     Exit.SETTINGS, "/run/bad.toml, line 2: cannot use `consumers = 999`: expected int <= 256; "),
    ("no settings", "exec {}", {"PLAIT_CONFIG": "/run/none.toml"},
     Exit.SETTINGS, "cannot read the settings file /run/none.toml: No such file or directory; write that "
     "file, or unset PLAIT_CONFIG "),
    ("read-only /run", "mount --bind /run /run; mount -o remount,bind,ro /run; exec {}", {},
     Exit.UAPI, "cannot listen at /var/run/wireguard/t0.sock: Read-only file system; mount "),
    ("bad name", "exec {}x/y", {}, Exit.USAGE, "cannot use the interface name 't0x/y': "),
    ("pattern as name", "exec {}%d", {}, Exit.USAGE, "cannot use the interface name 't0%d': "),
    ("no such fd", "exec {}", {"WG_TUN_FD": "77"}, Exit.USAGE, "cannot use WG_TUN_FD=77: "),
    ("not a TUN", "exec {} 9</dev/null", {"WG_TUN_FD": "9"},
     Exit.INTERFACE, "cannot use the TUN queue given as WG_TUN_FD=9: "),
    ("not a socket", "exec {} 9</dev/null", {"WG_UAPI_FD": "9"},
     Exit.UAPI, "cannot use the UAPI socket given as WG_UAPI_FD=9: "),
    ("no log file", "exec {}", {"WG_LOG_FILE": "/none/t0.log"},
     Exit.USAGE, "cannot write the log file /none/t0.log: "),
    ("worker", "exec {}", {"PLAIT_CLOCK": "/none"},
     Exit.WORKER, " process cannot start: ValueError: PLAIT_CLOCK=/none"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["background", "foreground"])
@pytest.mark.parametrize(
    ("around", "environment", "code", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_start_error(
    host: Host, mode: str, around: str, environment: dict[str, str], code: Exit, words: str
) -> None:
    arguments = ["--foreground", "t0"] if mode == "foreground" else ["t0"]
    told = plaitd(host, *arguments, around=around, **{"LOG_LEVEL": "silent", **environment})
    assert told.returncode == code, told.stderr
    sentences = [line for line in told.stderr.splitlines() if line.startswith("plaitd: ")]
    if mode == "background" or code != Exit.WORKER:  # in the foreground a worker shows its traceback too
        assert told.stderr.splitlines() == sentences
    assert len(sentences) == 1 and words in f"{sentences[0]}\n", told.stderr
    assert sentences[0].count("; ") >= 1 and told.stdout == ""


def test_default_fits_64_mib(host: Host) -> None:
    """A container's usual /dev/shm is enough for what plaitd takes without any settings."""
    around = TMPFS.format("64m") + "{} && wg show t0 listen-port && ip link delete t0"
    told = plaitd(host, "t0", around=around, PLAIT_CONFIG="", LOG_LEVEL="silent")
    assert (told.returncode, told.stderr) == (0, "") and told.stdout.strip().isdigit()
    until(lambda: not leftovers(host), "the end")


def test_nobody_is_not_allowed(host: Host) -> None:
    # Files are left open to it: a checkout may be closed to other users, and is built on import.
    drop = (
        "setpriv --reuid 65534 --regid 65534 --clear-groups "
        "--inh-caps -all,+dac_override --ambient-caps -all,+dac_override "
    )
    told = plaitd(host, "t0", around="exec " + drop + "{}")
    assert told.returncode == Exit.PRIVILEGE and "run plaitd as root" in told.stderr


def test_second_engine_of_a_name(host: Host) -> None:
    engine = host.engine("t0", settings=SMALL)
    told = plaitd(host, "t0")
    assert told.returncode == Exit.INTERFACE and "exists already" in told.stderr
    assert engine.wg("show", "interfaces") == "t0\n"
    assert engine.stop() == 0


def test_live_socket_of_another_namespace(host: Host) -> None:
    """/var/run/wireguard is shared by namespaces of the network alone: the name is in use there."""
    engine = host.engine("t0", settings=SMALL)
    told = plaitd(host, "t0", around="exec unshare --net {}")
    assert told.returncode == Exit.UAPI
    assert told.stderr.startswith(
        "plaitd: cannot listen at /var/run/wireguard/t0.sock: a running engine for t0 "
    )
    assert engine.wg("show", "interfaces") == "t0\n"
    assert engine.stop() == 0


def test_stale_socket_is_replaced(host: Host) -> None:
    (host.root / "run/wireguard").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(host.root / "run/wireguard/t0.sock"))
    assert plaitd(host, "t0").returncode == 0
    assert host.run(["wg", "show", "interfaces"]).stdout == "t0\n"
    host.ip("link delete t0")
    until(lambda: not leftovers(host), "the end")


def test_taken_port(host: Host) -> None:
    engine = host.engine("t0", settings=SMALL)
    before = engine.uapi("get=1\n\n")
    bind = (
        "import signal, socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 0));"
        "print(s.getsockname()[1], flush=True); signal.pause()"
    )
    holder = host.popen([sys.executable, "-c", bind])
    until(lambda: holder.output().strip(), "a port")
    told = host.run(["wg", "set", "t0", "listen-port", holder.output().strip()], check=False)
    assert told.returncode != 0 and "Address already in use" in told.stderr
    until(lambda: "another program uses it; choose another port" in engine.process.output(), "the line")
    assert engine.uapi("get=1\n\n") == before
    holder.close()
    assert engine.stop() == 0
