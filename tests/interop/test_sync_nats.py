"""`plait sync` between a real NATS server and a real engine; what all stores share is in test_sync.py.

    host gateway   wg0 -- plaitd -- eth0 ---- eth0 -- wireguard-go -- c0   host client
                   plait sync, nats-server
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Lab, Process, keypair, preshared_key, search_path
from tests.support.needed import needed
from tests.support.sources import ROOT
from tests.support.syncing import PLAIT, Gateway
from tests.support.waiting import until

pytestmark = pytest.mark.network

PASSWORD = "not-for-lists"
RIGHTS = (ROOT / "configs/sync/nats-gateway.conf").read_text()
SERVER = """
listen: "127.0.0.1:4222"
jetstream {{ store_dir: "{place}" }}
accounts {{ VPN {{ jetstream: enabled, users: [
  {{ user: owner, password: owner }}
  {{ user: gateway, password: "{password}", permissions: {{ include "rights.conf" }} }}
  {{ user: stranger, password: "{password}", permissions: {{ publish: ["$JS.API.STREAM.INFO.KV_plait"] }} }}
] }} }}
"""
# Each line of stdin: a key and its value, or a key alone, which is deleted; `new` makes the bucket.
WRITER = """
import asyncio, sys, nats
async def main():
    client = await nats.connect("nats://127.0.0.1:4222", user="owner", password="owner")
    streams = client.jetstream()
    for line in sys.stdin:
        key, _, value = line.strip().partition(" ")
        if key == "new":
            try:
                await streams.delete_key_value("plait")
            except Exception:
                pass
            bucket = await streams.create_key_value(bucket="plait", history=1, direct=True)
        else:
            bucket = await streams.key_value("plait")
            key = key.translate(str.maketrans("+/", "-_"))
            await (bucket.put(key, value.encode()) if value else bucket.delete(key))
    await client.close()
asyncio.run(main())
"""


class Scene(Gateway):
    """A gateway, and a server with one bucket beside it."""

    url = "nats://127.0.0.1/plait"

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.environment = {"NATS_USER": "gateway", "NATS_PASSWORD": PASSWORD}
        self.place = self.host.root / "run/nats"
        self.place.mkdir()
        (self.place / "rights.conf").write_text(RIGHTS)
        (self.place / "server.conf").write_text(SERVER.format(place="/run/nats/streams", password=PASSWORD))
        self.start()

    def start(self) -> None:
        self.process: Process = self.host.popen(["nats-server", "-c", "/run/nats/server.conf"])
        until(lambda: "Server is ready" in self.process.output(), "the server takes connections")

    def reset(self) -> None:
        super().reset()
        self.write("new")

    def write(self, *lines: str) -> None:
        self.host.run([sys.executable, "-c", WRITER], text="\n".join(lines))

    def row(self, **fields: object) -> tuple[str, str]:
        """A new peer: its public key, and the line that makes its row."""
        public = keypair()[1]
        return public, line(public, **{"allowed_ips": [f"{next(self.addresses)}/32"], **fields})


def line(public: str, **fields: object) -> str:
    return f"{public} {json.dumps(fields)}"


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    needed("nats-server", is_there=shutil.which("nats-server", path=search_path()) is not None)
    with Lab() as lab:
        yield Scene(lab)


@pytest.fixture
def scene(made: Scene) -> Scene:
    made.reset()
    return made


def test_values_become_peers_and_every_change_follows(scene: Scene) -> None:
    secret = preshared_key()
    (first, one), prefixes = scene.row(), ["10.8.0.0/24", "fd00:7::/64"]
    second, two = scene.row(
        allowed_ips=prefixes, preshared_key=secret, endpoint="192.0.2.7:51820", keepalive=25
    )
    scene.write(one, two)
    with scene.syncing() as process:
        assert set(scene.peers()) == {first, second}
        told = scene.peers()[second]
        assert (sorted(told.allowed_ips), told.preshared_key, told.endpoint, told.keepalive) == (
            prefixes, secret, "192.0.2.7:51820", 25)  # fmt: skip
        third, three = scene.row()
        scene.write(first, line(second, keepalive=9), three)
        until(lambda: set(scene.peers()) == {second, third}, "what was deleted is gone")
        assert (scene.peers()[second].keepalive, scene.peers()[second].allowed_ips) == (9, [])
        assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text() + process.output()
        process.signal(signal.SIGKILL)
        process.wait()
    fourth, four = scene.row()
    scene.write(third, four)
    with scene.syncing():
        assert set(scene.peers()) == {second, fourth}
        told_of_it = scene.metrics()
        assert (told_of_it["plait_sync_snapshots_total"], told_of_it["plait_sync_applied_total"]) == (0, 2)


def test_a_bad_value_and_a_prefix_of_two_rows_are_refused_by_themselves(scene: Scene) -> None:
    (good, one), (other, _), (bad, _) = scene.row(allowed_ips=["10.8.0.0/24"]), scene.row(), scene.row()
    overlapping = line(other, allowed_ips=["10.9.0.0/24", "10.8.0.0/24"])
    misspelt = line(keypair()[1], allowed_ip=["10.10.0.0/24"])
    scene.write(one, overlapping, f"{bad} rubbish", "no.key {}", misspelt)
    with scene.syncing() as process:
        assert set(scene.peers()) == {good} and scene.peers()[good].allowed_ips == ["10.8.0.0/24"]
        assert scene.metrics()["plait_sync_refused_total"] == 4
        said = process.output()
        assert f"its allowed IP 10.8.0.0/24 is also that of the row of {good}" in said
        assert "no JSON object" in said and "its value has 'allowed_ip'" in said
        scene.write(line(good, allowed_ips=["10.8.1.0/24"]), line(bad, allowed_ips=["10.10.0.0/24"]))
        until(lambda: set(scene.peers()) == {good, other, bad}, "a prefix that was given up is the other's")
        assert sorted(scene.peers()[other].allowed_ips) == ["10.8.0.0/24", "10.9.0.0/24"]
        assert process.output().count("also that of") == 1, "a row that waits is refused once"


def test_a_dry_run_of_a_bucket(scene: Scene) -> None:
    (first, one), (second, two) = scene.row(), scene.row(allowed_ips=["10.8.0.0/24"])
    scene.write(one)
    scene.sync("--once")
    scene.write(two, line(keypair()[1], allowed_ips=["10.8.0.0/24"]), first)
    told = json.loads(scene.sync("--dry-run", "--json")[1])
    assert (told["add"], told["remove"], len(told["refuse"])) == ([second], [first], 1)


def test_a_server_that_goes_away_is_followed_again(scene: Scene) -> None:
    first, one = scene.row()
    scene.write(one)
    with scene.syncing() as process:
        scene.process.signal(signal.SIGKILL)
        until(lambda: scene.metrics()["plait_sync_store_up"] == 0, "it is told that the server is away")
        assert set(scene.peers()) == {first} and process.poll() is None
        scene.start()
        second, two = scene.row()
        scene.write(two)
        until(lambda: set(scene.peers()) == {first, second}, "what changed since is in force")


def test_each_mistake_is_one_sentence_and_changes_nothing(scene: Scene) -> None:
    key, one = scene.row()
    scene.write(one)
    scene.sync("--once")
    gateway = dict(scene.environment)
    for url, environment, words in (
        ("nats://127.0.0.1:4223", gateway, "Is it running"),
        ("nats://no.such.host.invalid", gateway, "Is it running"),
        ("nats://gateway:tell-nobody@127.0.0.1/plait", {}, "list of processes"),
        ("nats:///plait", gateway, "no hosts"),
        ("nats://127.0.0.1/a.b", gateway, "no name of a bucket"),
        ("nats://127.0.0.1/plait", {**gateway, "NATS_PASSWORD": "another-secret"}, "Mend its user"),
        ("nats://127.0.0.1/plait", {**gateway, "NATS_USER": "stranger"}, "ermissions"),
        ("nats://127.0.0.1/plait", {**gateway, "NATS_CA": "/none.pem"}, "certificates cannot be used"),
        ("nats://127.0.0.1/none", {"NATS_USER": "owner", "NATS_PASSWORD": "owner"}, "no such bucket"),
    ):
        command = [*PLAIT, "sync", "wg0", url, "--once", "--fresh"]
        done = scene.host.run(command, environment=environment, check=False)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines), done.stdout) == (1, 1, ""), (url, done.stderr)
        assert words in lines[0] and lines[0].startswith("plait: "), (url, lines)
        assert not any(secret in done.stderr for secret in (PASSWORD, "another-secret", "nobody"))
        assert set(scene.peers()) == {key}, url
    scene.write("new")
    code, _, said = scene.sync(check=False)
    assert code == 1 and "another store" in said and set(scene.peers()) == {key}
    scene.sync("--once", "--fresh")
    assert scene.peers() == {}


def test_peers_on_demand_out_of_a_bucket(scene: Scene) -> None:
    (private, public), address = keypair(), next(scene.addresses)
    scene.write(line(public, allowed_ips=[f"{address}/32"]))
    with scene.syncing("--on-demand"):
        until(lambda: scene.engine.report()["on_demand"]["providers"] == 1, "the engine has a provider")
        assert scene.peers() == {}
        with scene.client_engine(private, address):
            assert scene.client.ping("10.7.0.1", 1, wait=30).received == 1
            scene.write(public)
            until(lambda: not scene.peers(), "the peer goes with its value")
