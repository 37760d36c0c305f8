"""A client whose user has no privilege, and a server behind a tunnel: for `plait exec` and `plait proxy`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from plait.lab.namespaces import PLAIT as PLAITD
from plait.lab.namespaces import Engine, Lab, Link, Peer, Process, keypair
from plait.watch.processes import GONE, children
from tests.support.unprivileged import UNPRIVILEGED, USER, open_to_all
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PLAIT = str(Path(sys.executable).parent / "plait")
CONF = "/run/wgx.conf"
SERVER = "10.9.0.1"
SERVER6 = "fd09::1"


class Scene:
    """A client with a file of a tunnel, a server with an engine and a program inside that says "up"."""

    def __init__(self, lab: Lab, program: str, engine: Sequence[str] = PLAITD) -> None:
        """program: text of a Python program that runs in the server. engine: the server's."""
        self.client, self.server = lab.add_hosts(["client", "server"])
        self.cable: Link = lab.link(self.client, self.server)
        (private, public), (key, theirs) = keypair(), keypair()
        self.engine: Engine = self.server.engine("wg0", engine, settings="receivers = 1\nconsumers = 1\n")
        peers = [Peer(public, ["10.9.0.2/32", "fd09::2/128"])]
        self.engine.configure(key, peers, [f"{SERVER}/24", f"{SERVER6}/64"], 51820)
        self.inside: Process = self.server.popen([sys.executable, "-I", "-S", "-c", program])
        until(lambda: "up" in self.inside.output(), "what is inside")
        self.file = self.client.root / CONF.lstrip("/")
        self.text = (
            f"[Interface]\nPrivateKey = {private}\nAddress = 10.9.0.2/24, fd09::2/64\n"
            f"DNS = {SERVER}, inside.test\n"
            f"[Peer]\nPublicKey = {theirs}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
            f"Endpoint = {self.cable.endpoint(self.server, 51820)}\n"
        )
        self.write(self.text)
        open_to_all(self.client, Path(sys.base_prefix), Path(sys.prefix), ROOT)
        self.client.run(["sh", "-ec", "mknod /run/tun c 10 200; mount --bind /run/tun /dev/net/tun"])
        self.tun_mode(0o666)

    def write(self, text: str) -> None:
        self.file.write_text(text)
        os.chown(self.file, USER, USER)
        self.file.chmod(0o600)

    def tun_mode(self, mode: int) -> None:
        self.client.run(["chmod", f"{mode:o}", "/run/tun"])

    def plait(self, *arguments: str) -> Process:
        """A command of Plait, as the user without privilege; a process group of its own."""
        return self.client.popen([*UNPRIVILEGED, "setsid", PLAIT, *arguments])

    def left(self) -> dict[str, object]:
        """What could be left on the client: processes, files, mounts, interfaces, sockets of its network."""
        places = {place: sorted(os.listdir(self.client.root / place)) for place in ("run", "dev/shm")}
        proc = Path(f"/proc/{self.client.pid}")
        kinds = ("unix", "udp", "udp6", "tcp", "tcp6", "raw", "packet")
        sockets = {kind: len((proc / "net" / kind).read_text().splitlines()) for kind in kinds}
        links = self.client.run(["ip", "-o", "link"]).stdout
        mounts = (proc / "mounts").read_text()
        return {"processes": self.client.pids(), **places, "mounts": mounts, "links": links, **sockets}


def tree(pid: int) -> list[int]:
    """A process and all below it, whatever pid namespaces they are in."""
    found = [pid]
    for each in found:
        try:
            found += children(each)
        except GONE:
            continue
    return found
