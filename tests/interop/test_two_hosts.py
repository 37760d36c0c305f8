"""docs/two-hosts.md, block by block and as it stands, on two hosts whose firewalls let nothing in.

Three things are not the page's: addresses and directories are those of the lab, the public keys are
pasted, and systemctl is a stand-in, since a namespace has no systemd: it runs what the unit says.
scripts/setup and git are left out, because these tests run out of what is installed; scripts/fresh runs
the first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.lab.namespaces import Host, Lab
from tests.support.waiting import until

pytestmark = pytest.mark.network
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/two-hosts.md").read_text()
STEPS = re.findall(r"^## ([^\n,?]+)|^```sh (\w+)\n(.*?)^```$", PAGE, re.M | re.S)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # sudo's, as Debian sets it

# Directories that the page writes into are the host's own. /opt/plait holds links to what is installed, so
# that `rm -r` takes away links.
DIRECTORIES = f"""
for place in /opt /etc/systemd/system /usr/local/sbin; do
    [ ! -d $place ] || mount -t tmpfs lab $place
done
mkdir -p /etc/wireguard && mount -t tmpfs lab /etc/wireguard
mkdir /run/was /run/bin /opt/plait
mount --bind /usr/local/bin /run/was
for program in /run/was/*; do ln -s "$program" /run/bin/; done
mount --bind /run/bin /usr/local/bin
ln -s {ROOT}/.venv {ROOT}/scripts {ROOT}/configs /opt/plait/
"""
FIREWALL = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        ct state established,related accept
        reject
    }
}
"""
SYSTEMCTL = """#!/bin/sh -e
case "$1 $2" in "enable --now") verb=ExecStart ;; "disable --now") verb=ExecStop ;; *) exit 1 ;; esac
name=${3#*@}
exec env -i PATH="$PATH" $(sed -n "s/^$verb=//p" "/etc/systemd/system/${3%@*}@.service" | sed "s/%i/$name/g")
"""




def shell(host: Host, text: str) -> str:
    """What root's shell prints on a host; Failure when one of its commands fails."""
    return host.run(["bash", "-e"], text=text, environment={"PATH": PATH}, timeout=120).stdout


@pytest.fixture
def hosts() -> Iterator[dict[str, Host]]:
    with Lab() as lab:
        a, b = lab.add_hosts(["a", "b"])
        lab.link(a, b, subnet4="203.0.113.0/24")
        for host in (a, b):
            shell(host, DIRECTORIES)
            host.run(["nft", "-f", "-"], text=FIREWALL)
            stand_in = host.root / "usr/local/sbin/systemctl"
            stand_in.write_text(SYSTEMCTL)
            stand_in.chmod(0o755)
        yield {"a": a, "b": b}


def test_the_page_from_install_to_uninstall(hosts: dict[str, Host]) -> None:
    section, keys = "", {}
    printed: defaultdict[tuple[str, str], str] = defaultdict(str)
    for head, where, text in STEPS:
        section = head or section
        for name in ("a", "b") if where == "both" else tuple(where):
            for other, key in keys.items():
                text = text.replace(f"PUBLIC_KEY_OF_{other.upper()}", key)
            text = re.sub(r"^(scripts/setup|git pull)$", "", text, flags=re.M)
            text = text.replace("plait doctor", "plait doctor || [ $? = 1 ]")  # of a busy machine's memory
            printed[section, name] += shell(hosts[name], text)
            if section == "Keys":
                keys[name] = printed[section, name].strip()
        if section == "At boot" and not head:
            shell(hosts["a"], "ping -c 3 10.0.0.2")
    assert "latest handshake" in printed["Is it up", "a"]
    assert "complete" in printed["Is it up", "b"], "the events of b"
    assert all("upgraded" in printed["Upgrade", name] for name in hosts)
    for host in hosts.values():
        until(lambda host=host: not host.titles(), "the engine has gone")
        assert "wg0" not in host.run(["ip", "link"]).stdout
        assert not [path for path in ("opt/plait", "usr/local/bin/plait") if (host.root / path).exists()]
    assert (ROOT / "scripts/setup").exists()
