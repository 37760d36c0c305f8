"""`plait exporter` and `plait top` against engines that carry traffic, and metrics of made-up reports.

host initiator   wg0 -- plaitd -- eth0 ---- eth0 -- plaitd -- wg0   host responder
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from plait.failure import Failure
from plait.lab.namespaces import PLAIT, Host, Lab, Process, keypair
from plait.watch.exporter import parse_listen
from tests.support.tunnel import Tunnel, eventually, two_hosts

SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 1088\nsmall_slots = 128\ntrain_slots = 4\n"
# METHOD and path of each request -> status, Allow, Content-Type, whether Content-Length is the body's own.
REQUESTS = """
import http.client, json, sys
answers = []
for method, path in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("127.0.0.1", 9586, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    answers.append([method, path, answer.status, answer.headers["Allow"], answer.headers["Content-Type"],
                    int(answer.headers["Content-Length"]), len(body), body.decode()])
print(json.dumps(answers))
"""
SCRAPE = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
# ADDRESS, PORT and how many datagrams of 1,000 bytes.
FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[3])):
    sock.sendto(bytes(1000), (sys.argv[1], int(sys.argv[2])))
"""
# A terminal of 100 x 30, keys sent one after another, what was seen on it, and whether it is as it was.
TERMINAL = """
import fcntl, os, pty, select, struct, sys, termios, time
child, fd = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[1], sys.argv[1:4])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
before, seen = termios.tcgetattr(fd), b""
def until(words):
    global seen
    end = time.monotonic() + 60
    seen = b""
    while words not in seen:
        assert time.monotonic() < end, (words, seen)
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 65536)
until(b"PROCESS")
until(b"bit/s")
os.write(fd, b"h")
until(b"HANDSHAKE*")
os.write(fd, b"/nobody\\r")
until(b"busiest matches")
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
until(b"b i o t h w sort")
assert termios.tcgetattr(fd)[3] != before[3]
os.write(fd, b"q")
until(b"\\x1b[?1049l")
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert termios.tcgetattr(fd) == before
print("as it was")
"""


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    with Lab() as lab:
        made = two_hosts(lab, PLAIT, PLAIT, settings=SETTINGS)
        assert made.initiator.echo(made.responder.address4, 5) == 5
        yield made


@pytest.fixture(scope="module")
def exporter(tunnel: Tunnel) -> Iterator[Process]:
    process = tunnel.initiator.host.popen(["plait", "exporter"])
    tunnel.initiator.host.wait_listening(9586, process)
    yield process


def title(pid: int) -> str:
    """What a process calls itself; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def scrape(host: Host, port: int = 9586) -> dict[str, list[Sample]]:
    """Every sample by name."""
    text = host.run([sys.executable, "-c", SCRAPE, f"http://127.0.0.1:{port}/metrics"]).stdout
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(samples: list[Sample], **labels: str) -> float:
    """Of the one sample with these labels."""
    (found,) = [s.value for s in samples if labels.items() <= s.labels.items()]
    return float(found)


@pytest.mark.network
def test_metrics_are_what_the_engine_and_wg_say(tunnel: Tunnel, exporter: Process) -> None:
    side, peer = tunnel.sides
    os.kill(next(p.pid for p in side.engine.processes() if title(p.pid) == "plait: wg0 consumer 0"), 9)
    eventually(lambda: side.echo(peer.address4, 1) == 1, 20)
    before = scrape(side.host)
    side.host.ping("10.0.0.77", 3, wait=0.1)
    side.echo(peer.address4, 20)

    def fresh() -> dict[str, list[Sample]] | None:
        found = scrape(side.host)
        sent = [value(each["plait_packets_total"], flow="tun_sent") for each in (before, found)]
        return found if sent[1] == sent[0] + 20 else None

    found = eventually(fresh)  # what was asked is told again for a second
    labels = {"interface": "wg0", "public_key": peer.public_key,
              "allowed_ips": f"{peer.address4}/32,{peer.address6}/128"}  # fmt: skip
    received, sent = side.transfer()
    assert value(found["wireguard_received_bytes_total"], **labels) == received
    assert value(found["wireguard_sent_bytes_total"], **labels) == sent
    assert value(found["wireguard_latest_handshake_seconds"], **labels) == side.handshake()[0] > 0
    grown = {
        name: value(found["plait_packets_total"], flow=name) - value(before["plait_packets_total"], flow=name)
        for name in ("tun_received", "udp_sent", "udp_received", "tun_sent")
    }
    drops = [each["plait_drops_total"] for each in (before, found)]
    lost = value(drops[1], cause="no_peer") - value(drops[0], cause="no_peer")
    assert 3 <= lost < 9, "three pings, and what the kernel of the host says to all routers"
    assert grown == {"tun_received": 20 + lost, "udp_sent": 20, "udp_received": 20, "tun_sent": 20}

    def is_counted(metric: str, label: str, prefix: str) -> bool:
        told = {sample.labels[label]: sample.value for sample in scrape(side.host)[metric]}
        counted = {name.removeprefix(prefix): count for name, count in side.counters().items()
                   if name.startswith(prefix)}  # fmt: skip
        return told == counted

    # The host's own packets go on, so one may come between the two askings.
    eventually(lambda: is_counted("plait_drops_total", "cause", "drop_"))
    eventually(lambda: is_counted("plait_handshakes_total", "outcome", "hs_"))
    eventually(lambda: is_counted("plait_worker_deaths_total", "kind", "deaths_"))
    assert value(found["plait_worker_deaths_total"], kind="killed") == 1
    workers = {(s.labels["role"], s.labels["number"]) for s in found["plait_worker_cpu_seconds_total"]}
    assert workers == {("supervisor", "0"), ("control", "0"), ("receiver", "0"), ("consumer", "0")}
    assert all(s.value > 1 << 20 for s in found["plait_worker_pss_bytes"])
    assert value(found["plait_up"]) == value(found["plait_peers"], origin="set") == 1
    assert value(found["plait_peers"], origin="on_demand") == 0
    assert (value(found["plait_peers_connected"]), value(found["plait_peers_ran_out"])) == (1, 0)
    assert value(found["plait_lost_wakes_total"]) == 0
    assert value(found["plait_queue_packets"], direction="inbound") == 0
    # Every metric is on the page, and every metric of the page is there.
    page = (Path(__file__).parents[3] / "docs/observe.md").read_text()
    assert set(re.findall(r"^\| `((?:plait|wireguard)_\w+)", page, re.M)) == set(found)


@pytest.mark.network
def test_above_a_thousand_peers_the_busiest_have_series_with_their_names(tunnel: Tunnel) -> None:
    side, peer = tunnel.responder, tunnel.initiator
    key = b64decode(peer.public_key).hex()
    idle = "".join(f"public_key={n:064x}\n" for n in range(1, 1001))
    assert side.engine.uapi(f"set=1\npublic_key={key}\nplait_name=Andr%C3%A9\n{idle}\n") == "errno=0\n\n"
    process = side.host.popen(["plait", "exporter", "--busiest", "3"])
    try:
        side.host.wait_listening(9586, process)

        def told() -> list[Sample] | None:
            peer.echo(side.address4, 1)
            found = scrape(side.host)["wireguard_received_bytes_total"]
            return found if any(s.labels["public_key"] == peer.public_key for s in found) else None

        found = eventually(told)
        assert len(found) == 3
        names = {s.labels["public_key"]: s.labels["friendly_name"] for s in found}
        assert names[peer.public_key] == "Andr\u00e9"
        assert value(scrape(side.host)["plait_peers_connected"]) == 1
    finally:
        process.close()
        gone = "".join(f"public_key={n:064x}\nremove=true\n" for n in range(1, 1001))
        assert side.engine.uapi(f"set=1\n{gone}\n") == "errno=0\n\n"


@pytest.mark.network
def test_it_listens_on_loopback_alone_and_a_taken_port_is_one_sentence(
    tunnel: Tunnel, exporter: Process
) -> None:
    host = tunnel.initiator.host
    listening = host.run(["ss", "-Hltn"]).stdout.split()
    assert [word for word in listening if word.endswith(":9586")] == ["127.0.0.1:9586"]
    second = host.run(["plait", "exporter"], check=False)
    assert second.returncode == 1
    assert second.stderr.startswith("plait: cannot listen at 127.0.0.1:9586: Address already in use. ")
    assert second.stderr.count("\n") == 1


@pytest.mark.network
def test_pages_and_methods(tunnel: Tunnel, exporter: Process) -> None:
    paths = ("/", "/metrics", "/metrics?x=1", "/metrics/", "/favicon.ico", "/else")
    requests = [(method, path) for path in paths for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS")]
    run = [sys.executable, "-c", REQUESTS, json.dumps(requests)]
    for method, path, status, allow, kind, length, size, body in json.loads(
        tunnel.initiator.host.run(run).stdout
    ):
        page = path.partition("?")[0]
        if page not in ("/", "/metrics"):
            assert (status, allow) == (404, None), path
        elif method in ("GET", "HEAD"):
            assert (status, allow) == (200, None)
            assert kind.startswith("text/html" if page == "/" else "text/plain")
        else:
            assert (status, allow) == (405, "GET, HEAD")
        assert length > 0 and size == (0 if method == "HEAD" else length), (method, path, length, size)
        if (method, path) == ("GET", "/"):
            assert '<a href="/metrics">' in body
        if (method, page) == ("GET", "/metrics"):
            assert "# TYPE plait_up gauge" in body


@pytest.mark.network
@pytest.mark.parametrize("listen, why", [
    ("192.0.2.1:9586", "Cannot assign requested address. Choose another address with --listen"),
    ("[fe80::1]:9586", "Choose another address with --listen"),
    ("no.such.host.invalid:9586", "Choose another address with --listen"),
    ("a..b:9586", "that is no name of a host. Choose another address"),
    ("127.0.0.1:99999", "it is not an address and a port. Write it as 127.0.0.1:9586"),
])  # fmt: skip
def test_an_address_that_cannot_be_had_is_one_sentence(tunnel: Tunnel, listen: str, why: str) -> None:
    done = tunnel.initiator.host.run(["plait", "exporter", "--listen", listen], check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(("plait: cannot listen at ", "plait: --listen "))
    assert f"{listen}" in done.stderr and why in done.stderr and "Errno" not in done.stderr


@pytest.mark.network
def test_an_empty_address_is_every_address(tunnel: Tunnel) -> None:
    host = tunnel.initiator.host
    process = host.popen(["plait", "exporter", "--listen", ":9601"])
    host.wait_listening(9601, process)
    for address in ("127.0.0.1", "[::1]"):
        assert "plait_up" in host.run([sys.executable, "-c", SCRAPE, f"http://{address}:9601/metrics"]).stdout
    assert process.stop() == 0


@pytest.mark.network
def test_peers_are_left_out_when_asked_and_a_signal_ends_it_cleanly(tunnel: Tunnel) -> None:
    host = tunnel.initiator.host
    process = host.popen(["plait", "exporter", "--no-peers", "--listen", "127.0.0.1:9600"])
    host.wait_listening(9600, process)
    found = scrape(host, 9600)
    assert "plait_up" in found and not [name for name in found if name.startswith("wireguard_")]
    process.signal(15)
    assert process.wait() == 0, process.output()
    assert "Traceback" not in process.output()


@pytest.mark.network
def test_what_the_kernel_drops_in_front_of_a_receiver_is_told(tunnel: Tunnel, exporter: Process) -> None:
    """Of a stopped receiver the TUN's queue overflows, and the UDP socket's buffer."""
    side, peer = tunnel.sides
    host = side.host

    def kernel_drops() -> dict[str, int]:
        report = json.loads(host.run(["plait", "show", "--engine", "--json", "wg0"]).stdout)["wg0"]
        return dict(report["kernel_drops"])

    before = kernel_drops()
    receiver = next(p.pid for p in side.engine.processes() if title(p.pid) == "plait: wg0 receiver 0")
    os.kill(receiver, signal.SIGSTOP)
    try:
        for destination, count in ((f"{peer.address4} 9", 1500), ("127.0.0.1 51820", 15000)):
            host.run([sys.executable, "-c", FLOOD, *destination.split(), str(count)])
    finally:
        os.kill(receiver, signal.SIGCONT)
    told = kernel_drops()
    link = int((host.root / "sys/class/net/wg0/statistics/tx_dropped").read_text())
    assert link == told["tun"] >= before["tun"] + 400
    assert told["udp"] > before["udp"] + 1000
    shown = host.run(["plait", "show", "--engine", "wg0"]).stdout.split("\n")
    rows = [line.split()[-2:] for line in shown if "drop_kernel_" in line]
    assert rows == [[f"drop_kernel_{where}", str(told[where])] for where in ("tun", "udp")]
    (picture,) = json.loads(host.run(["plait", "top", "--json", "--interval", "0.5", "wg0"]).stdout)
    causes = {each["cause"]: each["total"] for each in picture["drops"]}
    assert (causes["kernel_tun"], causes["kernel_udp"]) == (told["tun"], told["udp"])

    def is_scraped() -> bool:
        samples = scrape(host)["plait_kernel_drops_total"]
        return [value(samples, where=where) for where in told] == list(told.values())

    eventually(is_scraped)
    # A new port means new sockets, which have dropped nothing.
    side.engine.wg("set", "wg0", "listen-port", "51821")
    assert kernel_drops()["udp"] == told["udp"]
    side.engine.wg("set", "wg0", "listen-port", "51820")


@pytest.mark.network
def test_top_tells_who_carries_most(tunnel: Tunnel) -> None:
    """Two peers, one of them silent; packets of 1,000 bytes while top looks."""
    side, peer = tunnel.sides
    _, stranger = keypair()
    side.engine.wg("set", "wg0", "peer", stranger, "allowed-ips", "10.7.0.9/32")
    top = side.host.popen(["plait", "top", "--json", "--interval", "1.5", "wg0"])
    ping = side.host.popen(["ping", "-s", "1000", "-i", "0.02", peer.address4])
    assert top.wait() == 0, top.output()
    ping.stop()
    (told,) = json.loads(top.output())
    side.engine.wg("set", "wg0", "peer", stranger, "remove")
    first, second = told["busiest"]
    assert (first["public_key"], second["public_key"]) == (peer.public_key, stranger)
    assert first["rx_rate"] > 0 < first["tx_rate"] and second["rx_rate"] == 0
    assert told["rates"]["rx_bytes"] == first["rx_rate"] and told["rates"]["udp_sent"] > 0
    assert [p["role"] for p in told["processes"]] == ["supervisor", "control", "receiver", "consumer"]
    assert all(p["cpu_percent"] is not None for p in told["processes"])
    table = side.host.run(["plait", "top", "--once", "--interval", "0.5"]).stdout
    assert peer.public_key in table and "receiver 0" in table and "\x1b" not in table


@pytest.mark.network
def test_top_on_a_terminal_follows_keys_and_size_and_leaves_it_as_it_was(tunnel: Tunnel) -> None:
    host = tunnel.initiator.host
    assert host.run([sys.executable, "-c", TERMINAL, "plait", "top", "wg0"]).stdout == "as it was\n"
    piped = host.run(["plait", "top"], check=False)
    assert (piped.returncode, piped.stdout) == (1, "")
    assert "plait top --once" in piped.stderr


@pytest.mark.network
def test_an_engine_that_does_not_answer_is_down_and_the_scrape_goes_on(
    tunnel: Tunnel, exporter: Process
) -> None:
    """A socket whose listener refuses what it is asked, beside the engine."""
    host = tunnel.initiator.host
    deaf = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/wireguard/deaf.sock'); s.listen()\n"
    )
    deaf += "while True: s.accept()[0].close()"
    process = host.popen([sys.executable, "-c", deaf])
    eventually(lambda: (host.root / "run/wireguard/deaf.sock").exists())

    def up() -> dict[str, float]:
        return {sample.labels["interface"]: sample.value for sample in scrape(host)["plait_up"]}

    eventually(lambda: up() == {"wg0": 1, "deaf": 0})  # what was asked is told again for a second
    process.stop()
    os.unlink(host.root / "run/wireguard/deaf.sock")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:9586", ("127.0.0.1", 9586)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("", 80)),
        ("::1:80", ("::1", 80)),
    ],
)
def test_addresses_to_listen_at(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "9586", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "a:b:1"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(Failure, match="is not understood"):
        parse_listen(text)
