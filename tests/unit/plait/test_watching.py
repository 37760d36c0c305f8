"""Commands that ask several engines, where some cannot be asked: these are left out, the rest is shown.

host a   wg0, wg2 -- plaitd   wg1 -- wireguard-go   and sockets of programs that are no engines
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plait import uapi_client
from plait.failure import Failure
from plait.lab.namespaces import WIREGUARD_GO, Host, Lab, Peer, keypair
from plait.watch import engines
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network

SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 128\ntrain_slots = 4\n"

# Sockets by what is wrong with them; argv: the directory, then the kinds that are wanted.
SERVER = """
import os, socket, sys, threading
ANSWERS = {
    "closes": {},
    "refuses": dict.fromkeys(("get", "get_engine", "get_busiest", "events"), b"errno=1\\n\\n"),
    "cut": {"get": b"private_key=" + b"1" * 64 + b"\\nlisten_port=51", "get_engine": b'engine={"aead": "x',
            "events": b"event={"},
    "http": dict.fromkeys(("get", "get_engine", "events"), b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n"),
    "binary": dict.fromkeys(("get", "get_engine", "events"), b"\\xff\\xfe\\n\\n"),
    "shapes": {"get": b"private_key=zz\\nerrno=0\\n\\n", "get_engine": b'engine={"aead": 7}\\nerrno=0\\n\\n',
               "events": b'event={"life": "x"}\\nerrno=0\\n\\n'},
    "numbers": {"get": b"listen_port=many\\nerrno=0\\n\\n", "get_engine": b"engine=[]\\nerrno=0\\n\\n",
                "events": b"event={}\\nerrno=0\\n\\n"},
}
connections = []

def answer(kind, connection):
    try:
        asked = connection.recv(4096).split(b"=")[0].decode()
        if kind == "hung":
            connections.append(connection)
            return
        while kind == "endless":
            connection.sendall(b"a" * 65536)
        connection.sendall(ANSWERS[kind].get(asked, b""))
    except OSError:
        pass
    connection.close()

def serve(kind, listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(kind, connection), daemon=True).start()

for kind in sys.argv[2:]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(sys.argv[1], kind + ".sock"))
    if kind == "stale":
        listener.close()
        continue
    listener.listen(0 if kind == "full" else 64)
    if kind == "full":
        connections.append(listener)
        try:
            while True:  # until the kernel queues no more
                connections.append(socket.socket(socket.AF_UNIX))
                connections[-1].setblocking(False)
                connections[-1].connect(os.path.join(sys.argv[1], "full.sock"))
        except BlockingIOError:
            continue
    threading.Thread(target=serve, args=(kind, listener), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
threading.Event().wait()
"""
QUICK = ("binary", "closes", "cut", "endless", "http", "numbers", "refuses", "shapes", "stale")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        made = lab.host("a")
        started = [
            made.engine("wg0", settings=SETTINGS, wait=False),
            made.engine("wg1", WIREGUARD_GO, wait=False),
            made.engine("wg2", settings=SETTINGS, wait=False),
        ]
        for number, engine in enumerate(started):
            engine.wait_ready()
            engine.configure(keypair()[0], [Peer(keypair()[1], [f"10.7.{number}.0/24"])])
        yield made


@pytest.fixture
def ask(host: Host) -> Callable[..., tuple[int, str, str]]:
    """A command in the host: exit code, stdout, stderr. before: what starts it."""

    def run(*arguments: str, before: Sequence[str] = ()) -> tuple[int, str, str]:
        done = host.run([*before, "plait", *arguments], check=False)
        return done.returncode, done.stdout, done.stderr

    return run


# What the last of argv scrapes told: {family: [[labels, value], ...]}, stamps left out.
COLLECT = """
import json, sys
from plait.watch.exporter import Engines
collector = Engines(None, fresh=0)
for _ in range(int(sys.argv[1])):
    found = list(collector.collect())
print(json.dumps({each.name: [[sample.labels, sample.value] for sample in each.samples
                              if not sample.name.endswith("_created")] for each in found}))
"""


Samples = list[tuple[dict[str, str], float]]
# What is started by it finds other sockets than those of the engines, which must stay where they are.
ELSEWHERE = ["unshare", "--mount", "sh", "-c",
             'mount --bind /run/elsewhere /run/wireguard && exec "$@"', "sh"]  # fmt: skip


def collected(host: Host, times: int = 1, before: Sequence[str] = ()) -> tuple[dict[str, Samples], str]:
    """By the exporter's collector, and what it said on stderr."""
    done = host.run([*before, sys.executable, "-c", COLLECT, str(times)])
    return json.loads(done.stdout), done.stderr


@contextlib.contextmanager
def served(host: Host, *kinds: str, directory: str = "/run/wireguard") -> Iterator[None]:
    """Those sockets, beside the engines as a rule."""
    process = host.popen([sys.executable, "-c", SERVER, directory, *kinds])
    eventually(lambda: "ready" in process.output())
    try:
        yield
    finally:
        process.signal(signal.SIGKILL)
        process.wait()
        for kind in kinds:
            os.unlink(host.root / directory.lstrip("/") / f"{kind}.sock")


def lines_of(error: str) -> dict[str, str]:
    """What stderr says, by interface; each line is one sentence of three parts."""
    found: dict[str, str] = {}
    for line in error.splitlines():
        _, name, words = line.split(" ", 2)
        assert line.startswith("plait: ") and name not in found, error
        assert ": " in words and ". " in words, line
        for raw in ("Errno", "Traceback", "codec", "invalid literal"):
            assert raw not in line
        found[name] = words
    return found


FOREIGN = "its engine does not know the question; it is another program than plaitd, or an older plaitd. "
ASKED = {  # arguments -> the interfaces that are in the output
    ("show",): lambda out: [line.split()[1] for line in out.splitlines() if line.startswith("interface")],
    ("show", "--json"): lambda out: [each["interface"] for each in json.loads(out)],
    ("show", "all", "listen-port"): lambda out: [line.split("\t")[0] for line in out.splitlines()],
    ("show", "interfaces"): lambda out: out.split(),
    ("show", "--engine"): lambda out: [
        line.split()[1] for line in out.splitlines() if line.startswith("interface")
    ],
    ("show", "--engine", "--json"): lambda out: list(json.loads(out)),
    ("top", "--once", "--interval", "0.5"): lambda out: [
        line.split()[0] for line in out.splitlines() if " peers, " in line
    ],
    ("top", "--json", "--interval", "0.5"): lambda out: [each["interface"] for each in json.loads(out)],
    ("events", "--no-follow", "--json"): lambda out: sorted(
        {json.loads(line)["interface"] for line in out.splitlines()}
    ),
}
OF_PLAITD = [arguments for arguments in ASKED if arguments[0] != "show" or "--engine" in arguments]


@pytest.mark.parametrize("arguments", ASKED, ids=" ".join)
def test_an_engine_of_another_make_is_left_out_of_what_it_cannot_tell(
    ask: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...]
) -> None:
    code, out, err = ask(*arguments)
    assert code == 0, err
    if arguments in OF_PLAITD:
        assert ASKED[arguments](out) == ["wg0", "wg2"]
        assert list(lines_of(err)) == ["wg1"] and FOREIGN in err and "plait show wg1" in err
    else:
        assert ASKED[arguments](out) == ["wg0", "wg1", "wg2"] and err == ""


def test_everything_else_that_answers_wrong_is_left_out(
    host: Host, ask: Callable[..., tuple[int, str, str]]
) -> None:
    with served(host, *QUICK):
        for arguments, found in ASKED.items():
            code, out, err = ask(*arguments)
            assert code == 0, err
            said = lines_of(err)
            if arguments == ("show", "interfaces"):
                assert found(out) == sorted({*QUICK, "wg0", "wg1", "wg2"} - {"stale"})
                assert list(said) == ["stale"]
                continue
            assert found(out) == (["wg0", "wg2"] if arguments in OF_PLAITD else ["wg0", "wg1", "wg2"])
            assert list(said) == [*QUICK, "wg1"] if arguments in OF_PLAITD else [*QUICK], err
            assert "nobody listens on" in said["stale"] and "plaitd stale" in said["stale"]
            assert "the answer ended early" in said["closes"] and "ended early" in said["cut"]
            assert "answered Operation not permitted (EPERM)" in said["refuses"]
            assert "no key=value" in said["http"] and "not text" in said["binary"]
            assert "a line without an end" in said["endless"]
            assert "cannot be understood" in said["shapes"] and "cannot be understood" in said["numbers"]
            assert "zz" not in err, "what stands for a secret is not told"


# The reader of stdout leaves when something was said on stderr, which is shown; then the exit code.
READER_LEAVES = """
mkfifo /run/told /run/said
plait events hung >/run/told 2>/run/said &
exec 4</run/told
read -r line </run/said; echo "$line"
exec 4<&-
wait $!; echo $?
rm /run/told /run/said
"""


def test_engines_that_hang_do_not_hold_up_the_others(
    host: Host, ask: Callable[..., tuple[int, str, str]]
) -> None:
    """All at once: each waits as long as `engines.PATIENCE`."""
    with served(host, "full", "hung"), ThreadPoolExecutor(4) as pool:
        shown = {
            arguments: pool.submit(ask, *arguments)
            for arguments in (("show", "--json"), ("show", "--engine", "--json"))
        }
        scraped = pool.submit(collected, host)
        followed = pool.submit(host.run, ["bash", "-c", READER_LEAVES])
        for arguments, answer in shown.items():
            code, out, err = answer.result()
            assert code == 0 and {"wg0", "wg2"} <= set(ASKED[arguments](out)), err
            said = lines_of(err)
            within = f"no answer came within {engines.PATIENCE:.0f} s"
            assert within in said["full"] and "no answer came" in said["hung"]
        up = {labels["interface"]: value for labels, value in scraped.result()[0]["plait_up"]}
        assert up == {"full": 0, "hung": 0, "wg0": 1, "wg2": 1}
        line, code_of_follower = followed.result().stdout.splitlines()
        assert line.startswith(f"plait: hung tells nothing: no event came within {engines.PATIENCE:.0f} s. ")
        assert code_of_follower == "1"


def test_who_follows_events_ends_with_the_reader(host: Host) -> None:
    piped = host.run(["bash", "-c", "plait events wg0 | head -n 1; echo ${PIPESTATUS[0]}"], timeout=30)
    assert piped.stdout.splitlines()[-1] == "1" and piped.stderr == ""


def test_one_that_is_asked_alone_or_none_that_can_be_asked_fails(
    host: Host, ask: Callable[..., tuple[int, str, str]]
) -> None:
    for arguments in (
        ["show", "--engine", "wg1"], ["top", "--json", "wg1"], ["events", "--no-follow", "wg1"],
        ["events", "wg1"],
    ):  # fmt: skip
        code, out, err = ask(*arguments)
        assert (code, out) == (1, "") and list(lines_of(err)) == ["wg1"] and FOREIGN in err
    (host.root / "run/elsewhere").mkdir(exist_ok=True)
    with served(host, "closes", "stale", directory="/run/elsewhere"):
        for arguments in (["show"], ["show", "--engine"], ["top", "--once"], ["events"]):
            code, out, err = ask(*arguments, before=ELSEWHERE)
            *each, last = err.splitlines()
            assert (code, out) == (1, "") and sorted(line.split()[1] for line in each) == ["closes", "stale"]
            assert last.startswith("plait: there is nothing to show: none of 2 engines could be asked. ")


def test_who_may_not_ask_is_told_so(host: Host) -> None:
    program = (
        "import os, shutil, rich.console, msgspec\n"  # not all users may read this Python
        "from plait.watch import engine, parted_table, show, top\n"
        "from plait import command\nos.setgid(65534); os.setuid(65534)\ncommand.main()"
    )
    for arguments in (["show"], ["show", "--engine"], ["top", "--once"]):
        done = host.run([sys.executable, "-c", program, *arguments], check=False)
        assert (done.returncode, done.stdout) == (1, "")
        *each, last = done.stderr.splitlines()
        assert [line.split()[1] for line in each] == ["wg0", "wg1", "wg2"]
        assert all("is root's. Run this as root." in line for line in each) and "nothing to show" in last
    (host.root / "run/wireguard").chmod(0o700)
    try:
        done = host.run([sys.executable, "-c", program, "show"], check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "/var/run/wireguard may not be read by this user. Run this as root." in done.stderr
    finally:
        (host.root / "run/wireguard").chmod(0o755)


def test_the_exporter_tells_peers_of_engines_of_every_make_and_says_each_lack_once(host: Host) -> None:
    with served(host, "refuses", "stale", "shapes"):
        found, err = collected(host, times=2)
    up = {labels["interface"]: value for labels, value in found["plait_up"]}
    assert up == {"refuses": 0, "shapes": 0, "stale": 0, "wg0": 1, "wg2": 1}
    assert [labels["interface"] for labels, _ in found["wireguard_sent_bytes"]] == ["wg0", "wg1", "wg2"]
    assert {labels["interface"] for labels, _ in found["plait_peers"]} == {"wg0", "wg2"}
    said = lines_of(err)  # which asserts that no name comes twice
    assert sorted(said) == ["refuses", "shapes", "stale", "wg1"]
    without = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
    assert list(collected(host, before=without)[0]) == ["plait_up", "plait_exporter_ask_seconds"]


# --- engines that come and go while they are watched ---------------------------------------------


def test_events_are_followed_of_engines_that_come_and_go(host: Host) -> None:
    with served(host, "stale", "http"):
        follower = host.popen(["plait", "events", "--json"])

        def shown(interface: str) -> list[str]:
            lines = [json.loads(line) for line in follower.output().splitlines() if line.startswith("{")]
            return [line["event"] for line in lines if line["interface"] == interface]

        eventually(lambda: "started" in shown("wg0") and "started" in shown("wg2"), 30)
        for _ in range(2):
            told = len(shown("wg3"))
            engine = host.engine("wg3", settings=SETTINGS)
            eventually(lambda told=told: "started" in shown("wg3")[told:], 30)  # type: ignore[misc]
            host.ip("link delete wg3")
            engine.process.wait()
            eventually(lambda told=told: "ending" in shown("wg3")[told:], 30)  # type: ignore[misc]
        host.run(["wg", "set", "wg0", "listen-port", "51999"])
        eventually(lambda: "listen_port_changed" in shown("wg0"))
        follower.signal(signal.SIGINT)
        assert follower.wait() == 0
    said = [line for line in follower.output().splitlines() if not line.startswith("{")]
    assert sorted(line.split()[1] for line in said if "ended" not in line) == ["http", "stale", "wg1"]
    assert [line for line in said if "ended" in line] == ["plait: the engine of wg3 has ended"] * 2
    assert shown("wg3").count("started") == 2 and shown("wg0").count("started") == 1


# A terminal of argv[2] columns on which a command runs; what it shows goes to the file argv[1], and what is
# written into FIFO argv[1].keys is typed.
TERMINAL = """
import fcntl, os, pty, select, struct, sys, termios
child, fd = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, int(sys.argv[2]), 0, 0))
    os.environ.update(TERM="xterm", NO_COLOR="1")
    os.environ.pop("COLUMNS", None)
    os.execvp(sys.argv[3], sys.argv[3:])
keys = os.open(sys.argv[1] + ".keys", os.O_RDWR)
seen = open(sys.argv[1], "wb", buffering=0)
while True:
    ready = select.select([fd, keys], [], [])[0]
    if keys in ready:
        os.write(fd, os.read(keys, 100))
    if fd in ready:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        seen.write(data)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Terminal:
    """A command on a terminal in the host."""

    def __init__(self, host: Host, columns: int, *arguments: str) -> None:
        self.file = host.root / f"run/terminal{time.monotonic_ns()}"
        self.keys = Path(f"{self.file}.keys")
        os.mkfifo(self.keys)
        inside = f"/run/{self.file.name}"
        self.process = host.popen([sys.executable, "-c", TERMINAL, inside, str(columns), *arguments])
        self.at = 0

    def seen(self) -> str:
        """What was written on it since `forget`."""
        with contextlib.suppress(FileNotFoundError):
            return self.file.read_bytes()[self.at :].decode(errors="replace").replace("\r\n", "\n")
        return ""

    def forget(self) -> None:
        self.at = self.file.stat().st_size

    def expect(self, *words: str) -> None:
        def are_there() -> bool:
            seen = " ".join(self.seen().split())
            return all(word in seen for word in words)

        try:
            eventually(are_there, 30)
        except AssertionError:
            raise AssertionError((words, self.seen()[-3000:], self.process.output())) from None

    def type(self, key: str) -> None:
        self.forget()
        self.keys.write_bytes(key.encode())


def test_the_live_view_goes_on_when_engines_cannot_be_asked_and_come_back(host: Host) -> None:
    engine = host.engine("wg3", settings=SETTINGS)
    with served(host, "http"):
        live = Terminal(host, 160, "plait", "top")
        live.expect("wg0 1 peers", "http cannot be understood", "wg1 does not tell its inside", "q quit")
        live.type("\t")
        live.expect("wg2 1 peers")  # wg1 is passed over
        live.type("\t")
        live.expect("wg3 0 peers")
        live.forget()  # what does not change is not drawn again
        host.ip("link delete wg3")
        engine.process.wait()
        live.expect("wg3 cannot be asked: nobody listens on", "wg3 0 peers")
        live.forget()
        host.engine("wg3", settings=SETTINGS)
        eventually(lambda: "wg3 0 peers" in " ".join(live.seen().split())
                   and "nobody listens" not in live.seen().rpartition("wg3")[2])  # fmt: skip
        live.type("q")
        assert live.process.wait() == 0, live.process.output()
    host.ip("link delete wg3")
    alone = Terminal(host, 80, "plait", "top", "wg1")
    assert alone.process.wait() == 1
    assert "plait: wg1 does not tell its inside: " in alone.seen()


# --- the terminal's width ------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_fit_the_terminal_and_lose_no_figure(host: Host, columns: int) -> None:
    commands = {
        "show": ["plait", "show", "--engine", "wg0"],
        "top": ["plait", "top", "--once", "--interval", "0.5", "wg0"],
        "doctor": ["plait", "doctor"],
    }
    terminals = {name: Terminal(host, columns, *arguments) for name, arguments in commands.items()}
    for terminal in terminals.values():
        terminal.process.wait()
    seen = {name: terminal.seen() for name, terminal in terminals.items()}
    for text in seen.values():
        assert max(map(len, text.splitlines())) <= columns, text
    report = json.loads(host.run(["plait", "show", "--engine", "--json", "wg0"]).stdout)["wg0"]
    assert "…" not in seen["show"]
    words = seen["show"].split()
    for process in report["processes"]:
        assert process["role"] in words and str(process["pid"]) in words
    for pool in report["pools"]:
        assert str(pool["home"]) in words or str(pool["home"] - 1) in words, pool
    for kind in ("idle", "session"):
        assert f"{sum(report['bytes_per_peer'][kind].values()):,.1f}" in words
    assert "PROCESS" in seen["top"] and "receiver 0" in seen["top"]
    piped = host.run(["plait", "doctor"], check=False).stdout
    assert letters(seen["doctor"]) == letters(piped), "nothing is cut"
    if columns == 40:
        assert max(map(len, piped.splitlines())) > 40


def letters(text: str) -> str:
    """Without blanks, and without numbers, which change from one look to the next."""
    return re.sub(r"[\s0-9]", "", text)


# --- output that cannot be written ---------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    "show", "show --json", "show wg0 listen-port", "show --engine", "top --once --interval 0.5 wg0",
    "events --no-follow", "events wg0",
])  # fmt: skip
def test_output_that_cannot_be_written_is_a_sentence(host: Host, arguments: str) -> None:
    script = (
        f"plait {arguments} >/dev/full; echo $?; plait {arguments} >&-; echo $?; "
        f"plait {arguments} | true; echo ${{PIPESTATUS[0]}}"
    )
    done = host.run(["bash", "-c", script])
    assert done.stdout.split()[:2] == ["1", "1"] and done.stdout.split()[2] in ("0", "1")
    said = [line for line in done.stderr.splitlines() if "wg1 does not tell" not in line]
    assert said == [
        "plait: the output could not be written: No space left on device. "
        "Free some space there, or send the output to another place.",
        "plait: the output could not be written: standard output is not open for writing. "
        "Leave `>&-` out; `>/dev/null` drops the output.",
    ]


def test_messages_that_cannot_be_written_are_dropped(host: Host) -> None:
    done = host.run(["bash", "-c", "plait show --engine --json 2>/dev/full; plait show --engine --json 2>&-"])
    first, second = done.stdout.strip().split("}\n{")
    assert [sorted(json.loads(text)) for text in (first + "}", "{" + second)] == [["wg0", "wg2"]] * 2
    exporter = host.popen(["bash", "-c", "exec plait exporter --listen 127.0.0.1:9700 2>/dev/full"])
    host.wait_listening(9700, exporter)
    read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9700/metrics').status)"
    assert host.run([sys.executable, "-c", read]).stdout == "200\n"
    assert exporter.stop() == 0


def test_a_failure_that_is_none_of_ours_is_not_hidden() -> None:
    def wrong(name: str, patience: float) -> str:
        if name == "b":
            raise LookupError("a fault of the program")
        return name

    with pytest.raises(LookupError):
        list(engines.ask(["a", "b"], wrong))
    with pytest.raises(Failure):
        list(engines.ask(["a", "b"], lambda name, patience: uapi_client.get("no such interface")))
