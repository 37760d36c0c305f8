"""`plait up` and `plait down`: the oracle is wg-quick.

    host a   eth0 10.200.1.1 fd00:200:1::1 ---- eth0 10.200.1.2 fd00:200:1::2   host b

Both programs are given the same file in hosts that are alike, once each; what `ip`, `nft` and
`wg` tell afterwards must be the same, and after `down` as it was before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab import Host, Lab, keypair

pytestmark = pytest.mark.network

SRC_VALID_MARK = "proc/sys/net/ipv4/conf/all/src_valid_mark"
RESOLVCONF = """#!/bin/sh
echo "$@" >> /run/resolvconf.log
[ "$1" != -a ] || sed 's/^/  /' >> /run/resolvconf.log
"""

PRIVATE, PUBLIC = keypair()
_, OTHER = keypair()
PEER = f"[Peer]\nPublicKey = {OTHER}\n"
NEAR = f"{PEER}Endpoint = 10.200.1.2:51820\nAllowedIPs = 10.8.0.0/24, 10.8.1.5/32, fd08::/64\n"
EVERYTHING = f"{PEER}Endpoint = 10.200.1.2:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
TOP = f"[Interface]\nPrivateKey = {PRIVATE}\nListenPort = 5182\n"
ADDRESSES = "Address = 10.8.0.1/24, fd08::1/64\nAddress = 10.9.9.9\n"

HOOKS = """\
PreUp = echo pre %i >> /run/hooks # not a command
PostUp = echo post %i >> /run/hooks; ip link show %i >/dev/null
PreDown = echo predown %i %i >> /run/hooks
PostDown = echo postdown %i >> /run/hooks
"""

FILES = {
    "plain": TOP + ADDRESSES + NEAR,
    "no address": TOP + NEAR,
    "MTU given": TOP + ADDRESSES + "MTU = 1300\n" + NEAR,
    "endpoint over IPv6": TOP + ADDRESSES + NEAR.replace("10.200.1.2", "[fd00:200:1::2]"),
    "MTU of a jumbo way": TOP + ADDRESSES + NEAR.replace("10.200.1.2", "10.200.2.2"),
    "no endpoint": TOP + ADDRESSES + f"{PEER}AllowedIPs = 10.8.0.0/24\n",
    "no peer": TOP + ADDRESSES,
    "everything": TOP + ADDRESSES + EVERYTHING,
    "everything by IPv4": TOP + ADDRESSES + f"{PEER}AllowedIPs = 0.0.0.0/0\n",
    "everything, mark given": TOP + "FwMark = 0x4d2\n" + ADDRESSES + EVERYTHING,
    "table off": TOP + ADDRESSES + "Table = off\n" + EVERYTHING,
    "table by number": TOP + ADDRESSES + "Table = 1234\n" + EVERYTHING,
    "table main": TOP + ADDRESSES + "Table = main\n" + PEER + "AllowedIPs = 10.66.0.0/16, fd66::/64\n",
    "hooks": TOP + ADDRESSES + HOOKS + NEAR,
    "DNS": TOP + ADDRESSES + "DNS = 10.8.0.53, fd08::53, example.com\nDNS = corp.example\n" + NEAR,
}  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[Host]:
    """A host with cables to two others, one of them with a large MTU, and a default route."""
    with Lab() as lab:
        a, b, c = lab.add_hosts(["a", "b", "c"])
        lab.link(a, b)
        lab.link(a, c, mtu=9000)
        a.ip("route add default via 10.200.1.2 mtu 1400")
        (a.root / "run/bin").mkdir()
        (a.root / "run/bin/resolvconf").write_text(RESOLVCONF)
        (a.root / "run/bin/resolvconf").chmod(0o755)
        yield a


def quick(
    host: Host, program: str, verb: str, path: str, *, dns: bool = True, engine: str = "wireguard-go"
) -> tuple[int, str]:
    """Run `plait up` or `wg-quick up` (or down). Exit code and stderr."""
    environment = {
        "WG_QUICK_USERSPACE_IMPLEMENTATION": engine,
        "WG_ENDPOINT_RESOLUTION_RETRIES": "0",
        "RES_OPTIONS": "timeout:1 attempts:1",
    }
    shell = 'export PATH="$PATH:/run/bin"; exec "$@"' if dns else 'exec "$@"'
    done = host.run(["sh", "-c", shell, "sh", program, verb, path], environment=environment, check=False)
    return done.returncode, done.stderr


STATE = f"""
for what in 'address show' '-4 route show table all' '-6 route show table all' '-4 rule show' '-6 rule show'
do
    ip -json $what; echo; echo ====
done
nft list ruleset; echo ====
wg show wg0 dump 2>&1; echo ====
cat /{SRC_VALID_MARK}; echo ====
cat /run/resolvconf.log 2>/dev/null; echo ====
cat /run/hooks 2>/dev/null; true
"""
RANDOM = ("ifindex", "link_index", "address", "stable-privacy")


def state(host: Host) -> dict[str, object]:
    """All that an interface changes, as the host's programs tell it, without what is random."""
    told = host.run(["sh", "-c", STATE]).stdout
    told = re.sub(r"fe80::[0-9a-f:]+", "fe80::x", told).replace(" policy accept;", "")
    names = ("addresses", "routes4", "routes6", "rules4", "rules6", "firewall", "wg", "src_valid_mark",
             "resolvconf", "hooks")  # fmt: skip
    parts: dict[str, object] = dict(zip(names, told.split("====\n"), strict=True))
    for name in names[:5]:
        entries = json.loads(str(parts[name]).strip() or "[]")
        parts[name] = [{key: entry[key] for key in entry if key not in RANDOM} for entry in entries]
    return parts


def fresh(host: Host) -> dict[str, object]:
    """The state before, with nothing of an earlier run."""
    host.run(["ip", "link", "delete", "wg0"], check=False)  # of a test that failed
    for name in ("resolvconf.log", "hooks"):
        (host.root / "run" / name).unlink(missing_ok=True)
    (host.root / "run/wg0.conf").unlink(missing_ok=True)
    host.run(["sh", "-c", f"echo 0 > /{SRC_VALID_MARK}"])
    return state(host)


def write(host: Host, text: str) -> Path:
    path = host.root / "run/wg0.conf"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("case", FILES)
def test_the_host_is_as_wg_quick_would_make_it(hosts: Host, case: str) -> None:
    told: dict[str, list[dict[str, object]]] = {}
    for program in ("wg-quick", "plait"):
        before = fresh(hosts)
        write(hosts, FILES[case])
        code, said = quick(hosts, program, "up", "/run/wg0.conf")
        assert code == 0, said
        during = state(hosts)
        assert during != before
        code, said = quick(hosts, program, "down", "/run/wg0.conf")
        assert code == 0, said
        after = state(hosts)
        told[program] = [during, after]
        for key in ("resolvconf", "hooks", "src_valid_mark"):  # these remember
            before.pop(key), after.pop(key)
        assert after == before
    for ours, theirs in zip(told["plait"], told["wg-quick"], strict=True):
        for key in ours:
            assert ours[key] == theirs[key], key


def test_either_takes_down_what_the_other_set_up(hosts: Host) -> None:
    for first, second in (("plait", "wg-quick"), ("wg-quick", "plait")):
        before = fresh(hosts)
        write(hosts, FILES["everything"])
        code, said = quick(hosts, first, "up", "/run/wg0.conf")
        assert code == 0, said
        code, said = quick(hosts, second, "down", "/run/wg0.conf")
        assert code == 0, said
        after = state(hosts)
        after.pop("src_valid_mark"), before.pop("src_valid_mark")
        assert after == before


@pytest.mark.parametrize("line, section, said", [
    ("PostUp = false", "[Interface]\n", "the hook `false` failed"),
    ("PreUp = exit 3", "[Interface]\n", "exit code 3"),
    ("Address = 10.200.1.1/24, 10.200.1.1/24", "[Interface]\n", "failed"),
    ("PostUp = kill -TERM $PPID; sleep 5", "[Interface]\n", ""),
    ("DNS = 10.8.0.53", "[Interface]\n", "resolvconf is not installed"),
    ("Endpoint = no-such-name.invalid:1", "", "has no address"),
    ("Adress = 10.0.0.1", "[Interface]\n", "/run/wg0.conf:2: "),
    ("AllowedIPs = 10.0.0.0/33", "", "33"),
])  # fmt: skip
def test_a_step_that_fails_leaves_the_host_as_it_was(hosts: Host, line: str, section: str, said: str) -> None:
    before = fresh(hosts)
    text = FILES["everything"]
    write(hosts, text.replace(section, f"{section}{line}\n", 1) if section else f"{text}{line}\n")
    code, words = quick(hosts, "plait", "up", "/run/wg0.conf", dns=False)
    assert code != 0
    assert said in words
    assert "Traceback" not in words and "[Errno" not in words
    assert state(hosts) == before
    assert not (hosts.root / "run/wireguard/wg0.sock").exists()


def test_a_bare_word_that_is_a_file_here_is_told_so(hosts: Host) -> None:
    words = hosts.run(["sh", "-c", "cd /run; touch base.conf; plait up base.conf"], check=False).stderr
    assert "write ./base.conf for the file here" in words


def test_an_engine_that_does_not_start_is_one_sentence(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["plain"])
    for engine in ("false", "/no/such/program"):
        code, words = quick(hosts, "plait", "up", "/run/wg0.conf", engine=engine)
        assert code == 1 and words.splitlines()[-1].startswith("plait: ")
        assert state(hosts) == before


def test_an_interface_that_exists_is_left_alone(hosts: Host) -> None:
    fresh(hosts)
    write(hosts, FILES["plain"])
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    during = state(hosts)
    code, words = quick(hosts, "plait", "up", "/run/wg0.conf")
    assert code == 1 and "already exists" in words
    assert state(hosts) == during
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0
    code, words = quick(hosts, "plait", "down", "/run/wg0.conf")
    assert code == 1 and "no engine listens" in words


def test_save_config_writes_what_wg_quick_writes(hosts: Host) -> None:
    extra = "SaveConfig = true\nMTU = 1300\nTable = 1234\nPostUp = true %i\nPostUp = true 2\nPreDown = true\n"
    saved = []
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        path = write(hosts, TOP + extra + ADDRESSES + NEAR)
        assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
        hosts.run(["wg", "set", "wg0", "listen-port", "777", "peer", OTHER, "persistent-keepalive", "9"])
        hosts.ip("address add 10.77.0.1/30 dev wg0", "link set wg0 mtu 1290")
        code, said = quick(hosts, program, "down", "/run/wg0.conf")
        assert code == 0, said
        assert path.stat().st_mode & 0o777 == 0o600
        # wg-quick saves the kernel's link-local address too, and the name servers that resolvconf tells.
        lines = path.read_text().splitlines()
        saved.append([line for line in lines if not line.startswith("Address = fe80")])
        assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
        assert quick(hosts, program, "down", "/run/wg0.conf")[0] == 0
    assert saved[0] == saved[1]
    assert "ListenPort = 777" in saved[1] and "Address = 10.77.0.1/30" in saved[1]


def test_without_wg_quicks_variable_the_engine_is_plaitd(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["everything"])
    code, said = quick(hosts, "plait", "up", "/run/wg0.conf", engine="")
    assert code == 0, said
    assert json.loads(hosts.run(["plait", "show", "--engine", "--json"]).stdout)["wg0"]["peers"] == 1
    during = state(hosts)
    assert "51820" in json.dumps(during["rules4"]) and "51820" in json.dumps(during["rules6"])
    code, said = quick(hosts, "plait", "down", "/run/wg0.conf", engine="")
    assert code == 0, said
    after = state(hosts)
    after.pop("src_valid_mark"), before.pop("src_valid_mark")
    assert after == before
    assert not (hosts.root / "run/wireguard/wg0.sock").exists()
