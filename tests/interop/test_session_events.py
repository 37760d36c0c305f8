"""Events of sessions beside what really happened: a thousand peers connect within a second, and end."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator

import pytest

from plait import Key, SessionBegan, SessionEnded, Suppressed
from plait.api.events import Event, event_of
from plait.lab.namespaces import Engine, Lab, Link, Process
from plait.load import profile as load_profile
from plait.load.key_derivation import Keys, gateway_address, seed_bytes, setconf_text
from plait.load.process_orders import inner_networks, known_to
from tests.support.tunnel import Clock
from tests.support.waiting import until

pytestmark = pytest.mark.network
PORT, PEERS = 51820, 1000
PROFILE = """
peers = 1000
seed = "sessions"
[[phase]]
name = "storm"
handshakes = { rate = 1000, count = 1000 }
"""


class Scene:
    """A gateway under a clock of its own, and a load generator with its peers."""

    def __init__(self, lab: Lab) -> None:
        self.gateway, self.load = lab.add_hosts(["gateway", "load"])
        self.link: Link = lab.link(self.gateway, self.load)
        self.clock = Clock(self.gateway)
        profile = load_profile.parse(PROFILE, "storm.toml")
        (self.load.root / "run/storm.toml").write_text(PROFILE)
        keys, (network,) = Keys(seed_bytes(profile.seed)), inner_networks(profile)
        self.engine: Engine = self.gateway.engine("wg0", environment={"PLAIT_CLOCK": Clock.PATH})
        inner = f"{gateway_address(network)}/{network.prefixlen}"
        self.engine.configure(b64encode(keys.gateway()[0]).decode(), [], [inner], PORT)
        text = "".join(setconf_text(keys, known_to(profile, "gateway"), port=None))
        (self.gateway.root / "run/peers.conf").write_text(text)
        self.engine.wg("addconf", "wg0", "/run/peers.conf")
        self.peers = {
            Key(line.partition(" = ")[2]) for line in text.splitlines() if line.startswith("PublicKey")
        }

    def follow(self, *options: str) -> Process:
        program = self.gateway.popen(["plait", "events", "wg0", "--json", *options])
        until(lambda: "started" in program.output(), "it follows")
        return program

    def connect(self) -> None:
        """Each peer, once."""
        target = ["--target", self.link.endpoint(self.gateway, PORT)]
        target += ["--i-own-this-target", self.link.address(self.gateway)]
        load = self.load.popen(["plait", "load", "run", "/run/storm.toml", *target])
        assert load.wait() in (0, 98), load.output()[-2000:]  # 98: it was too slow at times


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        made = Scene(lab)
        assert len(made.peers) == PEERS
        yield made


def told(program: Process) -> list[Event]:
    return [event_of("wg0", json.loads(line)) for line in program.output().splitlines() if line[:1] == "{"]


def of(events: list[Event], kind: type[SessionBegan | SessionEnded], word: str) -> Counter[Key | None]:
    return Counter(event.peer for event in events if isinstance(event, kind) and event.kind == word)


def suppressed(program: Process) -> set[str]:
    """Kinds of events of which the program was only told how many more there were."""
    return {event.kind for event in told(program) if isinstance(event, Suppressed)}


def test_each_begin_and_end_of_a_session_is_told_once(scene: Scene) -> None:
    each, few = scene.follow("--sessions"), scene.follow()
    scene.connect()
    once = Counter(dict.fromkeys(scene.peers, 1))
    until(lambda: of(told(each), SessionBegan, "handshake_complete") == once, "every session has begun")
    scene.clock.step(181)
    until(lambda: of(told(each), SessionEnded, "keys_expired") == once, "every session has ended")
    assert of(told(each), SessionBegan, "handshake_complete") == once, "and none began again"
    assert not suppressed(each) & {"handshake_complete", "keys_expired"}
    # Whoever did not ask is told of a few, and how many more there were.
    until(lambda: suppressed(few) >= {"handshake_complete", "keys_expired"}, "the others are counted")
    assert len(of(told(few), SessionBegan, "handshake_complete")) < PEERS // 10
