"""Kills of control and of providers under a storm of unknown peers:
`python -m tests.robustness.soak.lookup_kills`, as root.

    load  plait load ── eth0 ──── eth0 ── wg0 (plaitd)  gateway, two `plait peers --file`

One provider stands by. Every few seconds control or a provider is killed with -9; a provider is started
again. Peers are in the providers' file alone. Behind it every peer has its session and nothing is parked.
Exit code 99 when somebody waited longer than for one try more, or an initiation has ended in no counter.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from base64 import b64encode

import click

from plait.lab.namespaces import Engine, Host, Lab, Process
from plait.load import profile as load_profile
from plait.load.key_derivation import Keys, gateway_address, seed_bytes, setconf_text
from plait.load.process_orders import inner_networks, known_to
from shm.marks import marked
from tests.support.waiting import until

PORT = 51820
FILE, PROFILE, RESULT = "run/accounts.conf", "run/storm.toml", "run/result.json"
STORM = """
peers = {peers}
seed = "{seed}"
target = "{target}"
[[population]]
name = "coming"
known = "provider"
[[phase]]
name = "storm"
drain = 15.0
handshakes = {{ rate = {rate}, count = {peers} }}
"""
PAUSES = 2.0, 8.0  # seconds between two kills
TRY_AGAIN = 6.0  # seconds: a client's second try comes 5 s behind its first
ENDS = marked("end message")


def provide(host: Host) -> Process:
    """A provider, which serves or stands by when this returns."""
    provider = host.popen(["plait", "peers", "wg0", "--file", f"/{FILE}"])
    until(lambda: any(word in provider.output() for word in ("is asked about", "stands by")), "a provider")
    return provider


def kill_on(engine: Engine, providers: list[Process], load: Process, chance: random.Random) -> dict[str, int]:
    """Until the load has ended; how often each was killed."""
    killed = {"control": 0, "provider": 0}
    while True:
        pause = time.monotonic() + chance.uniform(*PAUSES)
        while time.monotonic() < pause:
            if load.poll() is not None:
                return killed
            time.sleep(0.05)
        kind = chance.choice(list(killed))
        killed[kind] += 1
        if kind == "control":
            old = until(lambda: engine.host.titles("wg0").get("control", 0), "a control")
            os.kill(old, signal.SIGKILL)
            until(lambda old=old: engine.host.titles("wg0").get("control", old) != old, "the next")
        else:
            place = chance.randrange(len(providers))
            providers[place].signal(signal.SIGKILL)
            providers[place].wait()
            providers[place] = provide(engine.host)


@click.command()
@click.option("--seconds", default=300, show_default=True)
@click.option("--rate", default=200, show_default=True, help="New peers a second.")
@click.option("--seed", default=0, help="0: another one each time; it is printed.")
def main(seconds: int, rate: int, seed: int) -> None:
    """Kill at random for so long."""
    seed = seed or random.SystemRandom().randrange(1, 1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    with Lab() as lab:
        gateway, client = lab.add_hosts(["gateway", "load"])
        link = lab.link(gateway, client)
        text = STORM.format(peers=seconds * rate, rate=rate, seed=seed, target=link.endpoint(gateway, PORT))
        (client.root / PROFILE).write_text(text)
        profile = load_profile.parse(text, PROFILE)
        keys = Keys(seed_bytes(profile.seed))
        engine = gateway.engine("wg0", settings=f"max_peers = {seconds * rate + 1}\n")
        (network,) = inner_networks(profile)
        inner = f"{gateway_address(network)}/{network.prefixlen}"
        engine.configure(b64encode(keys.gateway()[0]).decode(), [], [inner], PORT)
        with (gateway.root / FILE).open("w") as file:
            file.writelines(setconf_text(keys, known_to(profile, "provider"), port=None, psk=profile.psk))
        providers = [provide(gateway), provide(gateway)]
        words = ["plait", "load", "run", f"/{PROFILE}", "--json", f"/{RESULT}"]
        load = client.popen([*words, "--i-own-this-target", link.address(gateway)])
        killed = kill_on(engine, providers, load, chance)
        assert load.wait() in (0, 98), load.output()[-2000:]  # 98: the generator itself was too slow at times
        result = json.loads((client.root / RESULT).read_text())
        until(lambda: not engine.report()["on_demand"]["parked"], "nothing is parked")
        counters = engine.counters()
    (phase,) = result["phases"]
    longest = phase["metrics"]["handshake_max"]
    ended = {name: counters[name] for name in ENDS if counters.get(name)}
    metrics = phase["metrics"]
    print(f"killed: {killed}; {metrics['handshakes']:.0f} of {profile.peers} peers have sessions, "
          f"{metrics['retries']:.0f} of them by a later try; the longest waited {longest:.2f} s")  # fmt: skip
    sent = phase["counters"]["initiations"] + round(metrics["retries"])
    print(f"{sent} initiations were sent, {sum(ended.values())} have ended: {ended}")
    assert phase["metrics"]["handshakes"] == profile.peers, "a peer has no session"
    if longest > TRY_AGAIN:
        print(f"a peer waited for more than {TRY_AGAIN:g} s: kills met it twice")
    if sum(ended.values()) != sent:
        print(f"{sent - sum(ended.values())} initiations have no counter")
    sys.exit(99 if longest > TRY_AGAIN or sum(ended.values()) != sent else 0)


if __name__ == "__main__":
    main(prog_name="python -m tests.robustness.soak.lookup_kills")
