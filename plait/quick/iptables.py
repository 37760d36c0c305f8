"""A full tunnel's firewall rules by iptables, for hosts without nft. Their comment is wg-quick's, so that
either program takes them down. What they are for: plait/quick/routes.py."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from plait.programs import run_command, undo_command


def program(family: str) -> str:
    """iptables or ip6tables, for -4 or -6."""
    return "iptables" if family == "-4" else "ip6tables"


def add(name: str, family: str, addresses: Sequence[str], mark: int) -> None:
    """Add the rules of one family. Failure when iptables refuses them."""
    dropped = [f"-I PREROUTING ! -i {name} -d {a} -m addrtype ! --src-type LOCAL -j DROP" for a in addresses]
    marked = [
        f"-I POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark",
        "-I PREROUTING -p udp -j CONNMARK --restore-mark",
    ]
    lines = []
    for table, rules in (("*raw", dropped), ("*mangle", marked)):
        lines += [table, *(f"{rule} {_comment(name)}" for rule in rules), "COMMIT"]
    run_command(f"{program(family)}-restore", "-n", text="\n".join(lines) + "\n")


def remove(name: str, *families: str) -> None:
    """Delete the interface's rules, as iptables-save tells them."""
    for family in families:
        save = f"{program(family)}-save"
        if not shutil.which(save):
            continue
        told = subprocess.run([save], capture_output=True, text=True, check=False).stdout.splitlines()
        rules = [line for line in told if line.startswith("-A ") and _comment(name) in line]
        if rules:
            kept = [line for line in told if line.startswith("*") or line == "COMMIT" or line in rules]
            text = "".join(f"-D{line[2:]}\n" if line in rules else f"{line}\n" for line in kept)
            undo_command(f"{program(family)}-restore", "-n", text=text)


def _comment(name: str) -> str:
    return f'-m comment --comment "wg-quick(8) rule for {name}"'
