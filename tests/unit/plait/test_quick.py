"""`plait up` and `plait down`: the oracle is wg-quick.

    host a   eth0 10.200.1.1 fd00:200:1::1 ---- eth0 10.200.1.2 fd00:200:1::2   host b

Both programs are given the same file in hosts that are alike, once each; what `ip`, `nft` and
`wg` tell afterwards must be the same, and after `down` as it was before. Debian 12 has the wg-quick of
September 2021: where that of February 2026 (1.0.20260223) does otherwise, tests say what to expect
themselves. docs/wg-quick.md has all of it in one table.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab, keypair, search_path
from tests.support.waiting import until

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
PreUp = echo pre %i >> /run/hooks # not a word
PostUp = echo post %i >> /run/hooks; ip link show %i >/dev/null
PreDown = echo predown %i %i >> /run/hooks
PostDown = echo postdown %i >> /run/hooks
"""

LAST_ONES = "mtu = 1400\nMtU=1300\nTABLE=7\ntable=8\nSAVEconfig = TRUE\nsaveconfig = False\n"
SSH = """\
Table = 1234
PostUp = ip rule add ipproto 6 dport 22 table 1234
PreDown = ip rule delete ipproto 6 dport 22 table 1234
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
    "search domains alone": TOP + ADDRESSES + "DNS = example.com\n" + NEAR,
    "keys in any case, the last one counts": TOP + ADDRESSES.lower() + LAST_ONES + NEAR,
    "Latin-1": TOP + "# caf\udce9\nPostUp = echo caf\udce9 >> /run/hooks\n" + ADDRESSES + NEAR,
    "ends of DOS": (TOP + ADDRESSES + HOOKS + NEAR).replace("\n", "\r\n"),
    "no end of the last line": TOP + ADDRESSES + NEAR.rstrip(),
    "SSH alone, as in the manual": TOP + ADDRESSES + SSH + EVERYTHING,
    "a hook asks for the mark": TOP + ADDRESSES + "PostUp = wg show %i fwmark >> /run/hooks\n" + EVERYTHING,
    "two sections of one peer": TOP + ADDRESSES + NEAR + f"{PEER}AllowedIPs = 10.8.7.0/24\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[Host]:
    """A host with an /etc of its own, cables to two others, one with a large MTU, and a default route."""
    with Lab() as lab:
        a, b, c = lab.add_hosts(["a", "b", "c"])
        lab.link(a, b)
        lab.link(a, c, mtu=9000)
        a.ip("route add default via 10.200.1.2 mtu 1400")
        a.run(["sh", "-c", "mkdir /run/etc /run/bin && cp -a /etc/. /run/etc && mount --bind /run/etc /etc"])
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
    if program == "wg-quick" and verb == "down":
        wait_for_ends(host)
    return done.returncode, done.stderr


def wait_for_ends(host: Host) -> None:
    """Until no engine is left without its link: wg-quick and ip do not wait, and wg would ask it."""
    deadline = time.monotonic() + 60
    for sock in host.root.glob("run/wireguard/*.sock"):
        if not host.run(["ip", "link", "show", "dev", sock.stem], check=False).returncode:
            continue
        while sock.exists() and time.monotonic() < deadline:
            time.sleep(0.02)


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
    for name in ("wg0", "wg1"):
        host.run(["ip", "link", "delete", name], check=False)  # of a test that failed, or let it stand
    wait_for_ends(host)
    for name in ("resolvconf.log", "hooks"):
        (host.root / "run" / name).unlink(missing_ok=True)
    (host.root / "run/wg0.conf").unlink(missing_ok=True)
    host.run(["sh", "-c", f"echo 0 > /{SRC_VALID_MARK}"])
    return state(host)


def write(host: Host, text: str) -> Path:
    path = host.root / "run/wg0.conf"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
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


def test_plaitd_is_that_beside_the_command_as_it_was_called(hosts: Host) -> None:
    """Else an upgrade would not see that the links lead to another version now."""
    fresh(hosts)
    write(hosts, FILES["plain"])
    links = hosts.root / "run/links"
    links.mkdir()
    for name in ("plait", "plaitd"):
        (links / name).symlink_to(Path(sys.executable).parent / name)
    code, words = quick(hosts, "/run/links/plait", "up", "/run/wg0.conf", engine="")
    assert (code, words.splitlines()[0]) == (0, "[#] /run/links/plaitd wg0")
    told = hosts.run(["plait", "upgrade", "--dry-run", "wg0"]).stdout
    assert told.startswith("wg0: /run/links/plaitd can take over: ")
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


def test_an_engine_that_does_not_start_is_one_sentence(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["plain"])
    for engine in ("false", "/no/such/program"):
        code, words = quick(hosts, "plait", "up", "/run/wg0.conf", engine=engine)
        assert code == 1 and words.splitlines()[-1].startswith("plait: ")
        assert state(hosts) == before
    assert "no program /no/such/program. Mend WG_QUICK_USERSPACE_IMPLEMENTATION, " in words


def test_more_peers_than_there_is_room_for(hosts: Host) -> None:
    before = fresh(hosts)
    (hosts.root / "run/small.toml").write_text("max_peers = 1\n")
    # Settings have room for 64 peers at least.
    keys = (base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 66))
    path = write(hosts, TOP + "".join(f"[Peer]\nPublicKey = {key}\n" for key in keys))
    environment = {"PATH": search_path(), "PLAIT_CONFIG": "/run/small.toml"}
    done = hosts.run(["plait", "up", f"/run/{path.name}"], environment=environment, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        "plait: wg0 stays as it was: its engine has no room for so many peers or allowed IPs. "
        "Raise max_peers in /etc/plait/wg0.toml, or free /dev/shm if it is full. Start it again."
    )
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


def test_with_a_level_the_engine_logs_where_the_command_does(hosts: Host) -> None:
    """The command reads what other programs say out of a file that it deletes; a log there is lost."""
    fresh(hosts)
    write(hosts, FILES["no peer"])
    command = "LOG_LEVEL=info plait up /run/wg0.conf 2>/run/said && plait down /run/wg0.conf"
    hosts.run(["sh", "-c", command])
    said, last = hosts.root / "run/said", r"plait: wg0 supervisor: .*nothing is left"
    until(lambda: re.search(last, said.read_text()), "the log, whose end may come behind that of the command")


# --- where wg-quick has changed since 2021 --------------------------------------------------------


def test_pre_up_runs_when_the_interface_exists_and_what_it_sets_stays(hosts: Host) -> None:
    """With plaitd: a private key, a port, a mark and a peer by wg(8), and a name that is known by then."""
    fresh(hosts)
    (hosts.root / "run/key").write_text(f"{PRIVATE}\n")
    other = keypair()[1]
    before = f"""[Interface]
PreUp = ip link show %i >/dev/null
PreUp = wg set %i private-key <(cat /run/key) listen-port 7777 fwmark 0x99
PreUp = wg set %i peer {other} allowed-ips 10.99.0.0/16
PreUp = grep far.test /etc/hosts || echo 10.200.1.2 far.test >> /etc/hosts
"""
    write(hosts, before + f"{PEER}Endpoint = far.test:51820\nAllowedIPs = 10.8.0.0/24\n")
    code, said = quick(hosts, "plait", "up", "/run/wg0.conf", engine="")
    assert code == 0, said
    dump = str(state(hosts)["wg"]).splitlines()
    assert dump[0].split("\t") == [PRIVATE, PUBLIC, "7777", "0x99"]
    peers = {row.split("\t")[0]: row.split("\t")[2:4] for row in dump[1:]}
    assert peers == {other: ["(none)", "10.99.0.0/16"], OTHER: ["10.200.1.2:51820", "10.8.0.0/24"]}
    assert "10.99.0.0/16" in json.dumps(state(hosts)["routes4"])
    assert quick(hosts, "plait", "down", "/run/wg0.conf", engine="")[0] == 0


def test_bash_gets_a_hook_whole(hosts: Host) -> None:
    """`#` in quotes is a part of the command, and a comment is one because bash takes it for one."""
    fresh(hosts)
    hook = 'PostUp = echo "tunnel #1" "$PATH" >> /run/hooks # as "tunnel #2"'
    path = write(hosts, f"{TOP}SaveConfig = true\n{hook}\n{ADDRESSES}{NEAR}")
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    assert (hosts.root / "run/hooks").read_text() == f"tunnel #1 {search_path()}:/run/bin\n"
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0
    assert hook in path.read_text().splitlines()


def test_hooks_see_wg_quicks_variables_and_options(hosts: Host) -> None:
    words = "$INTERFACE $CONFIG_FILE $MTU ${TABLE:-none} ${ADDRESSES[*]} ${DNS[*]} ${DNS_SEARCH[*]} $LC_ALL"
    hooks = f"PostUp = echo {words} >> /run/hooks; env | grep -c ^INTERFACE= >> /run/hooks || true\n"
    hooks += "PostUp = [[ abab == +(ab) ]] && echo +(*) >/dev/null\n"
    given = "Address = 10.8.0.1/24, fd08::1/64\nDNS = 10.8.0.53, a.test\nMTU = 1300\n"
    (hosts.root / "run/link").mkdir()
    (hosts.root / "run/link/wg0.conf").symlink_to("/run/wg0.conf")
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        write(hosts, TOP + given + hooks + NEAR)
        code, said = quick(hosts, program, "up", "/run/link/wg0.conf")
        assert code == 0, said
        expected = "wg0 /run/wg0.conf 1300 none 10.8.0.1/24 fd08::1/64 10.8.0.53 a.test C\n0\n"
        assert (hosts.root / "run/hooks").read_text() == expected, program
        assert quick(hosts, program, "down", "/run/link/wg0.conf")[0] == 0


def test_the_mtu_is_that_of_the_narrowest_way(hosts: Host) -> None:
    fresh(hosts)
    wide = f"[Peer]\nPublicKey = {keypair()[1]}\nEndpoint = 10.200.2.2:51820\nAllowedIPs = 10.8.2.0/24\n"
    lost = f"[Peer]\nPublicKey = {keypair()[1]}\nEndpoint = [2001:db8::9]:51820\nAllowedIPs = 10.8.3.0/24\n"
    write(hosts, TOP + ADDRESSES + wide + NEAR + lost)  # 9000, 1500, and no way
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    assert '"mtu": 1420' in json.dumps(state(hosts)["addresses"])
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


def test_the_way_is_that_of_marked_datagrams(hosts: Host) -> None:
    """wg-quick asks for the way of packets without a mark, which the engine sends none of."""
    fresh(hosts)
    write(hosts, f"{TOP}FwMark = 0x99\n{ADDRESSES}{NEAR}")
    hosts.ip("rule add fwmark 0x99 table 77", "route add default via 10.200.2.2 table 77")
    try:
        assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
        assert '"mtu": 8920' in json.dumps(state(hosts)["addresses"])
        assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0
    finally:
        hosts.ip("rule delete fwmark 0x99 table 77", "route flush table 77")


def test_without_any_way_the_mtu_is_ethernets(hosts: Host) -> None:
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        write(hosts, FILES["no peer"])
        hosts.ip("route delete default")
        try:
            assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
        finally:
            hosts.ip("route add default via 10.200.1.2 mtu 1400")
        assert '"mtu": 1420' in json.dumps(state(hosts)["addresses"]), program
        assert quick(hosts, program, "down", "/run/wg0.conf")[0] == 0


def test_an_interface_may_be_called_like_a_word_of_ip(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["everything"]).rename(hosts.root / "run/type.conf")
    for verb in ("up", "down"):
        code, said = quick(hosts, "plait", verb, "/run/type.conf")
        assert code == 0, said
    after = state(hosts)
    after.pop("src_valid_mark"), before.pop("src_valid_mark")
    assert after == before


def test_rules_come_before_the_default_route_and_go_before_the_link(hosts: Host) -> None:
    fresh(hosts)
    write(hosts, TOP + ADDRESSES + "DNS = 10.8.0.53\n" + EVERYTHING)
    up, down = (quick(hosts, "plait", verb, "/run/wg0.conf")[1] for verb in ("up", "down"))
    for family in ("-4", "-6"):
        steps = [f"ip {family} rule add not", f"ip {family} rule add table main", f"ip {family} route add"]
        assert in_order(up, *steps, "nft -f"), up
    steps = ["-4 rule delete", "-6 rule delete", "link delete", "resolvconf -d", "nft delete"]
    assert in_order(down, *steps), down
    assert "rule delete" not in down.partition("link delete")[2]


def in_order(said: str, *steps: str) -> bool:
    """Whether these words follow each other, maybe with others between."""
    at = 0
    return all((at := said.find(step, at)) >= 0 for step in steps)


@contextlib.contextmanager
def mounted(host: Host, place: str, how: str) -> Iterator[None]:
    host.run(["sh", "-c", how])
    try:
        yield
    finally:
        host.run(["umount", place])


READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"  # as containers have it


def test_a_mark_setting_that_is_1_is_not_written(hosts: Host) -> None:
    fresh(hosts)
    hosts.run(["sh", "-c", f"echo 1 > /{SRC_VALID_MARK}"])
    write(hosts, FILES["everything"])
    with mounted(hosts, "/proc/sys", READ_ONLY):
        code, said = quick(hosts, "plait", "up", "/run/wg0.conf")
        assert code == 0, said
        assert "sysctl" not in said
        assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


def test_a_mark_setting_that_cannot_be_written_is_told(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["everything"])
    with mounted(hosts, "/proc/sys", READ_ONLY):
        code, said = quick(hosts, "plait", "up", "/run/wg0.conf")
    assert code == 1
    assert "src_valid_mark cannot be set to 1: Read-only file system. In a container, set it" in said
    assert "Errno" not in said and state(hosts) == before


@pytest.mark.parametrize("order", [("wg0", "wg1"), ("wg1", "wg0")])
def test_two_full_tunnels_keep_their_own_rules(hosts: Host, order: tuple[str, str]) -> None:
    """Down with one of them: the other goes on, and the LAN is still reached by its cable."""
    before = fresh(hosts)
    write(hosts, FILES["everything"])
    second = hosts.root / "run/wg1.conf"
    second.write_text(f"[Interface]\nAddress = 10.9.0.1/24, fd09::1/64\n{EVERYTHING}")
    second.chmod(0o600)
    for name in ("wg0", "wg1"):
        assert quick(hosts, "plait", "up", f"/run/{name}.conf")[0] == 0
    first, last = order
    assert quick(hosts, "plait", "down", f"/run/{first}.conf")[0] == 0
    assert sum("suppress_prefixlength 0" in rule for rule in rules(hosts)) == 2  # IPv4 and IPv6
    assert sum("not from all fwmark" in rule for rule in rules(hosts)) == 2
    assert "dev eth1" in hosts.run(["ip", "route", "get", "10.200.2.2"]).stdout
    assert f"dev {last}" in hosts.run(["ip", "route", "get", "192.0.2.1"]).stdout
    assert quick(hosts, "plait", "down", f"/run/{last}.conf")[0] == 0
    after = state(hosts)
    after.pop("src_valid_mark"), before.pop("src_valid_mark")
    assert after == before


def test_what_a_dead_engine_left_goes_with_the_next_down(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["everything"])
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    hosts.run(["ip", "link", "delete", "wg0"])
    wait_for_ends(hosts)
    assert len([rule for rule in rules(hosts) if "not from all fwmark" in rule]) == 2
    code, words = quick(hosts, "plait", "down", "/run/wg0.conf")
    assert code == 1 and "goes with plait up and plait down" in words
    for verb in ("up", "down"):
        assert quick(hosts, "plait", verb, "/run/wg0.conf")[0] == 0
    after = state(hosts)
    after.pop("src_valid_mark"), before.pop("src_valid_mark")
    assert after == before


KILL_SWITCH = """\
FwMark = 51820
PostUp = for f in -4 -6; do ip $f route replace unreachable default metric 4096 table 51820; done
PreDown = for f in -4 -6; do ip $f route del unreachable default metric 4096 table 51820; done
"""


def test_a_dead_engine_leaves_traffic_to_the_main_table_unless_a_last_route_stands(hosts: Host) -> None:
    """As docs/wg-quick.md has it."""
    assert KILL_SWITCH in (Path(__file__).parents[3] / "docs/wg-quick.md").read_text()

    def way(address: str, *mark: str) -> str:
        return hosts.run(["ip", "route", "get", address, *mark], check=False).stdout

    for program in ("wg-quick", "plait"):
        for lines, leaks in (("FwMark = 51820\n", True), (KILL_SWITCH, False)):
            before = fresh(hosts)
            write(hosts, TOP + ADDRESSES + lines + EVERYTHING)
            assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
            assert "dev wg0" in way("192.0.2.1") and "dev eth0" in way("10.200.1.2")
            hosts.run(["ip", "link", "delete", "wg0"])
            wait_for_ends(hosts)
            assert ("dev eth0" in way("192.0.2.1")) == leaks, program
            assert "dev eth0" in way("10.200.1.2") and "dev eth0" in way("192.0.2.1", "mark", "51820")
            assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
            assert "dev wg0" in way("192.0.2.1")
            assert quick(hosts, program, "down", "/run/wg0.conf")[0] == 0
            after = state(hosts)
            after.pop("src_valid_mark"), before.pop("src_valid_mark")
            assert after == before, program


def rules(host: Host) -> list[str]:
    return host.run(["sh", "-c", "ip -4 rule; ip -6 rule"]).stdout.splitlines()


def test_a_full_tunnel_that_fails_takes_no_rule_of_another(hosts: Host) -> None:
    fresh(hosts)
    write(hosts, FILES["everything"])
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    during = rules(hosts)
    second = hosts.root / "run/wg1.conf"
    second.write_text(f"[Interface]\nFwMark = 51820\n{EVERYTHING}")  # the same table
    second.chmod(0o600)
    code, said = quick(hosts, "plait", "up", "/run/wg1.conf")
    assert code == 1 and "has this route" in said
    assert rules(hosts) == during
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


def test_resolvconfs_name_has_a_prefix_except_where_systemd_took_its_place(hosts: Host) -> None:
    fresh(hosts)
    (hosts.root / "etc/resolvconf").mkdir()
    (hosts.root / "etc/resolvconf/interface-order").write_text("lo.inet*\ntun*\neth*\n")
    program, moved = hosts.root / "run/bin/resolvconf", hosts.root / "run/bin/resolvectl"
    try:
        for expected in ("tun.wg0", "wg0"):
            (hosts.root / "run/resolvconf.log").unlink(missing_ok=True)
            write(hosts, FILES["DNS"])
            assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
            assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0
            log = (hosts.root / "run/resolvconf.log").read_text().splitlines()
            assert log[0] == f"-a {expected} -m 0 -x" and log[-1] == f"-d {expected} -f"
            if expected == "tun.wg0":
                program.rename(moved)
                program.symlink_to("resolvectl")
    finally:
        if moved.exists():
            moved.replace(program)
        (hosts.root / "etc/resolvconf/interface-order").unlink()
        (hosts.root / "etc/resolvconf").rmdir()


def test_a_resolvconf_that_fails_does_not_stop_down(hosts: Host) -> None:
    program = hosts.root / "run/bin/resolvconf"
    for command in ("wg-quick", "plait"):
        before = fresh(hosts)
        write(hosts, FILES["DNS"])
        assert quick(hosts, command, "up", "/run/wg0.conf")[0] == 0
        program.write_text("#!/bin/sh\nexit 1\n")
        try:
            code, said = quick(hosts, command, "down", "/run/wg0.conf")
        finally:
            program.write_text(RESOLVCONF)
        assert code == 0, said
        after = state(hosts)
        after.pop("resolvconf"), before.pop("resolvconf")
        assert after == before


# --- what goes wrong ------------------------------------------------------------------------------


NO_IPV6 = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1"


@pytest.mark.parametrize("setup, text, said", [
    (NO_IPV6, FILES["plain"],
     "IPv6 is disabled on this device. Allow IPv6 here (sysctl net.ipv6.conf.all.disable_ipv6=0)"),
    (NO_IPV6, TOP + "Address = 10.8.0.1/24\n" + EVERYTHING,
     "IPv6 is disabled on nexthop device. Allow IPv6 here"),
    ("ip route add 10.66.0.0/16 dev eth0", TOP + f"Table = main\n{PEER}AllowedIPs = 10.66.0.0/16\n",
     "File exists. Another interface has this route (ip -4 route show table all)"),
    ("true", TOP + "Address = 10.8.0.1/24, 10.8.0.1/24\n", ". It was set twice, by the file, by a hook"),
    ("true", TOP + f"Table = nowhere\n{PEER}AllowedIPs = 10.66.0.0/16\n", ". Mend that and try again."),
], ids=["no IPv6", "no IPv6 for a route", "route of another", "address twice", "no such table"])  # fmt: skip
def test_what_ip_refuses_is_one_sentence_with_a_next_step(
    hosts: Host, setup: str, text: str, said: str
) -> None:
    fresh(hosts)
    hosts.run(["sh", "-c", setup])
    try:
        before = state(hosts)
        write(hosts, text)
        code, words = quick(hosts, "plait", "up", "/run/wg0.conf")
        assert code == 1
        assert said in words and ".." not in words.splitlines()[-1], words
        assert state(hosts) == before
    finally:
        hosts.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0"])
        hosts.run(["ip", "route", "delete", "10.66.0.0/16"], check=False)


@pytest.mark.parametrize("data, said", [
    (b"\xef\xbb\xbf" + FILES["plain"].encode(), "/run/wg0.conf:1: a byte order mark"),
    (FILES["plain"].encode("utf-16"), "/run/wg0.conf: not UTF-8 (UTF-16): each character takes two bytes"),
    (FILES["plain"].encode("utf-16-be"), "save it as UTF-8 without a byte order mark"),
    (b"[Interface]\nTable = caf\xe9\n", "/run/wg0.conf:2: not a table (Table = caf?)"),
    (b"[Interface]\nJc = 4\n", "the other end speaks AmneziaWG, another protocol"),
    (b"[NetDev]\nName=wg0\n", "this is a file of systemd-networkd"),
], ids=["mark", "UTF-16", "UTF-16, no mark", "Latin-1 in a value", "AmneziaWG", "networkd"])  # fmt: skip
def test_what_a_file_is_instead_is_told(hosts: Host, data: bytes, said: str) -> None:
    before = fresh(hosts)
    write(hosts, "").write_bytes(data)
    code, words = quick(hosts, "plait", "up", "/run/wg0.conf")
    assert code == 1 and said in words, words
    assert state(hosts) == before


def test_two_sections_of_one_peer_are_one_peer(hosts: Host) -> None:
    fresh(hosts)
    write(hosts, FILES["two sections of one peer"])
    code, words = quick(hosts, "plait", "up", "/run/wg0.conf")
    assert code == 0
    assert "[#] configure wg0: 1 peer\n" in words
    line = FILES["two sections of one peer"].splitlines()
    first, second = (number for number, text in enumerate(line, 1) if text == "[Peer]")
    again = f"/run/wg0.conf:{second}: the [Peer] of line {first} again, whose AllowedIPs it replaces. Mend it"
    assert again in words
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


def test_help_says_what_the_argument_is(hosts: Host) -> None:
    for verb in ("up", "down"):
        assert "FILE|INTERFACE" in hosts.run(["plait", verb, "--help"]).stdout
        assert hosts.run(["plait", verb], check=False).returncode == 2


def test_a_file_that_everybody_may_read_is_told(hosts: Host) -> None:
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        write(hosts, FILES["no peer"]).chmod(0o644)
        code, words = quick(hosts, program, "up", "/run/wg0.conf")
        assert code == 0 and "world accessible" in words, program
        assert quick(hosts, program, "down", "/run/wg0.conf")[0] == 0


def test_a_bare_word_is_a_file_in_etc_wireguard(hosts: Host) -> None:
    folder = hosts.root / "etc/wireguard"
    folder.mkdir(exist_ok=True)
    (folder / "wg0.conf").write_text(FILES["plain"])
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        assert quick(hosts, program, "up", "wg0")[0] == 0
        assert quick(hosts, program, "down", "wg0")[0] == 0
    code, words = quick(hosts, "plait", "up", "wg1")
    assert code == 1 and "/etc/wireguard/wg1.conf cannot be read: No such file or directory" in words
    code, words = quick(hosts, "plait", "up", "/run/no name.conf")
    assert code == 1 and "not a wg-quick file name" in words


@pytest.fixture
def without_nft(hosts: Host) -> Iterator[None]:
    """The folder of nft without nft and iptables; bash would also find what cannot be run there."""
    folder = hosts.run(["sh", "-c", "dirname $(readlink -f $(command -v nft))"]).stdout.strip()
    copy = f"rm -rf /run/copy && cp -a {folder} /run/copy && rm -f /run/copy/nft /run/copy/*tables*"
    with mounted(hosts, folder, f"{copy} && mount --bind /run/copy {folder}"):
        yield


def test_without_nft_and_iptables_there_is_a_warning(hosts: Host, without_nft: None) -> None:
    fresh(hosts)
    write(hosts, FILES["everything"])
    code, words = quick(hosts, "plait", "up", "/run/wg0.conf")
    assert code == 0, words
    assert words.count("Warning: nft and iptables are missing") == 2  # IPv4 and IPv6
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0


IPTABLES = """#!/bin/sh
case ${0##*/} in
    *-restore) echo "${0##*/} $@" >> /run/iptables.log; tee -a /run/iptables.log > "/run/${0##*/}d" ;;
    *-save) sed 's/^-I/-A/' "/run/${0##*/}d" ;;
esac
"""
OF_OTHERS = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n"


def test_without_nft_iptables_does_the_same(hosts: Host, without_nft: None) -> None:
    """Compared by what iptables-restore is told; iptables-save tells what was added, and what others did."""
    families = ("iptables", "ip6tables")
    names = [f"{family}{end}" for family in families for end in ("", "-save", "-restore")]
    places = [hosts.root / "run/bin" / name for name in names]
    for place in places:
        place.write_text(IPTABLES)
        place.chmod(0o755)
    logs: dict[str, str] = {}
    log = hosts.root / "run/iptables.log"
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        log.unlink(missing_ok=True)
        write(hosts, FILES["everything"])
        code, said = quick(hosts, program, "up", "/run/wg0.conf")
        assert code == 0, said
        for family in families:
            told = (hosts.root / f"run/{family}-restored").read_text()
            (hosts.root / f"run/{family}-saved").write_text(f"# by iptables\n{OF_OTHERS}{told}")
        code, said = quick(hosts, program, "down", "/run/wg0.conf")
        assert code == 0, said
        logs[program] = re.sub(r"fe80::[0-9a-f:]+", "fe80::x", log.read_text())
    for place in places:
        place.unlink()
    assert "-I PREROUTING" in logs["plait"] and "-D PREROUTING" in logs["plait"]
    assert logs["plait"] == logs["wg-quick"]


def test_who_is_not_root_is_told_what_to_run(hosts: Host) -> None:
    before = fresh(hosts)
    write(hosts, FILES["plain"])
    somebody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    somebody += " --inh-caps -all,+dac_override --ambient-caps -all,+dac_override"  # files are open to it
    done = hosts.run(["sh", "-c", f"exec {somebody} $(command -v plait) up /run/wg0.conf"], check=False)
    assert done.returncode == 1
    command = re.search(r"Run: sudo (\S+) up /run/wg0.conf", done.stderr)
    assert command and (hosts.root / command[1].lstrip("/")).exists()
    assert state(hosts) == before


@pytest.mark.parametrize("hook, left", [("PreDown", True), ("PostDown", False)])
def test_a_hook_of_down_that_fails_ends_down_there(hosts: Host, hook: str, left: bool) -> None:
    for program in ("wg-quick", "plait"):
        fresh(hosts)
        write(hosts, f"{TOP}{hook} = false\n{hook} = echo later >> /run/hooks\n{NEAR}")
        assert quick(hosts, program, "up", "/run/wg0.conf")[0] == 0
        assert quick(hosts, program, "down", "/run/wg0.conf")[0] != 0
        assert bool(hosts.run(["ip", "link", "show", "wg0"], check=False).stdout) == left, program
        assert not (hosts.root / "run/hooks").exists()


def test_down_without_a_file_that_can_be_read_names_the_way_out(hosts: Host) -> None:
    """wg-quick refuses as well. What the sentence names works."""
    before = fresh(hosts)
    path = write(hosts, f"{TOP}{NEAR}")
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    good = path.read_text()
    for text, why in ((good + "Adress = 1.2.3.4\n", "wg0.conf:"), (None, "No such file or directory")):
        path.unlink()
        if text is not None:
            write(hosts, text)
        else:
            assert quick(hosts, "wg-quick", "down", "/run/wg0.conf")[0] != 0
        code, words = quick(hosts, "plait", "down", "/run/wg0.conf")
        assert code == 1 and why in words
        assert "wg0 is still up. Without the file it ends by: ip link delete dev wg0." in words
        assert hosts.run(["wg", "show", "interfaces"]).stdout == "wg0\n"
    hosts.run(["ip", "link", "delete", "dev", "wg0"])
    wait_for_ends(hosts)
    code, words = quick(hosts, "plait", "down", "/run/wg0.conf")
    assert code == 1 and "still up" not in words
    write(hosts, good)
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    assert quick(hosts, "plait", "down", "/run/wg0.conf")[0] == 0
    assert state(hosts) == before


def test_a_save_that_was_killed_does_not_stop_the_next(hosts: Host) -> None:
    fresh(hosts)
    path = write(hosts, f"{TOP}SaveConfig = true\n{NEAR}")
    assert quick(hosts, "plait", "up", "/run/wg0.conf")[0] == 0
    path.with_suffix(".conf.tmp").write_text("half a fi")
    code, words = quick(hosts, "plait", "down", "/run/wg0.conf")
    assert code == 0, words
    assert PRIVATE in path.read_text() and not path.with_suffix(".conf.tmp").exists()
