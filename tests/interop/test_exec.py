"""`plait exec` as a user without any privilege, against an engine in another host of a lab."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plait.lab.namespaces import PLAIT as PLAITD
from plait.lab.namespaces import WIREGUARD_GO, Lab, Process, state
from plait.watch.processes import GONE
from tests.support import rootless
from tests.support.rootless import CONF, PLAIT, SERVER, SERVER6, tree
from tests.support.unprivileged import UNPRIVILEGED, USER
from tests.support.waiting import until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
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


class Scene(rootless.Scene):
    """A page and a name server are inside."""

    def __init__(self, lab: Lab, engine: Sequence[str] = PLAITD) -> None:
        super().__init__(lab, PAGE, engine)

    def exec(self, *command: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        done = self.client.run([*UNPRIVILEGED, PLAIT, "exec", CONF, "--", *command], check=False)
        return done.returncode, done.stdout, done.stderr

    def popen(self, *command: str) -> Process:
        return self.plait("exec", CONF, "--", *command)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


def test_a_page_comes_through_the_tunnel_and_the_program_has_no_other_network(scene: Scene) -> None:
    code, out, err = scene.exec(sys.executable, "-I", "-S", "-c", FETCH)
    assert (code, out, err) == (0, "page for 10.9.0.2\npage for fd09::2\n", "")
    look = "id -u; ip -o link | wc -l; ip link add x type dummy 2>/dev/null || echo refused"
    code, out, err = scene.exec("sh", "-c", f"{look}; grep -e Ign -e Eff /proc/self/status")
    status = ["SigIgn:", "0" * 16, "CapEff:", "0" * 16]
    assert (code, out.split()) == (0, [str(USER), "2", "refused", *status]), err
    assert scene.exec("ping", "-c", "1", SERVER)[0] == 0


def test_the_server_may_be_wireguard_go() -> None:
    with Lab() as lab:
        scene = Scene(lab, WIREGUARD_GO)
        code, out, err = scene.exec(sys.executable, "-I", "-S", "-c", FETCH)
        assert (code, out, err) == (0, "page for 10.9.0.2\npage for fd09::2\n", "")
        lookup = "import socket\ntry: socket.getaddrinfo('there.example', 80)\nexcept OSError: print('none')"
        assert scene.exec(sys.executable, "-I", "-S", "-c", lookup)[:2] == (0, "none\n")
        assert "asked 10.9.0.2 b'\\x05there\\x07example'" in scene.inside.output()


def test_exit_codes_and_signals_are_the_program_s(scene: Scene) -> None:
    assert scene.exec("sh", "-c", "exit 7")[0] == 7
    assert scene.exec("sh", "-c", "kill -KILL $$")[0] == 128 + signal.SIGKILL
    code, _, err = scene.exec("no-such-program")
    assert code == 127 and "No such file" in err
    assert scene.exec("/etc")[0] == 126
    code, _, err = scene.exec("")
    assert code == 126 and "Invalid argument" in err
    for enter in ("mkdir -m 777 /run/here; cd /run/here; ", "cd /run/here; rmdir /run/here; "):
        command = ["sh", "-c", f'{enter} exec "$@"', "sh", *UNPRIVILEGED, PLAIT, "exec", CONF, "--", "true"]
        done = scene.client.run(command, check=False)
        assert done.returncode == 126 and "Change to another one" in done.stderr, done
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
    assert "asked 10.9.0.2 b'\\tsomewhere\\x07example'" in scene.inside.output()


def test_a_file_without_dns_keeps_the_host_s_servers(scene: Scene) -> None:
    """Where /etc/resolv.conf is a link into /run, which is another one inside."""
    link = "mkdir -p /run/systemd/resolve; cp -a /etc /run/etc; ln -sf {place} /run/etc/resolv.conf"
    real, stub = "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"
    scene.write(scene.text.replace("\nDNS", "\n# DNS"))
    try:
        resolved, plain = {real: SERVER, stub: "127.0.0.53"}, {"/run/resolv": SERVER6}
        for place, files in ((stub, resolved), ("/run/resolv", plain)):
            writes = [f"echo nameserver {server} > {file}" for file, server in files.items()]
            script = "\n".join([link.format(place=place), *writes, "mount --bind /run/etc /etc"])
            scene.client.run(["sh", "-ec", script])
            try:
                server = next(iter(files.values()))
                assert scene.exec("cat", "/etc/resolv.conf") == (0, f"nameserver {server}\n", "")
            finally:
                scene.client.run(["sh", "-c", "umount /etc; rm -rf /run/etc /run/systemd /run/resolv"])
    finally:
        scene.write(scene.text)


def test_a_resolv_conf_that_the_host_replaces_is_the_file_s_again(scene: Scene) -> None:
    """A file that is renamed over another takes the mounts on that one away, in every mount namespace."""
    scene.client.run(["sh", "-ec", "cp -a /etc /run/etc; mount --bind /run/etc /etc"])
    try:
        wait = "echo up; until [ -e /etc/replaced ]; do sleep 0.05; done; echo replaced"
        look = "while :; do head -n 1 /etc/resolv.conf; sleep 0.05; done"
        program = scene.popen("sh", "-c", f"{wait}; {look}")
        until(lambda: "up" in program.output(), "the program")
        replace = "echo nameserver 192.0.2.53 > /etc/new; mv /etc/new /etc/resolv.conf; touch /etc/replaced"
        scene.client.run(["sh", "-ec", replace])
        until(lambda: SERVER in program.output().partition("replaced")[2], "the file's server")
        assert program.stop() == 128 + signal.SIGTERM
    finally:
        scene.client.run(["sh", "-c", "umount /etc; rm -rf /run/etc"])


def test_a_signal_ends_it_while_it_starts(scene: Scene) -> None:
    """Its engine never becomes ready."""
    slow = scene.client.root / "run/slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    plaitd = str(Path(PLAIT).with_name("plaitd"))
    scene.client.run(["mount", "--bind", "/run/slow", plaitd])
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            program = scene.popen("true")

            def every(program: Process = program) -> dict[int, bytes]:
                return {pid: cmdline(pid) for pid in tree(program.pid)}

            until(lambda every=every: b"sleep\x00600\x00" in every().values(), "the engine")
            started = every()
            program.signal(number)
            assert program.wait() in (128 + number, -number)
            until(lambda started=started: all(state(pid) in ("", "Z") for pid in started), "their end")
            assert "Traceback" not in program.output()
    finally:
        scene.client.run(["sh", "-c", f"umount '{plaitd}'; rm /run/slow"])


def test_nothing_but_datagrams_to_the_endpoint_leaves(scene: Scene) -> None:
    """Also while the server's engine is dead, while ours is killed, and behind its end."""
    tap = scene.client.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.bind((scene.cable.interface(scene.client), 3))
        tap.setblocking(False)
        ask = f"ping -c 1 -W 1 {SERVER} && echo pong; ping -c 1 -W 1 192.0.2.9"
        program = scene.popen("sh", "-c", f"while :; do {ask}; done")
        until(lambda: "pong" in program.output(), "an answer")
        engine = [usage.pid for usage in scene.engine.processes()]
        assert len(engine) >= 4
        stopped = [*engine, scene.engine.process.session]  # nsenter stops with the supervisor
        for pid in engine:
            os.kill(pid, signal.SIGSTOP)
        try:
            seen = len(program.output())
            lost = f"--- {SERVER} ping statistics ---\n1 packets transmitted, 0 received"
            until(lambda: lost in program.output()[seen:], "a ping without an answer")
        finally:
            for pid in stopped:
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


def test_nothing_is_left_whichever_process_is_killed(scene: Scene) -> None:
    words = (b"exec", b"init.py", b"supervisor", b"echo up")
    before = scene.left()
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
    until(lambda: scene.left() == before, f"nothing left: {scene.left()} instead of {before}")


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


def test_the_engine_s_last_words_are_told(scene: Scene) -> None:
    command = [*UNPRIVILEGED, "env", "LOG_LEVEL=debug", PLAIT, "exec", CONF, "--", *LOOP]
    program = scene.client.popen(command)
    until(lambda: "up" in program.output(), "the program")
    [supervisor] = [pid for pid in tree(program.pid) if b"supervisor" in cmdline(pid)]
    os.kill(supervisor, signal.SIGKILL)
    assert program.wait() == 125 and "its engine: SIGKILL; it said last: " in program.output()


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
    scene.file.chmod(0)
    assert "give a file that this user may read" in refused()
    scene.file.chmod(0o600)
    scarce = [*UNPRIVILEGED, "prlimit", "--nproc=1", PLAIT, "exec", CONF, "--", "true"]
    as_user = scene.client.run(scarce, check=False)
    assert as_user.returncode == 125 and "the kernel refuses another process" in as_user.stderr
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
import os, socket, subprocess, threading, plait
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
    for which in (9999, 1 << 70):
        try:
            box.signal(number, which)
        except plait.Failure as failure:
            print(failure.why)
        box._say({{"signal": which, "to": number}}, [])  # whoever sends what, process 1 goes on
    box.signal(number, 15)
    print(box.wait(number), box.wait(number))
    for family in (socket.AF_UNIX + 4000, 1 << 70):
        try:
            box.socket(family)
        except plait.Failure as failure:
            print(failure.what)
    # An interrupted call leaves nothing behind, and its answer is not the next one's.
    before = len(os.listdir("/proc/self/fd"))
    def interrupt(number):
        raise KeyboardInterrupt
    waiting, box._end = box._end, interrupt
    try:
        box.socket(socket.AF_INET6)
    except KeyboardInterrupt:
        box._end = waiting
    with box.socket() as sock:
        print(sock.family.name, len(os.listdir("/proc/self/fd")) - before)
    entered = plait.sandbox("{CONF}")
    thread = threading.Thread(target=entered.__enter__)
    thread.start()
    thread.join()
    with box.socket() as sock:
        print(os.get_inheritable(sock.fileno()))
    print(entered.run(["true"]).returncode)
    entered.__exit__(None, None, None)
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
        "there is no signal 9999", f"there is no signal {1 << 70}", "143 143",
        *["the sandbox has no such socket"] * 2, "AF_INET 1", "False", "0", "the sandbox has ended",
    ]  # fmt: skip
    assert done.stderr == "" and scene.client.pids() == []


def test_the_program_of_the_guide_runs(scene: Scene) -> None:
    """With another server than the guide's, and with a file of this directory."""
    guide = (rootless.ROOT / "docs/rootless.md").read_text()
    [text] = re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S)
    here = {'"curl", "https://intranet.example"': f'"ping", "-c1", "{SERVER}"', "10.64.0.1": SERVER}
    text += "    print(sock.getpeername())"
    for there, ours in here.items():
        assert there in text
        text = text.replace(there, ours)
    scene.client.run(["cp", "-p", CONF, "/run/home.conf"])
    try:
        script = 'cd /run; exec "$@"'
        command = ["sh", "-c", script, "sh", sys.executable, "-P", "-c", text]
        done = scene.client.run([*UNPRIVILEGED, *command])
        assert done.stdout.endswith(f"('{SERVER}', 80)\n") and done.stderr == ""
    finally:
        scene.client.run(["rm", "/run/home.conf"])


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
