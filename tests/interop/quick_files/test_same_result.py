"""Files as the public writes them, through the newest wg-quick and through `plait up`: the same result.

    host wg-quick   eth0 10.200.1.1 fd00:200:1::1 ---- 10.200.1.2 fd00:200:1::2   host end of wg-quick
                    eth1 10.200.2.1 fd00:200:2::1 ---- 10.200.2.2 fd00:200:2::2   (MTU 9000)
    host plait      the same, with an end of its own

Each file of files/ has the shape of a public one (keys, order, spacing, hooks); its keys were made for it,
and its addresses are those of documentation and private networks. wg-quick is Debian's newest
(scripts/newest-wg-quick) and starts plaitd; both ways run side by side. Endpoints are behind a default
route whose MTU is 1400, those of 198.51.100.0/24 behind the other cable.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab, keypair
from tests.support.sources import sources
from tests.support.tunnel import eventually

pytestmark = pytest.mark.network

FILES = sources("tests/interop/quick_files/files/*.conf", at_least=30)
SCRIPT = Path(__file__).parents[3] / "scripts/newest-wg-quick"
FILE = "/run/etc/wg0.conf"

# Programs that write down how they were called: what a hook wants of them is the hook's business.
TOLD = ("iptables", "ip6tables", "resolvectl")
TELL = """#!/bin/sh
printf '%s' "${0##*/}" >> /run/hooks
printf ' [%s]' "$@" >> /run/hooks
echo >> /run/hooks
"""
RESOLVCONF = """#!/bin/sh
printf '%s' resolvconf >> /run/resolvconf
printf ' [%s]' "$@" >> /run/resolvconf
echo >> /run/resolvconf
[ "$1" != -a ] || sed 's/^/  /' >> /run/resolvconf
"""
# Where the kernel has the module, wg-quick would take it: adding such a link fails, as it does without.
NO_MODULE = """#!/bin/sh
case " $* " in *" type wireguard "*) echo "Error: Unknown device type." >&2; exit 2 ;; esac
exec {ip} "$@"
"""
HIDE_MODULE = """
[ ! -e /sys/module/wireguard ] || mount -t tmpfs lab /sys/module
if ip link add probe type wireguard 2>/dev/null; then ip link delete probe; echo module; fi
"""

# What is different for a reason, by file ("" for all) and part.
INTENDED: dict[str, dict[str, str]] = {
    "17-save-config-server": {
        "resolvconf": "wg-quick asks resolvconf for the name servers that it saves and loses search domains; "
        "plait saves the file's DNS lines"
    },
}
# What a file's own hooks, or wg-quick, leave behind after `down`; both ways leave the same.
LEFT: dict[str, dict[str, str]] = {
    "": {"resolvconf": "a log of calls", "hooks": "a log", "saved": "the file"},
    "07-two-interfaces": {"sysctl": "a hook switches rp_filter, and no hook switches it back"},
    "27-nft-server": {"sysctl": "a hook switches forwarding on, and no hook switches it off"},
}
SRC_VALID_MARK = "net.ipv4.conf.all.src_valid_mark"
STATE = f"""
for what in 'link show' 'address show' '-4 route show table all' '-6 route show table all' '-4 rule show' \\
    '-6 rule show'
do
    ip -json $what; echo; echo ====
done
nft list ruleset; echo ====
wg showconf wg0 2>/dev/null; echo ====
cd /proc/sys/net # sysctl would read all that there is
grep -s . ipv4/ip_forward* ipv[46]/conf/all/* ipv[46]/conf/default/* ipv[46]/conf/eth0/* \\
    ipv[46]/conf/wg0/*; echo ====
cat /run/resolvconf 2>/dev/null; echo ====
cat /run/hooks 2>/dev/null; echo ====
cat {FILE} 2>/dev/null; true
"""
PARTS = ("links", "addresses", "routes4", "routes6", "rules4", "rules6", "firewall", "showconf", "sysctl",
         "resolvconf", "hooks", "saved")  # fmt: skip
RANDOM = ("ifindex", "link_index", "address", "stable-privacy")

State = dict[str, str]


def state(host: Host) -> State:
    """All that a file can change, as the host's programs tell it: text by part, without what is random."""
    told = host.run(["sh", "-c", STATE]).stdout
    told = re.sub(r"fe80::[0-9a-f]{1,4}:[0-9a-f:]+", "fe80::x", told).replace(" policy accept;", "")
    parts = dict(zip(PARTS, told.split("====\n"), strict=True))
    for name in PARTS[:6]:
        entries = json.loads(parts[name].strip() or "[]")
        entries = [{key: entry[key] for key in entry if key not in RANDOM} for entry in entries]
        lines = [json.dumps(entry, sort_keys=True) for entry in entries]
        parts[name] = "\n".join(lines if "rules" in name else sorted(lines))
    parts["firewall"] = "\n".join(sorted(parts["firewall"].split("\n}\n")))
    parts["sysctl"] = "\n".join(sorted(line for line in parts["sysctl"].splitlines() if "secret" not in line))
    parts["showconf"] = "\n\n".join(sorted(_showconf(parts["showconf"])))
    parts["saved"] = "\n".join(line for line in parts["saved"].splitlines() if "= fe80::x" not in line)
    return parts


def _showconf(text: str) -> Iterator[str]:
    for section in text.strip().split("\n\n"):
        yield "\n".join(sorted(_sorted_list(line) for line in section.splitlines()))


def _sorted_list(line: str) -> str:
    key, _, value = line.partition(" = ")
    return f"{key} = {', '.join(sorted(value.split(', ')))}"


@dataclass
class Way:
    """A host, and the program that it gives files to."""

    host: Host
    program: str
    before: State = field(default_factory=dict)

    def run(self, verb: str) -> None:
        environment = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "plaitd", "WG_ENDPOINT_RESOLUTION_RETRIES": "0"}
        shell = 'export PATH="/run/bin:$PATH"; exec "$@"'
        arguments = ["sh", "-c", shell, "sh", self.program, verb, FILE]
        done = self.host.run(arguments, environment=environment, check=False)
        assert done.returncode == 0, f"{self.program} {verb}: {done.stderr}"
        gone = self.host.root / "run/wireguard/wg0.sock"
        if verb == "down":  # wg-quick does not wait for the engine
            eventually(lambda: not gone.exists())

    def result(self, text: bytes) -> tuple[State, State]:
        """The host's state while a file is in force, and after it was taken down."""
        self.clean()
        (self.host.root / FILE.lstrip("/")).write_bytes(text)
        self.run("up")
        during = state(self.host)
        self.run("down")
        return during, state(self.host)

    def clean(self) -> None:
        """Nothing of an earlier file is left, even of one that failed."""
        self.host.run(["ip", "link", "delete", "wg0"], check=False)
        eventually(lambda: not (self.host.root / "run/wireguard/wg0.sock").exists())
        shell = f"""
rm -f /run/hooks /run/resolvconf {FILE}; nft flush ruleset
for f in 4 6; do
    rules=$(ip -$f rule show | awk -F: '$1 > 0 && $1 < 32766 {{ print $1 }}')
    for rule in $rules; do ip -$f rule delete pref $rule; done
done
sysctl -q -w {SRC_VALID_MARK}=0 net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=0"""
        self.host.run(["sh", "-c", shell])
        # An engine leaves this one off, as the kernel module does.
        self.host.run(["sysctl", "-q", "-w", "net.ipv4.conf.all.send_redirects=0"])
        self.before = state(self.host)


@pytest.fixture(scope="module")
def newest() -> Path:
    """Debian's newest wg-quick; this host's, and a word of that, where it cannot be had."""
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False, timeout=200)
    if done.returncode == 0:
        path = Path(done.stdout.strip())
        print(f"\nwg-quick of Debian's newest wireguard-tools: {path.parent.name}")
        return path
    print(f"\nNOT the newest wg-quick, this host's: {done.stderr.strip()}")
    return Path("wg-quick")


@pytest.fixture(scope="module")
def ways(newest: Path) -> Iterator[Mapping[str, Way]]:
    key, _ = keypair()
    with Lab() as lab:
        made = {}
        for name, program in (("wg-quick", str(newest)), ("plait", "plait")):
            host, end = lab.add_hosts([name, f"end of {name}"])
            for number, mtu in ((1, 1500), (2, 9000)):
                net4, net6 = f"10.200.{number}.0/24", f"fd00:200:{number}::/64"
                lab.link(host, end, subnet4=net4, subnet6=net6, mtu=mtu)
            host.ip("route add default via 10.200.1.2 mtu 1400", "route add 198.51.100.0/24 via 10.200.2.2",
                    "route add ::/0 via fd00:200:1::2")
            for directory, mode in (("bin", 0o755), ("etc", 0o700), ("keys", 0o700)):
                (host.root / "run" / directory).mkdir(mode=mode)
            (host.root / "run/keys/wg0.key").write_text(f"{key}\n")
            programs = {**dict.fromkeys(TOLD, TELL), "resolvconf": RESOLVCONF}
            if host.run(["sh", "-c", HIDE_MODULE]).stdout:
                programs["ip"] = NO_MODULE.format(ip=host.run(["sh", "-c", "command -v ip"]).stdout.strip())
            for program_name, script in programs.items():
                path = host.root / "run/bin" / program_name
                path.write_text(script)
                path.chmod(0o755)
            made[name] = Way(host, program)
        yield made


def test_there_are_thirty_files_with_keys_of_their_own() -> None:
    assert len(FILES) >= 30
    keys: list[str] = []
    for file in FILES:
        text = file.read_text()
        assert text.startswith("# Follows ")
        keys += set(re.findall(r"[A-Za-z0-9+/]{43}=", text))
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_result_is_wg_quicks(ways: Mapping[str, Way], file: Path) -> None:
    text = file.read_bytes()
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(ways, pool.map(lambda way: way.result(text), ways.values()), strict=True))
    left = LEFT[""] | LEFT.get(file.stem, {})
    intended = INTENDED.get("", {}) | INTENDED.get(file.stem, {})
    wrong = []
    for moment, when in enumerate(("up", "after down")):
        theirs, ours = (results[name][moment] for name in ("wg-quick", "plait"))
        if not re.search(rb"(?im)^listenport", text):  # the engine's own choice
            for parts in (theirs, ours):
                parts["showconf"] = re.sub(r"ListenPort = \d+\n", "", parts["showconf"])
        wrong += [_difference(f"{when}, {part}", theirs[part], ours[part]) for part in PARTS
                  if theirs[part] != ours[part] and part not in intended]  # fmt: skip
    path = SRC_VALID_MARK.removeprefix("net.").replace(".", "/")
    for name, way in ways.items():
        after = results[name][1]
        after["sysctl"] = after["sysctl"].replace(f"{path}:1", f"{path}:0")
        wrong += [_difference(f"{name} left", way.before[part], after[part]) for part in PARTS
                  if way.before[part] != after[part] and part not in left]  # fmt: skip
    assert not wrong, "\n" + "\n".join(wrong)
    assert '"wg0"' in results["plait"][0]["links"] and "AllowedIPs" in results["plait"][0]["showconf"]


def _difference(what: str, theirs: str, ours: str) -> str:
    lines = difflib.unified_diff(theirs.splitlines(), ours.splitlines(), "wg-quick", "plait", "", "", 0, "")
    return "\n".join([f"{what}:", *lines])
