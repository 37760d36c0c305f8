"""`plait exporter`: what engines tell of themselves, as Prometheus reads it.

A process of its own beside the engines. It asks each one's control process over the configuration socket
and keeps nothing: counters live in the engines and go on when the exporter is restarted. Scrapes in quick
succession are answered from one asking, so that no number of them slows an engine down. Every metric
is listed in docs/observe.md.

Per peer it speaks the names of prometheus_wireguard_exporter, so that dashboards made for that fit.
"""

from __future__ import annotations

import errno
import itertools
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from plait import plaitd_client, uapi_client
from plait.failure import Failure
from plait.watch import engines, installed
from plait.watch.engine import with_usage

LISTEN = "127.0.0.1:9586"  # the port of other WireGuard exporters
PEERS = 1000  # above so many peers the busiest alone have series, unless --peers asks for all
BUSIEST = 100  # of them
FRESH_SECONDS = 1.0  # what was asked is told again for so long

_FLOWS = ("udp_received", "udp_sent", "tun_received", "tun_sent")
_OTHERS = {
    "keepalive_received": "Keepalives received",
    "keepalive_sent": "Keepalives sent",
    "handshake_to_control": "Handshake messages handed to control",
    "batches_shared": "Batches of which a worker offered parts to others",
    "parts_helped": "Parts of others' batches that workers sealed or opened",
    "given_up": "Sets, peers and steps of a recovery that control died of three times, not tried again",
    "icmp_sent": "Unreachable messages written into the TUN, for packets without peer or endpoint",
    "lost_wakes": "Wakes of a consumer that were missing and mended by the sweep; 0 but for kills",
    "slots_starved": "Times that a receiver stopped reading for want of slots",
}


Start = Callable[[str, list[tuple[str, str]]], object]  # WSGI's start_response (PEP 3333)
App = Callable[[dict[str, Any], Start], Iterable[bytes]]

_ALLOWED = "GET, HEAD"
_HTML = [("Content-Type", "text/html; charset=utf-8")]
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
_PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>plait exporter</title>
<h1>plait exporter</h1>
<p><a href="/metrics">Metrics</a> of the engines of this host, for Prometheus.</p></html>
"""


def run(listen: str, peers: bool | None, busiest: int = BUSIEST) -> None:
    """Serve until SIGINT or SIGTERM. peers: per-peer series always, never, or (None) of
    all up to PEERS peers, and of the busiest above."""
    address, port = parse_listen(listen)
    registry = CollectorRegistry()
    registry.register(Engines(peers, busiest))
    server = listening(listen, address, port)
    server.set_app(pages(make_wsgi_app(registry)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print(f"plait: metrics at {url_of(server)}", file=sys.stderr)
    ended.wait()
    server.shutdown()
    server.server_close()


def url_of(server: Server) -> str:
    """Where its metrics are."""
    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if ":" in str(host) else str(host)
    return f"http://{shown}:{port}/metrics"


def parse_listen(listen: str) -> tuple[str, int]:
    """Address and port of `127.0.0.1:9586`, `[::1]:9586` or `:9586` (every address: an empty one)."""
    host, colon, port = listen.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or host.count(":") == 1:
        why = "it is not an address and a port"
        raise Failure(f"--listen {listen} is not understood", why, f"Write it as {LISTEN} or [::1]:9586.")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port)


class Server(ThreadingWSGIServer):
    """A thread for each request, as far as there are some. No name is looked up for the address, which could
    take long."""

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the kernel has no thread: one request after another
            self.process_request_thread(request, client_address)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class Silent(WSGIRequestHandler):
    """Requests are not logged."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def listening(listen: str, address: str, port: int) -> Server:
    """A server at that address; an empty one is every address, of IPv4 alone where there is no IPv6."""
    hosts = [address] if address else ["::", "0.0.0.0"]
    for host in hosts:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            kind = type("ServerOfFamily", (Server,), {"address_family": found[0]})
            server: Server = kind(found[4], Silent)
            return server
        except UnicodeError as error:
            mend = "Choose another address with --listen."
            raise Failure(f"cannot listen at {listen}", "that is no name of a host", mend) from error
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and host != hosts[-1]:
                continue
            mend = "Choose another address with --listen; those of this host: ip address."
            if error.errno == errno.EADDRINUSE:
                mend = f"Choose another port with --listen, or see who has it: ss -ltnp 'sport = {port}'."
            elif error.errno == errno.EACCES:
                mend = "Choose a port from 1024 with --listen, or run this as root."
            raise Failure(f"cannot listen at {listen}", error.strerror or str(error), mend) from error
    raise AssertionError("the last address is tried")


def pages(metrics: App) -> App:
    """What is where: `/metrics`, a page at `/` that links to it, nothing else; GET and HEAD alone."""

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path not in ("/", "/metrics"):
            status, headers, body = "404 Not Found", _TEXT, b"Nothing is here; the metrics are at /metrics\n"
        elif method not in ("GET", "HEAD"):
            status, headers = "405 Method Not Allowed", [*_TEXT, ("Allow", _ALLOWED)]
            body = f"{path} answers {_ALLOWED}\n".encode()
        elif path == "/":
            status, headers, body = "200 OK", _HTML, _PAGE
        else:
            answer: list[Any] = []
            asked = {**environ, "REQUEST_METHOD": "GET"}
            body = b"".join(metrics(asked, lambda *given: answer.extend(given)))
            status, headers = answer
        start(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    return app


class Engines(Collector):
    """The engines of this host, asked when Prometheus asks."""

    def __init__(
        self, peers: bool | None, busiest: int = BUSIEST, fresh: float = FRESH_SECONDS
    ) -> None:
        self.peers = peers
        self.busiest = busiest
        self.fresh = fresh
        self._lock = threading.Lock()
        self._families: list[Metric] = []
        self._asked = float("-inf")
        self._said: set[str] = set()

    def describe(self) -> list[Metric]:
        """Nothing: else registering would ask the engines."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of every engine; prometheus_client calls it, from a thread for each scrape."""
        with self._lock:
            if time.monotonic() - self._asked >= self.fresh:
                self._families = self._ask()
                self._asked = time.monotonic()
            families = self._families
        yield from families

    def _ask(self) -> list[Metric]:
        began = time.monotonic()
        up = _gauge("plait_up", "1 when the engine answered this scrape", "interface")
        engine_families = EngineFamilies()
        peer_families = PeerFamilies()
        failures = []
        try:
            names = engines.names(None)
        except Failure as failure:
            names, failures = [], [failure]
        for name, told in engines.answers(names, self._look):
            report, device, failure_of_one = (None, None, told) if isinstance(told, Failure) else told
            if failure_of_one is not None:
                failures.append(failure_of_one)
            if not isinstance(failure_of_one, plaitd_client.Foreign):
                up.add_metric([name], float(report is not None))
            if report is not None:
                engine_families.add(name, report)
            if device is not None:
                peer_families.add(device)
        self._say(failures)
        took = GaugeMetricFamily(
            "plait_exporter_ask_seconds", "What asking every engine took", time.monotonic() - began
        )
        return [up, took, *engine_families.families(), *peer_families.families()]

    def _look(
        self, name: str, patience: float
    ) -> tuple[dict[str, Any] | None, uapi_client.Device | None, Failure | None]:
        """Report and peers of one engine, and why one of these is missing.

        Peers are told by engines of any make.
        """
        report, missing = None, None
        try:
            report = with_usage(plaitd_client.engine(name, patience / 2))
        except plaitd_client.Foreign as failure:
            missing = failure
        if self.peers is False:
            return report, None, missing
        try:
            if self.peers is None and report is not None and report["peers"] > PEERS:
                return report, self._look_at_busiest(name, patience / 2) if self.busiest else None, missing
            device = uapi_client.get(name, patience / 2)
        except Failure as failure:
            return report, None, failure
        return report, device if self.peers or len(device.peers) <= PEERS else None, missing

    def _look_at_busiest(self, name: str, patience: float) -> uapi_client.Device:
        """The peers that carried most since the scrape before; in the first, those heard of last."""
        told = plaitd_client.busiest(name, self.busiest, patience)
        peers = [
            uapi_client.Peer(
                each["public_key"], handshake_sec=each["latest_handshake"], rx_bytes=each["rx_bytes"],
                tx_bytes=each["tx_bytes"], allowed_ips=each["allowed_ips"], name=each.get("name", ""),
            )
            for each in told["peers"]
        ]  # fmt: skip
        return uapi_client.Device(name, peers=peers)

    def _say(self, failures: list[Failure]) -> None:
        """Each once, for as long as it lasts: scrapes come every few seconds."""
        for failure in failures:
            if str(failure) not in self._said:
                engines.say(failure)
        self._said = {str(failure) for failure in failures}


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=labels)


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, words, labels=labels)


class EngineFamilies:
    """The metrics of engines, each with a sample for every engine (workers/control/engine_report.py)."""

    def __init__(self) -> None:
        one = ("interface",)
        worker = ("interface", "role", "number")
        pool = ("interface", "receiver", "direction")
        self.info = _gauge("plait_info", "1; the labels say what runs", *one, "aead")
        self.outdated = _gauge("plait_outdated", "1 when installed is not what runs, else 0", *one)
        self.peers = _gauge("plait_peers", "Configured peers, by who set them", *one, "origin")
        connected = "Peers with a session that may be used: confirmed, and not 180 s old"
        self.connected = _gauge("plait_peers_connected", connected, *one)
        self.ran_out = _gauge("plait_peers_ran_out", "Peers cut off: quota used up, or time over", *one)
        broken = "Promises that this host does not let the engine keep"
        self.broken = _gauge("plait_promises_broken", broken, *one)
        self.packets = _counter("plait_packets", "Packets of wire size", *one, "flow")
        self.drops = _counter("plait_drops", "Packets dropped, by cause", *one, "cause")
        kernel = "Packets that the kernel dropped before the engine could read them"
        self.kernel = _counter("plait_kernel_drops", kernel, *one, "where")
        self.handshakes = _counter("plait_handshakes", "Handshake messages, by outcome", *one, "outcome")
        knocks = "Data messages for a dead gateway, by what became of them"
        self.knocks = _counter("plait_knocks", knocks, *one, "outcome")
        unknown = "Initiations of keys that are no peer's, and questions about them"
        self.unknown = _counter("plait_unknown_peers", unknown, *one, "outcome")
        self.evicted = _counter("plait_evicted", "Peers on demand that were idle and taken away", *one)
        self.parked = _gauge("plait_parked", "Initiations that wait for their peer to be set", *one)
        took = "From a question about a key to its answer"
        self.answers = HistogramMetricFamily("plait_provider_seconds", took, labels=one)
        self.deaths = _counter("plait_worker_deaths", "Ends that nobody had asked for", *one, "kind")
        self.others = {name: _counter(f"plait_{name}", words, *one) for name, words in _OTHERS.items()}
        self.waiting = _gauge("plait_queue_packets", "Packets that wait in queues", *one, "direction")
        self.waiters = _gauge("plait_queue_peers", "Peers with packets that wait", *one, "direction")
        self.longest = _gauge("plait_queue_longest_packets", "Of the longest queue", *one, "direction")
        self.tokens = _gauge("plait_peer_tokens", "Peers by the state of their token", *one, "state")
        self.slots = _gauge("plait_slots", "Packet buffers", *pool, "size")
        self.used = _gauge("plait_slots_used", "Packet buffers in use", *pool, "size")
        self.nodes = _gauge("plait_nodes", "Packet descriptors by where they are", *pool, "state")
        self.running = _gauge("plait_worker_running", "1 while the process works, 0 in other states", *worker)
        self.restarts = _counter("plait_worker_restarts", "Starts after the first", *worker)
        self.beat = _gauge("plait_worker_beat_age_seconds", "Since the process's latest turn", *worker)
        self.flows = _counter("plait_worker_packets", "Packets of wire size, by process", *worker, "flow")
        self.cpu = _counter("plait_worker_cpu_seconds", "CPU time of the process that runs now", *worker)
        self.pss = _gauge("plait_worker_pss_bytes", "Proportional share of memory", *worker)

    def families(self) -> Iterator[Metric]:
        """Those that any engine had something for."""
        for each in vars(self).values():
            yield from (one for one in (each.values() if isinstance(each, dict) else (each,)) if one.samples)

    def add(self, name: str, report: dict[str, Any]) -> None:
        """The samples of one engine."""
        self.info.add_metric([name, report["aead"]], 1)
        self.outdated.add_metric([name], bool(installed.difference(report)))
        on_demand = report.get("on_demand", {}).get("peers", 0)
        self.peers.add_metric([name, "set"], report["peers"] - on_demand)
        self.peers.add_metric([name, "on_demand"], on_demand)
        if "connected" in report:  # an older engine tells neither
            self.connected.add_metric([name], report["connected"])
            self.ran_out.add_metric([name], report["rules"]["ran_out"])
        self.broken.add_metric([name], len(report.get("broken_promises", ())))
        self._add_counters(name, report["counters"])
        self._add_on_demand(name, report.get("on_demand"))
        for where, count in report.get("kernel_drops", {}).items():
            if count is not None:
                self.kernel.add_metric([name, where], count)
        for direction, queue in report["queues"].items():
            self.waiting.add_metric([name, direction], queue["waiting"])
            self.waiters.add_metric([name, direction], queue["peers"])
            self.longest.add_metric([name, direction], queue["longest"])
        for state, count in report["tokens"].items():
            self.tokens.add_metric([name, state], count)
        for pool in report["pools"]:
            labels = [name, str(pool["receiver"]), pool["direction"]]
            for size, key in (("small", "small"), ("train", "train")):
                self.slots.add_metric([*labels, size], pool[f"{key}_slots"])
                self.used.add_metric([*labels, size], pool[f"{key}_out"])
            for state in ("home", "mine", "queued", "in_hand"):
                self.nodes.add_metric([*labels, state], pool[state])
        for process in report["processes"]:
            self._add_process(name, process)

    def _add_counters(self, name: str, counters: dict[str, int]) -> None:
        for key, value in counters.items():
            if key in _FLOWS:
                self.packets.add_metric([name, key], value)
            elif key.startswith("drop_"):
                self.drops.add_metric([name, key.removeprefix("drop_")], value)
            elif key.startswith("hs_"):
                self.handshakes.add_metric([name, key.removeprefix("hs_")], value)
            elif key.startswith("knock_"):
                self.knocks.add_metric([name, key.removeprefix("knock_")], value)
            elif key.startswith("unknown_"):
                self.unknown.add_metric([name, key.removeprefix("unknown_")], value)
            elif key == "peers_evicted":
                self.evicted.add_metric([name], value)
            elif key.startswith("deaths_"):
                self.deaths.add_metric([name, key.removeprefix("deaths_")], value)
            else:  # one that is new in the engine gets a name of its own at once
                if key not in self.others:
                    self.others[key] = _counter(f"plait_{key}", key.replace("_", " "), "interface")
                self.others[key].add_metric([name], value)

    def _add_on_demand(self, name: str, told: dict[str, Any] | None) -> None:
        if told is None:  # an older engine tells nothing
            return
        self.parked.add_metric([name], told["parked"])
        seconds = told["seconds"]
        counts = itertools.accumulate(seconds["counts"])
        buckets = zip([*map(str, seconds["bounds"]), "+Inf"], counts, strict=True)
        self.answers.add_metric([name], list(buckets), seconds["sum"])

    def _add_process(self, name: str, process: dict[str, Any]) -> None:
        labels = [name, process["role"], str(process["number"])]
        self.running.add_metric(labels, process["state"] == "running")
        self.restarts.add_metric(labels, max(process["incarnation"] - 1, 0))
        if process["beat_ms"] is not None:
            self.beat.add_metric(labels, process["beat_ms"] / 1000)
        if process["role"] in ("receiver", "consumer"):
            for flow, count in process["packets"].items():
                self.flows.add_metric([*labels, flow], count)
        if process["cpu_seconds"] is not None:
            self.cpu.add_metric(labels, process["cpu_seconds"])
        if process["pss_bytes"] is not None:
            self.pss.add_metric(labels, process["pss_bytes"])


class PeerFamilies:
    """The metrics of peers, by the names and labels of prometheus_wireguard_exporter."""

    def __init__(self) -> None:
        labels = ("interface", "public_key", "allowed_ips", "friendly_name")
        self.sent = _counter("wireguard_sent_bytes", "Bytes sent to the peer", *labels)
        self.received = _counter("wireguard_received_bytes", "Bytes received from the peer", *labels)
        self.handshake = _gauge(
            "wireguard_latest_handshake_seconds", "Unix time of the latest handshake, 0 for never", *labels
        )

    def families(self) -> Iterator[Metric]:
        """Those with samples."""
        yield from (each for each in vars(self).values() if each.samples)

    def add(self, device: uapi_client.Device) -> None:
        """The samples of one interface's peers."""
        for peer in device.peers:
            labels = [device.name, peer.public_key, ",".join(peer.allowed_ips), peer.name]
            self.sent.add_metric(labels, peer.tx_bytes)
            self.received.add_metric(labels, peer.rx_bytes)
            self.handshake.add_metric(labels, peer.handshake_sec)
