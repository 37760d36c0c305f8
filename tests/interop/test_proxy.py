"""`plait proxy` as a user without any privilege: what curl and plain sockets get through it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator

import pytest

from plait.lab.namespaces import Lab, Process
from tests.support import rootless
from tests.support.rootless import CONF, SERVER, SERVER6
from tests.support.waiting import until

pytestmark = pytest.mark.network
NAME = "page.inside.test"
BYTES = 200_000
# The body of /N is a stream of bytes that N begins, that of /fields the request's fields; the name server
# knows one name.
INSIDE = f"""
import hashlib, http.server, socket, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = hashlib.shake_128(self.path.encode()).digest({BYTES})
        if self.path == "/fields":
            body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
for kind, place in ((http.server.ThreadingHTTPServer, "{SERVER}"), (Six, "{SERVER6}")):
    kind.request_queue_size = 256
    threading.Thread(target=kind((place, 80), Page).serve_forever).start()
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("{SERVER}", 53))
print("up", flush=True)
wanted = b"".join(bytes([len(part)]) + part for part in b"{NAME}".split(b".")) + b"\\0"
while True:
    query, sender = names.recvfrom(512)
    at = query.index(b"\\0", 12) + 5
    is_ours = query[12:at - 4] == wanted and query[at - 4:at - 2] == b"\\0\\1"
    head = query[:2] + (b"\\x81\\x80" if query[12:at - 4] == wanted else b"\\x81\\x83")
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("{SERVER}")
    names.sendto(head + b"\\0\\1" + (b"\\0\\1" if is_ours else b"\\0\\0") + b"\\0\\0\\0\\0" + query[12:at]
                 + (record if is_ours else b""), sender)
"""
# As many downloads at once as asked for, beside clients that send a request and read nothing.
MANY = f"""
import hashlib, socket, sys, threading
port, count = int(sys.argv[1]), int(sys.argv[2])
def opened(number):
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.sendall(b"\\5\\1\\0" + b"\\5\\1\\0\\3" + bytes([{len(NAME)}]) + b"{NAME}" + b"\\0\\x50")
    answers = sock.makefile("rb")
    assert answers.read(2) == b"\\5\\0" and answers.read(10)[1] == 0
    sock.sendall(f"GET /{{number}} HTTP/1.0\\r\\n\\r\\n".encode())
    return sock, answers
slow = [opened(f"slow{{n}}") for n in range(4)]
good = []
def download(number):
    sock, answers = opened(number)
    body = answers.read().partition(b"\\r\\n\\r\\n")[2]
    if body == hashlib.shake_128(f"/{{number}}".encode()).digest({BYTES}):
        good.append(number)
threads = [threading.Thread(target=download, args=(n,)) for n in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(good))
"""


class Scene(rootless.Scene):
    """A proxy in a client, for what is inside of the tunnel to a server."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, INSIDE)
        outside = [sys.executable, "-I", "-S", "-m", "http.server", "7777", "--directory", "/run"]
        self.client.popen(outside)
        self.proxy = self.popen(
            "--socks5", "0", "--http", "0", "-L", f"0:{NAME}:80", "-R", "7000:127.0.0.1:7777"
        )
        until(lambda: len(self.ports()) == 4 or self.proxy.poll() is not None, "the proxy")
        self.socks5, self.http, self.local, self.remote = self.ports()

    def popen(self, *options: str) -> Process:
        return self.plait("proxy", CONF, *options)

    def ports(self) -> list[int]:
        return [int(port) for port in re.findall(r":(\d+) is open", self.proxy.output())]

    def curl(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and hash of what came."""
        command = "curl -s --max-time 60 \"$@\" | sha256sum; exit ${PIPESTATUS[0]}"
        done = self.client.run(["bash", "-c", command, "curl", *arguments], check=False)
        return done.returncode, done.stdout.split()[0]


def page(path: str) -> tuple[int, str]:
    return 0, hashlib.sha256(hashlib.shake_128(path.encode()).digest(BYTES)).hexdigest()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    if shutil.which("curl") is None:
        lack = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        lack("needs curl: apt install curl")
    with Lab() as lab:
        yield Scene(lab)


def test_curl_gets_the_same_by_each_way(scene: Scene) -> None:
    socks, http = f"127.0.0.1:{scene.socks5}", f"http://127.0.0.1:{scene.http}"
    for arguments in (
        ["--socks5", socks, f"http://{SERVER}/a"],
        ["--socks5", socks, f"http://[{SERVER6}]/a"],
        ["--socks5-hostname", socks, f"http://{NAME}/a"],
        ["--proxy", http, "--proxytunnel", f"http://{NAME}/a"],
        ["--proxy", http, f"http://{NAME}/a"],
        [f"http://127.0.0.1:{scene.local}/a"],
    ):
        assert scene.curl(*arguments) == page("/a"), arguments
    back = scene.server.run(["curl", "-s", "--max-time", "60", "http://10.9.0.2:7000/wgx.conf"], check=False)
    assert back.returncode == 0  # http.server of the client's own network, which was asked from inside


def test_what_is_not_there_is_refused_as_the_protocols_have_it(scene: Scene) -> None:
    socks, http = f"127.0.0.1:{scene.socks5}", f"http://127.0.0.1:{scene.http}"
    for arguments in (
        ["--socks5", socks, f"http://{SERVER}:81/"],
        ["--socks5-hostname", socks, "http://elsewhere.test/"],
        ["--proxy", http, "--proxytunnel", f"http://{SERVER}:81/"],
        ["--proxy", http, "--fail", "http://elsewhere.test/"],
    ):
        assert scene.curl(*arguments)[0] not in (0, 28), arguments  # 28: no answer at all
    assert scene.curl("--socks5", socks, f"http://{SERVER}/b") == page("/b")


def test_many_downloads_are_whole_and_none_waits_for_a_slow_client(scene: Scene) -> None:
    done = scene.client.run([sys.executable, "-I", "-S", "-c", MANY, str(scene.socks5), "100"], timeout=200)
    assert done.stdout == "100\n"


def test_wrong_wishes_are_refused_with_a_reason(scene: Scene) -> None:
    for options, words in (
        (["--socks5", "70000"], "1080"), (["-L", "80"], "8080:"), ([], "--socks5"),
        (["--http", f"127.0.0.1:{scene.http}"], "ss -ltnp"),
        # The name is asked for inside, where it is an address of the other end.
        (["-R", f"{NAME}:7001:127.0.0.1:7777"], f"{NAME}:7001: Cannot assign requested address"),
    ):  # fmt: skip
        program = scene.popen(*options)
        assert program.wait() in (1, 2) and words in program.output(), options
        assert "Traceback" not in program.output()


def test_its_end_leaves_nothing(scene: Scene) -> None:
    program = scene.popen("--socks5", "0")
    until(lambda: "is open" in program.output(), "the proxy")
    assert program.stop() == 0 and "Traceback" not in program.output()


def test_ctrl_c_of_a_terminal_ends_it_quietly(scene: Scene) -> None:
    """It reaches the whole process group, and a program that begins inside as well."""
    for _ in range(3):
        program = scene.popen("--socks5", "0")
        until(lambda program=program: "is open" in program.output(), "the proxy")
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait() == 0
        assert re.fullmatch(r"plait: \S+ is open: socks5\n", program.output())


def test_fields_for_the_proxy_are_not_passed_on(scene: Scene) -> None:
    fields = scene.client.run(["curl", "-s", "--max-time", "60", "--proxy", f"http://127.0.0.1:{scene.http}",
                               "-H", "Proxy-Authorization: secret", "-H", "Proxy-Mine: 1", "-H", "Other: 2",
                               f"http://{SERVER}/fields"]).stdout  # fmt: skip
    assert "Other: 2" in fields and "Host:" in fields and "proxy" not in fields.lower()
