"""`plait strip`, `save` and `reload`. The oracles: wg-quick, and what `plait up` makes of the same file.

    host a     10.200.1.1 fd00:200:1::1 ---- 10.200.1.2 fd00:200:1::2   host b, where a tunnel may end
    host twin  10.200.1.1 fd00:200:1::1 ---- 10.200.1.2 fd00:200:1::2   host end

What `reload` makes in host a, `up` makes in host twin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plait import uapi_client
from plait.keys import decode
from plait.lab.namespaces import Engine, Host, Lab, Peer, keypair, preshared_key
from plait.quick.commands import removals
from tests.support.tunnel import Transfer, eventually
from tests.unit.plait.test_quick import PRIVATE, PUBLIC, quick, state

pytestmark = pytest.mark.network

# Keeps a record for each interface; one server's name makes it fail, after it wrote.
RESOLVCONF = """#!/bin/sh
mkdir -p /run/records
case "$1" in
-a) cat > "/run/records/$2"; ! grep -q 192.0.2.66 "/run/records/$2" ;;
-d) rm -f "/run/records/$2" ;;
-l) cat "/run/records/$2" ;;
esac
"""

B_PRIVATE, B = keypair()
NEW_PRIVATE, _ = keypair()
C, D = (keypair()[1] for _ in range(2))
PSK = preshared_key()
FILE = "/run/wg0.conf"
HOOKS = """\
PreUp = echo pre %i >> /run/hooks
PostUp = echo post %i >> /run/hooks; ip link show %i >/dev/null
PreDown = echo predown %i %i >> /run/hooks
PostDown = echo postdown %i >> /run/hooks
"""


def text(
    interface: str, *peers: tuple[str, str], private: str = PRIVATE, port: int = 5182, more: str = ""
) -> str:
    """A file: lines of [Interface] and (public key, other lines) of each peer, separated by |."""
    lines = ["[Interface]", f"PrivateKey = {private}", f"ListenPort = {port}", *interface.split("|"), more]
    for key, rest in peers:
        lines += ["[Peer]", f"PublicKey = {key}", *rest.split("|")]
    return "\n".join(lines) + "\n"


NEAR = "Endpoint = 10.200.1.2:51820|AllowedIPs = "
FIRST = text(
    "Address = 10.8.0.1/24, fd08::1/64",
    (B, NEAR + "10.8.0.0/24, 10.20.0.0/16, fd08::/64"),
    (C, f"PresharedKey = {PSK}|AllowedIPs = 10.8.1.5/32, fd21::5/128|PersistentKeepalive = 25"),
)
TO_B = (B, NEAR + "10.8.0.0/24, 10.20.0.0/16")
TO_D = (D, "Endpoint = [fd00:200:1::2]:7|AllowedIPs = 10.30.0.0/16, fd30::/48")
# Behind the host's default route, whose MTU is 1400.
ALL4 = (D, "Endpoint = 192.0.2.9:7|AllowedIPs = 0.0.0.0/0")
ALL6 = (D, "Endpoint = 192.0.2.9:7|AllowedIPs = 0.0.0.0/0|AllowedIPs = ::/0")
# Each is reloaded where the one before is in force.
CHAIN = {
    "a peer goes and one comes, MTU": text("Address = 10.8.0.1/24, 10.9.9.9|MTU = 1300", TO_B, TO_D),
    "a peer changes": text(
        "Address = 10.8.0.1/24, 10.9.9.9|MTU = 1300",
        TO_B,
        (D, f"Endpoint = 10.200.1.2:8|PresharedKey = {PSK}|AllowedIPs = fd30::/48, 10.31.0.0/16|"
            "PersistentKeepalive = 5"),
    ),
    "the network of an address becomes a route": text("Address = 10.9.9.9", TO_B),
    "the only address changes": text("Address = 10.9.9.10/24", TO_B,
                                     (D, "AllowedIPs = 10.9.9.0/24|Endpoint = 10.200.1.2:6")),
    "everything, DNS": text("Address = 10.8.0.1/24, fd08::1/64|DNS = 10.8.0.53, corp.example", TO_B, ALL6),
    "the addresses in the firewall": text("Address = 10.8.0.2/24|DNS = 10.8.0.54|FwMark = off", TO_B, ALL6),
    "only IPv4, another mark": text("Address = 10.8.0.2/24, fd08::2/64|FwMark = 0x4d2", ALL4),
    "nothing that is everything": text("Address = 10.8.0.2/24, fd08::2/64|FwMark = off", TO_B, TO_D),
    "everything again": text("Address = 10.8.0.2/24", TO_B, ALL4),
    "the mark goes with it": text("Address = 10.8.0.2/24", TO_B),
    "an allowed IP moves": text("Address = 10.8.0.2/24", (B, NEAR + "10.8.0.0/24"),
                                (D, "Endpoint = 10.200.1.2:5|AllowedIPs = 10.20.0.0/16")),
    "keys and port": text("Address = 10.8.0.2/24", TO_B, TO_D, private=NEW_PRIVATE, port=5183),
    "nothing": text("Address = 10.8.0.2/24", TO_B, TO_D, private=NEW_PRIVATE, port=5183),
    "no peer, no address": text("", private=NEW_PRIVATE, port=5183),
}  # fmt: skip
IN_A_TABLE = {
    "another allowed IP": text("Address = 10.8.0.1/24|Table = 1234", (B, NEAR + "0.0.0.0/0, fd44::/64")),
    "another address": text("Address = 10.8.0.3/24|Table = 1234", (B, NEAR + "0.0.0.0/0, fd44::/64"), TO_D),
}


@dataclass
class Hosts:
    a: Host
    b: Host
    twin: Host


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Lab() as lab:
        a, b, twin, end = lab.add_hosts(["a", "b", "twin", "end"])
        for one, two in ((a, b), (twin, end)):
            lab.link(one, two, subnet4="10.200.1.0/24", subnet6="fd00:200:1::/64")
            one.ip("route add default via 10.200.1.2 mtu 1400")
            (one.root / "run/bin").mkdir()
            (one.root / "run/bin/resolvconf").write_text(RESOLVCONF)
            (one.root / "run/bin/resolvconf").chmod(0o755)
        yield Hosts(a, b, twin)


def write(host: Host, content: str) -> Path:
    path = host.root / FILE.lstrip("/")
    path.write_text(content)
    path.chmod(0o600)
    return path


def do(host: Host, verb: str, content: str) -> None:
    write(host, content)
    code, said = quick(host, "plait", verb, FILE, engine="")
    assert code == 0, said


def up(host: Host, content: str) -> None:
    """Set up, with nothing of an earlier test there."""
    if (host.root / "run/wireguard/wg0.sock").exists():
        down(host)
    do(host, "up", content)


def down(host: Host) -> None:
    host.run(["ip", "link", "delete", "wg0"], check=False)
    eventually(lambda: not (host.root / "run/wireguard/wg0.sock").exists())
    shell = """
rm -rf /run/records /run/hooks; nft flush ruleset
for f in 4 6; do
    rules=$(ip -$f rule show | awk -F: '$1 > 0 && $1 < 32766 { print $1 }')
    for rule in $rules; do ip -$f rule delete pref $rule; done
done"""
    host.run(["sh", "-c", shell])


def now(host: Host) -> dict[str, object]:
    """The host's state, in no order: addresses, routes, rules, firewall, wg, and what resolvconf has."""
    parts = state(host)
    for name, part in parts.items():
        if isinstance(part, list):
            for entry in part:
                infos = entry.get("addr_info", [])
                for info in infos:
                    info.pop("secondary", None)
                infos.sort(key=json.dumps)
                entry.pop("priority", None)  # of rules the order counts
            parts[name] = part if "rules" in name else sorted(part, key=json.dumps)
    lines = []
    for line in str(parts["wg"]).splitlines():
        fields = line.split("\t")
        if len(fields) == 8:
            fields[3] = ",".join(sorted(fields[3].split(",")))
            del fields[5:7]  # bytes
        lines.append(fields)
    parts["wg"] = lines[:1] + sorted(lines[1:])
    parts["firewall"] = sorted(str(parts["firewall"]).split("\n}\n"))
    parts["records"] = host.run(["sh", "-c", "cat /run/records/* 2>/dev/null"], check=False).stdout
    parts.pop("src_valid_mark")  # set with the first default route, and nobody takes it back
    return parts


def compare(ours: dict[str, object], theirs: dict[str, object], what: str) -> None:
    for part in ours:
        assert ours[part] == theirs[part], f"{what}: {part}"


@pytest.mark.parametrize("chain", [CHAIN, IN_A_TABLE], ids=["auto", "in a table"])
def test_reload_makes_what_up_makes(hosts: Hosts, chain: dict[str, str]) -> None:
    first = FIRST if chain is CHAIN else FIRST.replace("Address", "Table = 1234\nAddress")
    up(hosts.a, first)
    for what, content in chain.items():
        do(hosts.a, "reload", content)
        up(hosts.twin, content)
        compare(now(hosts.a), now(hosts.twin), what)
    down(hosts.twin)
    code, said = quick(hosts.a, "plait", "down", FILE, engine="")
    assert code == 0, said


def tunnel(hosts: Hosts) -> tuple[Engine, Engine]:
    """A tunnel from a (FIRST in force) to b (10.8.0.9, fd08::9), with a session."""
    up(hosts.a, FIRST)
    engine = hosts.b.engine("wg0")
    peer = Peer(PUBLIC, ["10.8.0.1/32", "fd08::1/128", "10.9.9.9/32"], "10.200.1.1:5182")
    engine.configure(B_PRIVATE, [peer], ["10.8.0.9/24", "fd08::9/64"], 51820)
    assert hosts.a.ping("10.8.0.9", 3).received == 3
    return Engine(hosts.a, "wg0", engine.process), engine


def sessions(engine: Engine, key: str) -> tuple[str, int]:
    """When the last handshake with the peer was, and how many there have been with anybody."""
    times = dict(line.split() for line in engine.wg("show", "wg0", "latest-handshakes").splitlines())
    counters = engine.counters()
    return times[key], counters["hs_response_accepted"] + counters["hs_initiation_accepted"]


LOST = ("drop_no_peer", "drop_no_endpoint", "drop_inner_source", "drop_peer_gone", "drop_keypair_gone",
        "drop_index_unknown", "drop_loop")  # fmt: skip


def lost(engine: Engine) -> dict[str, int]:
    return {name: count for name, count in engine.counters().items() if name in LOST}


def test_streams_go_on_while_the_file_changes_around_them(hosts: Hosts) -> None:
    a, b = tunnel(hosts)
    # Everything but the stream's peer, addresses and endpoint; and that peer's other allowed IPs.
    changed = text(
        "Address = 10.8.0.1/24, fd08::1/64, 10.9.9.9|MTU = 1380|DNS = 10.8.0.53",
        (B, NEAR + "10.8.0.0/24, fd08::/64, 10.21.0.0/16|PersistentKeepalive = 25"),
        (D, "AllowedIPs = 0.0.0.0/0, 10.20.0.0/16|Endpoint = 10.200.1.2:9"),
    )
    streams = [
        Transfer(hosts.a, hosts.b, "10.8.0.9", 1_000_000, endless=True),
        Transfer(hosts.b, hosts.a, "fd08::1", 1_000_000, endless=True),
    ]
    before = sessions(a, B), sessions(b, PUBLIC)
    dropped = lost(a), lost(b)
    for content in (changed, FIRST, changed, FIRST):
        moved = [int(number) for number in a.wg("show", "wg0", "transfer").splitlines()[0].split()[1:]]
        do(hosts.a, "reload", content)
        eventually(lambda moved=moved: _more(a, moved), 60)
    assert all(stream.is_flowing for stream in streams)
    assert (lost(a), lost(b)) == dropped
    for stream in streams:
        stream.finish()
    assert (sessions(a, B), sessions(b, PUBLIC)) == before
    b.stop()


def _more(engine: Engine, before: list[int]) -> bool:
    """A megabyte more went each way with B."""
    lines = [line.split() for line in engine.wg("show", "wg0", "transfer").splitlines()]
    moved = next([int(number) for number in rest] for key, *rest in lines if key == B)
    return all(now > then + 1_000_000 for now, then in zip(moved, before, strict=True))


FAILING = {
    "an address that the kernel refuses": (
        "failed", "Address = 10.8.0.1/24, fd08::1/64, 10.9.9.9, ff02::1/64", [TO_B],
    ),
    "a port that is taken": ("UDP port", "Address = 10.8.0.1/24|ListenPort = 7777", [TO_B, TO_D]),
    "DNS, the last step but one": (
        "resolvconf",
        "Address = 10.7.0.1/24|MTU = 1290|DNS = 192.0.2.66",
        [(B, NEAR + "10.8.1.5/32, 10.44.0.0/16"), ALL6],
    ),
    "the same, and no default route": ("resolvconf", "Address = 10.7.0.1/24|DNS = 192.0.2.66", [TO_B]),
    "the same, and another mark": ("resolvconf", "Address = 10.7.0.1/24|FwMark = 7|DNS = 192.0.2.66", [ALL4]),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
@pytest.mark.parametrize("first", ["routes", "everything"])
def test_a_step_that_fails_leaves_all_as_it_was(hosts: Hosts, first: str, case: str) -> None:
    said, interface, peers = FAILING[case]
    before_text = FIRST if first == "routes" else CHAIN["everything, DNS"]
    if not (hosts.a.root / "run/wireguard/wg0.sock").exists() or now(hosts.a)["wg"][0][2] != "5182":
        up(hosts.a, FIRST)
    do(hosts.a, "reload", before_text)
    hosts.a.ip("route add 10.99.0.0/16 dev wg0 metric 7")  # a hook's, as it were
    before = now(hosts.a)
    with hosts.a.socket() as taken:
        taken.bind(("0.0.0.0", 7777))
        write(hosts.a, text(interface, *peers))
        code, words = quick(hosts.a, "plait", "reload", FILE, engine="")
    assert code == 1 and said in words.splitlines()[-1]
    assert "Traceback" not in words and "[Errno" not in words
    compare(now(hosts.a), before, case)
    hosts.a.ip("route delete 10.99.0.0/16 dev wg0 metric 7")


def test_undoing_keeps_the_sessions(hosts: Hosts) -> None:
    a, b = tunnel(hosts)
    before = now(hosts.a), sessions(a, B)
    write(hosts.a, text("Address = 10.7.0.1/24|DNS = 192.0.2.66", TO_D))  # B is not in it
    code, _ = quick(hosts.a, "plait", "reload", FILE, engine="")
    assert code == 1
    compare(now(hosts.a), before[0], "undone")
    assert hosts.a.ping("10.8.0.9", 2).received == 2
    assert sessions(a, B) == before[1]
    b.stop()


@pytest.mark.parametrize("change, said", [
    ("Table = 77", "another Table"),
    ("Adress = 10.0.0.1", "/run/wg0.conf:4: "),
    ("DNS = 10.8.0.53", "resolvconf is not installed"),
])  # fmt: skip
def test_what_is_refused_changes_nothing(hosts: Hosts, change: str, said: str) -> None:
    if not (hosts.a.root / "run/wireguard/wg0.sock").exists():
        up(hosts.a, FIRST)
    do(hosts.a, "reload", FIRST)
    before = now(hosts.a)
    write(hosts.a, FIRST.replace("Address", f"{change}\nAddress"))
    code, words = quick(hosts.a, "plait", "reload", FILE, dns=False, engine="")
    assert code == 1 and said in words.splitlines()[-1]
    assert not any(line.startswith("[#]") for line in words.splitlines())
    compare(now(hosts.a), before, change)


def test_what_hooks_set_stays(hosts: Hosts) -> None:
    """A key, a route and a port that the file does not name are somebody else's."""
    bare = FIRST.replace(f"PrivateKey = {PRIVATE}\nListenPort = 5182\n", "")
    hook = "PostUp = wg set %i private-key /run/key listen-port 6000\n" + HOOKS
    hook += "PostUp = ip route add 10.99.0.0/16 dev %i; ip address add 172.20.16.1 peer 172.20.17.1 dev %i\n"
    (hosts.a.root / "run/key").write_text(PRIVATE)
    up(hosts.a, bare.replace("Address", f"{hook}Address"))
    before = now(hosts.a)
    do(hosts.a, "reload", bare.replace("Address", f"{hook}Address"))
    compare(now(hosts.a), before, "the same file")
    do(hosts.a, "reload", bare.replace("10.20.0.0/16", "10.21.0.0/16"))
    after = now(hosts.a)
    for part in ("hooks", "addresses"):
        assert after[part] == before[part]
    assert after["wg"][0] == before["wg"][0]
    routes = {entry["dst"] for entry in after["routes4"]}
    assert {"10.99.0.0/16", "10.21.0.0/16"} <= routes and "10.20.0.0/16" not in routes
    down(hosts.a)


def test_another_engine_is_reloaded_too(hosts: Hosts) -> None:
    """One that does not know how to take single allowed IPs away."""
    if (hosts.a.root / "run/wireguard/wg0.sock").exists():
        down(hosts.a)
    down(hosts.twin)
    content = CHAIN["a peer changes"]
    for host, first in ((hosts.a, CHAIN["a peer goes and one comes, MTU"]), (hosts.twin, content)):
        write(host, first)
        code, said = quick(host, "plait", "up", FILE)
        assert code == 0, said
    do(hosts.a, "reload", content)
    compare(now(hosts.a), now(hosts.twin), "wireguard-go")
    down(hosts.a)


# The wg-quick of Debian 12 cuts a hook at its first #.
WHOLE = HOOKS.replace(" # not a word", "")


@pytest.mark.parametrize("extra", ["", "SaveConfig = true\n", f"SaveConfig = false\nTable = 1234\n{WHOLE}"])
def test_save_writes_what_wg_quick_writes(hosts: Hosts, extra: str) -> None:
    if not (hosts.a.root / "run/wireguard/wg0.sock").exists():
        up(hosts.a, FIRST)
    do(hosts.a, "reload", FIRST)
    hosts.a.run(["wg", "set", "wg0", "peer", D, "allowed-ips", "10.50.0.0/16", "endpoint", "[2001:db8::1]:9"])
    hosts.a.ip("address add 10.77.0.1/30 dev wg0", "link set wg0 mtu 1290")
    saved = []
    for program in ("wg-quick", "plait"):
        path = write(hosts.a, FIRST.replace("Address", f"MTU = 1280\n# a comment\n{extra}Address"))
        code, said = quick(hosts.a, program, "save", FILE, engine="")
        assert code == 0, said
        assert path.stat().st_mode & 0o777 == 0o600
        # wg-quick saves the kernel's link-local address too. Peers have no order.
        lines = path.read_text().splitlines()
        lines = [line for line in lines if not line.startswith("Address = fe80")]
        saved.append(sorted("\n".join(lines).split("\n\n")))
    assert saved[0] == saved[1]
    assert {"MTU = 1290", "Address = 10.77.0.1/30", f"PublicKey = {D}"} <= set(lines)
    assert ("SaveConfig = true" in lines) == ("SaveConfig = true" in extra)
    do(hosts.a, "reload", FIRST)


def test_a_file_that_cannot_be_saved_is_as_it_was(hosts: Hosts) -> None:
    if not (hosts.a.root / "run/wireguard/wg0.sock").exists():
        up(hosts.a, FIRST)
    hosts.a.run(["sh", "-c", "mkdir -p /run/small; mount -t tmpfs -o size=4k,mode=700 small /run/small"])
    path = hosts.a.root / "run/small/wg0.conf"
    path.write_text(FIRST)
    path.chmod(0o600)
    code, words = quick(hosts.a, "plait", "save", "/run/small/wg0.conf", engine="")
    assert code == 1 and "cannot be saved" in words and "[Errno" not in words and "Traceback" not in words
    assert path.read_text() == FIRST and [entry.name for entry in path.parent.iterdir()] == ["wg0.conf"]
    hosts.a.run(["umount", "/run/small"])


def test_strip_prints_what_wg_quick_strip_prints(hosts: Hosts) -> None:
    odd = f"# head\n\n[interface]\n  address=10.0.0.1/8 # a\nprivatekey = {PRIVATE}#b\n{HOOKS}DNS=10.0.0.1\n"
    odd += f"FwMark=0x7\n[PEER]\n\tPublicKey={B}\nAllowedIPs = 10.0.0.0/8 # c\n\n"
    for content in (FIRST, FIRST.rstrip(), odd):
        write(hosts.a, content)
        theirs, ours = (hosts.a.run([program, "strip", FILE]).stdout for program in ("wg-quick", "plait"))
        assert ours == theirs
    hosts.a.run(["sh", "-c", f"umask 0; plait strip {FILE} > /run/public 2> /run/said"])
    assert "world accessible" in (hosts.a.root / "run/said").read_text()
    write(hosts.a, FIRST + "Speed = 9\n")
    done = hosts.a.run(["plait", "strip", FILE], check=False)
    assert (done.returncode, done.stdout) == (1, "") and f"{FILE}:" in done.stderr


@pytest.mark.parametrize("verb", ["save", "reload"])
def test_without_an_interface_or_rights_there_is_one_sentence(hosts: Hosts, verb: str) -> None:
    write(hosts.a, FIRST).rename(hosts.a.root / "run/wg9.conf")
    done = hosts.a.run(["plait", verb, "/run/wg9.conf"], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("plait: ") and "plait up /run/wg9.conf" in done.stderr
    write(hosts.a, FIRST).chmod(0o644)
    done = hosts.a.run(["unshare", "--user", "plait", verb, FILE], check=False)
    assert done.returncode == 1 and f"sudo plait {verb} {FILE}" in done.stderr




def test_limits_of_peers_are_set_changed_and_saved(hosts: Hosts) -> None:
    """By comments, which wg reads over; and not at all where the engine could not keep them."""

    def limits() -> list[tuple[int, int]]:
        told = json.loads(hosts.a.run(["plait", "show", "wg0", "--json"]).stdout)
        return sorted((peer["quota"], peer["expires"]) for peer in told[0]["peers"])

    def limited(*lines: str) -> str:
        return text("Address = 10.8.0.1/24", (C, "|".join(("AllowedIPs = 10.9.0.0/24", *lines))), TO_B)

    up(hosts.a, limited("# PlaitQuota = 5 GB", "# PlaitExpires = 2090-01-01"))
    assert limits() == [(0, 0), (5 * 10**9, 3786912000)]
    do(hosts.a, "reload", limited("# PlaitQuota = 6 GB"))
    assert limits() == [(0, 0), (6 * 10**9, 0)]
    code, said = quick(hosts.a, "plait", "save", FILE, engine="")
    saved = (hosts.a.root / FILE.lstrip("/")).read_text()
    assert code == 0 and "# PlaitQuota = 6000000000\n" in saved and "PlaitExpires" not in saved, said
    do(hosts.a, "reload", limited())
    assert limits() == [(0, 0), (0, 0)]
    down(hosts.a)
    write(hosts.a, limited("# PlaitQuota = 5 GB"))
    code, said = quick(hosts.a, "plait", "up", FILE, engine="wireguard-go")
    assert code == 1 and "needs an engine that keeps quotas" in said and "line " in said
    assert not (hosts.a.root / "run/wireguard/wg0.sock").exists()


def test_peers_on_demand_stay_when_the_file_changes() -> None:
    """They are the provider's, which nobody would tell of their end."""
    asked = uapi_client.Peer(D, allowed_ips=["10.8.0.77/32"], others={"on_demand": "1"})
    now, wanted = (uapi_client.Device("wg0", PRIVATE, 5182, 0) for _ in range(2))
    now.peers, wanted.peers = [uapi_client.Peer(B), uapi_client.Peer(C), asked], [uapi_client.Peer(B)]
    gone = [(peer.public_key, peer.remove) for peer in removals(now, wanted).peers]
    assert gone == [(decode(C), True)]


def test_names_of_peers_are_set_changed_and_saved(hosts: Hosts) -> None:
    """An engine of another make is told none, since it would refuse the whole."""

    def names() -> dict[str, str | None]:
        told = json.loads(hosts.a.run(["plait", "show", "wg0", "--json"]).stdout)
        return {peer["public_key"]: peer["name"] for peer in told[0]["peers"]}

    def named(*lines: str) -> str:
        return text("Address = 10.8.0.1/24", (C, "|".join(("AllowedIPs = 10.9.0.0/24", *lines))), TO_B)

    up(hosts.a, named("# Name = Andr\N{LATIN SMALL LETTER E WITH ACUTE}"))
    assert names() == {C: "Andr\N{LATIN SMALL LETTER E WITH ACUTE}", B: None}
    write(hosts.a, named("# friendly_name = Carol") + f"[Peer]\nPublicKey = {D}\n")
    code, said = quick(hosts.a, "plait", "reload", FILE, engine="")
    assert code == 0 and "[#] configure wg0: add 1 peer, change 1 of 2 peers\n" in said, said
    assert names() == {C: "Carol", B: None, D: None}
    do(hosts.a, "reload", named("# friendly_name = Carol"))
    assert names() == {C: "Carol", B: None}
    code, said = quick(hosts.a, "plait", "save", FILE, engine="")
    assert code == 0 and "# Name = Carol\n" in (hosts.a.root / FILE.lstrip("/")).read_text(), said
    do(hosts.a, "reload", named())
    assert names() == {C: None, B: None}
    down(hosts.a)
    write(hosts.a, named("# Name = Carol"))
    for verb in "up", "reload":
        code, said = quick(hosts.a, "plait", verb, FILE, engine="wireguard-go")
        assert code == 0, said
    assert names() == {C: None, B: None}
    down(hosts.a)
