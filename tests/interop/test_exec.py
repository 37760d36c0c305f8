"""`plait exec` as a user without any privilege, against an engine in another host of a lab."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Engine, Lab, Link, Peer, Process, keypair, state
from plait.watch.processes import GONE, children
from tests.support.unprivileged import UNPRIVILEGED, USER, open_to_all
from tests.support.waiting import until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
PLAIT = str(Path(sys.executable).parent / "plait")
CONF = "/run/wgx.conf"
SERVER = "10.9.0.1"
SERVER6 = "fd09::1"
LOOP = ("sh", "-c", "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.05; done")
PAGE = f"""
import http.server, socket, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"page for {{self.client_address[0]}}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("{SERVER}", 53))
threading.Thread(target=http.server.ThreadingHTTPServer(("{SERVER}", 80), Page).serve_forever).start()
threading.Thread(target=Six(("{SERVER6}", 80), Page).serve_forever).start()
print("up", flush=True)
while True:
    query, sender = names.recvfrom(512)
    print("asked", sender[0], query[12:].split(b"\\0")[0], flush=True)
    names.sendto(query[:2] + b"\\x81\\x83" + query[4:], sender)
"""
FETCH = f"""
import urllib.request
for place in ("{SERVER}", "[{SERVER6}]"):
    print(urllib.request.urlopen(f"http://{{place}}/").read().decode())
"""


class Scene:
    """A client whose user has no privilege, a server with an engine, a page and a name server inside."""

    def __init__(self, lab: Lab) -> None:
        self.client, self.server = lab.add_hosts(["client", "server"])
        self.cable: Link = lab.link(self.client, self.server)
        (private, public), (self.key, theirs) = keypair(), keypair()
        self.engine: Engine = self.server.engine("wg0", settings="receivers = 1\nconsumers = 1\n")
        peers = [Peer(public, ["10.9.0.2/32", "fd09::2/128"])]
        self.engine.configure(self.key, peers, [f"{SERVER}/24", f"{SERVER6}/64"], 51820)
        self.page: Process = self.server.popen([sys.executable, "-I", "-S", "-c", PAGE])
        until(lambda: "up" in self.page.output(), "the page")
        self.file = self.client.root / CONF.lstrip("/")
        self.text = (
            f"[Interface]\nPrivateKey = {private}\nAddress = 10.9.0.2/24, fd09::2/64\n"
            f"DNS = {SERVER}, inside.test\n"
            f"[Peer]\nPublicKey = {theirs}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
            f"Endpoint = {self.cable.endpoint(self.server, 51820)}\n"
        )
        self.write(self.text)
        open_to_all(self.client, Path(sys.base_prefix), Path(sys.prefix), ROOT)
        self.client.run(["sh", "-ec", "mknod /run/tun c 10 200; mount --bind /run/tun /dev/net/tun"])
        self.tun_mode(0o666)

    def write(self, text: str) -> None:
        self.file.write_text(text)
        os.chown(self.file, USER, USER)
        self.file.chmod(0o600)

    def tun_mode(self, mode: int) -> None:
        self.client.run(["chmod", f"{mode:o}", "/run/tun"])

    def exec(self, *command: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        done = self.client.run([*UNPRIVILEGED, PLAIT, "exec", CONF, "--", *command], check=False)
        return done.returncode, done.stdout, done.stderr

    def popen(self, *command: str) -> Process:
        return self.client.popen([*UNPRIVILEGED, PLAIT, "exec", CONF, "--", *command])


def tree(pid: int) -> list[int]:
    """A process and all below it, whatever pid namespaces they are in."""
    found = [pid]
    for each in found:
        try:
            found += children(each)
        except GONE:
            continue
    return found


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


def test_a_page_comes_through_the_tunnel_and_the_program_has_no_other_network(scene: Scene) -> None:
    code, out, err = scene.exec(sys.executable, "-I", "-S", "-c", FETCH)
    assert (code, out, err) == (0, "page for 10.9.0.2\npage for fd09::2\n", "")
    look = "id -u; ip -o link | wc -l; ip link add x type dummy 2>/dev/null || echo refused"
    code, out, err = scene.exec("sh", "-c", f"{look}; grep Eff /proc/self/status")
    assert (code, out.split()) == (0, [str(USER), "2", "refused", "CapEff:", "0" * 16]), err
    assert scene.exec("ping", "-c", "1", SERVER)[0] == 0


def test_exit_codes_and_signals_are_the_program_s(scene: Scene) -> None:
    assert scene.exec("sh", "-c", "exit 7")[0] == 7
    assert scene.exec("sh", "-c", "kill -KILL $$")[0] == 128 + signal.SIGKILL
    code, _, err = scene.exec("no-such-program")
    assert code == 127 and "No such file" in err
    assert scene.exec("/etc")[0] == 126
    program = scene.popen(*LOOP)
    until(lambda: "up" in program.output(), "the program")
    program.signal(signal.SIGTERM)
    assert program.wait() == 9 and program.output() == "up\ntold\n"
    assert scene.client.run([PLAIT, "exec", CONF, "--"], check=False).returncode == 2


def test_names_are_asked_for_in_the_tunnel_alone(scene: Scene) -> None:
    code, out, _ = scene.exec("cat", "/etc/resolv.conf")
    assert (code, out) == (0, f"nameserver {SERVER}\nsearch inside.test\n")
    lookup = "import socket\ntry: socket.getaddrinfo('somewhere.example', 80)\nexcept OSError: print('none')"
    assert scene.exec(sys.executable, "-I", "-S", "-c", lookup)[:2] == (0, "none\n")
    assert "asked 10.9.0.2 b'\\tsomewhere\\x07example'" in scene.page.output()


def test_nothing_but_datagrams_to_the_endpoint_leaves(scene: Scene) -> None:
    """Also while the server's engine is dead, while ours is killed, and behind its end."""
    tap = scene.client.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.bind((scene.cable.interface(scene.client), 3))
        tap.setblocking(False)
        ask = f"ping -c 1 -W 1 {SERVER} && echo pong; ping -c 1 -W 1 192.0.2.9"
        program = scene.popen("sh", "-c", f"while :; do {ask}; done")
        until(lambda: "pong" in program.output(), "an answer")
        os.kill(scene.engine.process.pid, signal.SIGSTOP)
        seen = program.output().count("\n")
        until(lambda: program.output().count("\n") > seen + 8, "more packets")
        for pid in (scene.engine.process.pid, scene.engine.process.session):  # nsenter has stopped with it
            os.kill(pid, signal.SIGCONT)
        [supervisor] = [pid for pid in tree(program.pid) if b"supervisor" in cmdline(pid)]
        os.kill(supervisor, signal.SIGKILL)
        assert program.wait() == 125 and "the tunnel has ended" in program.output()
        frames = []
        while True:
            try:
                data, place = tap.recvfrom(1 << 16)
            except BlockingIOError:
                break
            # The host's own kernel looks for routers and listeners, by multicast.
            is_multicast = data[0] >> 4 == 6 and data[24] == 0xFF
            if place[2] == socket.PACKET_OUTGOING and not is_multicast:
                frames.append(data)
    endpoint = socket.inet_aton(scene.cable.address(scene.server))
    assert len(frames) > 3
    for frame in frames:
        assert (frame[9], frame[16:20], frame[22:24]) == (17, endpoint, struct.pack(">H", 51820)), frame


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except GONE:
        return b""


def left(scene: Scene) -> dict[str, object]:
    """What could be left on the host: files, mounts, interfaces."""
    places = {place: sorted(os.listdir(scene.client.root / place)) for place in ("run", "dev/shm")}
    mounts = Path(f"/proc/{scene.client.pid}/mounts").read_text()
    return {**places, "mounts": mounts, "links": scene.client.run(["ip", "-o", "link"]).stdout}


def test_nothing_is_left_whichever_process_is_killed(scene: Scene) -> None:
    words = (b"exec", b"init.py", b"supervisor", b"echo up")
    before = left(scene)
    for number in range(6):
        program = scene.popen("sh", "-c", "echo up; sleep 600")
        until(lambda program=program: "up" in program.output(), "the program")
        every = tree(program.pid)
        named = {pid: cmdline(pid) for pid in every}
        assert all(any(word in line for line in named.values()) for word in words)
        ours = [pid for pid, line in named.items() if b"plait: " not in line or b"supervisor" in line]
        os.kill(sorted(ours)[number % len(ours)], signal.SIGKILL)
        until(lambda every=every: all(state(pid) in ("", "Z") for pid in every), "their end")
        program.wait()
        assert scene.client.pids() == []
    assert left(scene) == before


def test_a_worker_that_dies_ends_nothing(scene: Scene) -> None:
    program = scene.popen(*LOOP)
    until(lambda: "up" in program.output(), "the program")
    before = [pid for pid in tree(program.pid) if b"control" in cmdline(pid)]
    os.kill(before[0], signal.SIGKILL)

    def control() -> list[int]:
        return [pid for pid in tree(program.pid) if b"control" in cmdline(pid)]

    until(lambda: control() not in ([], before), "another control")
    program.signal(signal.SIGTERM)
    assert program.wait() == 9


def test_what_is_wrong_is_said_with_its_next_step(scene: Scene) -> None:
    """Exit code 125, one line, and nothing else has happened."""

    def refused(*prefix: str) -> str:
        command = [*prefix, *UNPRIVILEGED, PLAIT, "exec", CONF, "--", "true"]
        done = scene.client.run(command, check=False)
        assert done.returncode == 125 and done.stdout == "" and done.stderr.count("\n") == 1, done
        return done.stderr

    scene.tun_mode(0o600)
    try:
        assert "chmod 666 /dev/net/tun" in refused()
        doctor = scene.client.run([*UNPRIVILEGED, PLAIT, "doctor", "--rootless"], check=False)
        assert doctor.returncode == 1 and "chmod 666 /dev/net/tun" in doctor.stdout
    finally:
        scene.tun_mode(0o666)
    assert scene.client.run([*UNPRIVILEGED, PLAIT, "doctor", "--rootless"]).returncode == 0
    for wrong in (
        scene.text.replace("PrivateKey", "#"), scene.text.replace("Address", "#"), "rubbish",
        scene.text.replace("10.9.0.2/24", "10.9.0.2/24, 10.9.0.2/24"),
    ):  # fmt: skip
        scene.write(wrong)
        try:
            assert refused().startswith("plait: ")
        finally:
            scene.write(scene.text)
    none = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    inside = [*UNPRIVILEGED, "unshare", "-Ur", "sh", "-c", none, "sh"]
    as_user = scene.client.run([*inside, PLAIT, "exec", CONF, "--", "true"], check=False)
    assert as_user.returncode == 125 and "user.max_user_namespaces" in as_user.stderr


def test_a_file_of_many_peers_is_taken(scene: Scene) -> None:
    """More of them than one message to process 1 may have bytes."""
    keys = (base64.b64encode(number.to_bytes(32, "big")).decode() for number in range(1, 3001))
    addresses = (f"10.9.{number >> 8}.{number & 255}" for number in range(512, 4000))
    peers = zip(keys, addresses, strict=False)
    more = [f"[Peer]\nPublicKey = {key}\nAllowedIPs = {address}\n" for key, address in peers]
    scene.write(scene.text + "".join(more))
    try:
        assert scene.exec(sys.executable, "-I", "-S", "-c", FETCH)[0] == 0
    finally:
        scene.write(scene.text)


BOX = f"""
import socket, subprocess, plait
with plait.sandbox("{CONF}") as box:
    done = box.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True)
    print(done.returncode, done.stdout.strip(), done.stderr.strip())
    for command in (["false"], ["no-such-program"]):
        try:
            box.run(command, check=True)
        except (subprocess.CalledProcessError, plait.Failure) as error:
            print(type(error).__name__)
    socks = [box.socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
    for sock, server in zip(socks, ("{SERVER}", "{SERVER6}")):
        sock.settimeout(60)
        sock.connect((server, 80))
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print(sock.makefile("rb").read().rpartition(b"\\r\\n")[2].decode())
    number = box.start(["sleep", "600"])
    box.signal(number, 15)
    print(box.wait(number))
    try:
        box.socket(socket.AF_UNIX + 4000)
    except plait.Failure as failure:
        print(failure.what)
    unfinished = box.start(["sleep", "600"])
try:
    box.wait(unfinished)
except plait.Failure as failure:
    print(failure.what)
"""


def test_a_sandbox_for_python(scene: Scene) -> None:
    done = scene.client.run([*UNPRIVILEGED, sys.executable, "-P", "-c", BOX])
    assert done.stdout.splitlines() == [
        "3 out err", "CalledProcessError", "NotRun", "page for 10.9.0.2", "page for fd09::2",
        "143", "the sandbox has no such socket", "the sandbox has ended",
    ]  # fmt: skip
    assert done.stderr == "" and scene.client.pids() == []


def test_what_the_engine_cannot_change_inside_it_refuses(scene: Scene) -> None:
    """Its sockets stand in another namespace, where it can open no others."""
    name = Path(CONF).stem
    code, _, err = scene.exec(PLAIT, "scale", "--receivers", name, "+1")
    assert code == 1 and "UDP sockets were given as PLAIT_UDP4_FD and PLAIT_UDP6_FD" in err
    change = f"import plait; plait.attach('{name}').configure(listen_port=1234)"
    code, _, err = scene.exec(sys.executable, "-P", "-c", change)
    assert code == 1 and "was given its UDP sockets" in err
    same = f"import plait; wg = plait.attach('{name}'); wg.configure(listen_port=wg.listen_port)"
    assert scene.exec(sys.executable, "-P", "-c", same)[0] == 0
