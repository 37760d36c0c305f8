"""Every combination of offloads and hand-offs carries the same bytes.

Without trouble on the way, a TCP stream also arrives in the order in which it was sent: the receiving
kernel never has to put a segment aside (TCPOFOQueue). That is not asked of a stream that an inline receiver
left to a consumer because the socket was full: a peer's sender changes from process to process in the middle
of a stream, and the queues beneath, one for each CPU, may overtake each other. For the same reason the
workers are pinned here (docs/adr/0003).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from plait.lab.namespaces import PLAIT, Host, Lab
from tests.support import asked
from tests.support.tunnel import PYTHON, Side, Transfer, Tunnel, eventually, transfer_each_way, two_hosts

pytestmark = pytest.mark.network

MEGABYTE = 10**6
DATAGRAMS = str(Path(__file__).with_name("datagrams.py"))
PORT = 6999
A_FEW = 4  # datagrams about the stream's beginning and end, which another process may send
WAYS = {
    "pipeline": 'handoff = "pipeline"\n',
    "inline": 'handoff = "inline"\n',
    "pipeline-no-tun": 'handoff = "pipeline"\ntun_offload = false\n',
    "inline-no-udp": 'handoff = "inline"\nudp_offload = false\n',
    "inline-shared": 'handoff = "inline"\nshare = "always"\n',
    "inline-none": 'handoff = "inline"\ntun_offload = false\nudp_offload = false\n',
}
# With those of test_kills.py each provider has both hand-offs; `scripts/product` has all of it.
PROVIDERS = {"pipeline": "evp", "inline": "ipsec-mb", "pipeline-no-tun": "ipsec-mb", "inline-no-udp": "evp",
             "inline-shared": "ipsec-mb", "inline-none": "boringssl"}


def kernel_counter(host: Host, table: str, group: str, name: str) -> int:
    """One number of /proc/net/netstat or snmp of the host."""
    rows = [line.split() for line in Path(f"/proc/{host.pid}/net/{table}").read_text().splitlines()]
    names, numbers = (row for row in rows if row[0] == f"{group}:")
    return int(numbers[names.index(name)])


def out_of_order(side: Side) -> int:
    return kernel_counter(side.host, "netstat", "TcpExt", "TCPOFOQueue")


def losses(tunnel: Tunnel) -> dict[str, int]:
    """Packets that the engines or the kernels beneath and above them dropped so far."""
    lost = {}
    for side in tunnel.sides:
        for name, count in side.counters().items():
            if name.startswith("drop_") and count:
                lost[f"{side.host.name} {name}"] = count
        statistics = side.host.root / f"sys/class/net/{side.interface}/statistics/tx_dropped"
        lost[f"{side.host.name} tun"] = int(statistics.read_text())
        lost[f"{side.host.name} sockets"] = kernel_counter(side.host, "snmp", "Udp", "RcvbufErrors")
    return {name: count for name, count in lost.items() if count}


def sent_by_process(side: Side) -> Counter[str]:
    """Datagrams that each process of the engine sent so far."""
    return Counter(
        {f"{p['role']} {p['number']}": p["packets"]["udp_sent"] for p in side.engine.report()["processes"]}
    )


def packets(side: Side, interface: str, direction: str) -> int:
    """What the kernel counted there; a super-packet or train that passes in one piece is one."""
    path = side.host.root / f"sys/class/net/{interface}/statistics/{direction}_packets"
    return int(path.read_text())


def check_offloads(source: Side, target: Side, way: str) -> None:
    """After a transfer: the offloads that are on were used, and none that is off."""
    def written() -> int:
        return packets(target, target.interface, "rx")

    if "tun_offload" in WAYS[way]:  # the stream's last acknowledgements may still be on their way
        eventually(lambda: written() == target.counters()["tun_sent"])
    else:
        assert written() < target.counters()["tun_sent"] / 2
    left, sent = packets(source, "eth0", "tx"), source.counters()["udp_sent"]
    if "udp_offload" in WAYS[way]:
        assert left >= sent
    elif "tun_offload" not in WAYS[way]:
        assert left < sent / 2


@pytest.mark.parametrize("way", asked.handoffs(WAYS))
def test_same_bytes_whatever_carries_them(way: str) -> None:
    with Lab() as lab:
        settings = f'{WAYS[way]}pin = true\naead = "{asked.provider(PROVIDERS[way])}"\n'
        tunnel = two_hosts(lab, PLAIT, PLAIT, settings=settings)
        one, two = tunnel.sides
        assert one.echo(two.address4, 1) == 1
        before = losses(tunnel)
        for source, target in ((one, two), (two, one)):
            sent = sent_by_process(source)
            Transfer(source.host, target.host, target.address4, 20 * MEGABYTE).finish()
            senders = sent_by_process(source) - sent
            of_others = senders.total() - max(senders.values())
            if way.startswith("pipeline"):
                assert of_others <= A_FEW, senders  # one consumer has the peer
            if of_others <= A_FEW:
                assert out_of_order(target) == 0 or losses(tunnel) != before
            if source is one:
                check_offloads(source, target, way)
        transfer_each_way(one, two, 20 * MEGABYTE, 6)
        server = two.host.popen([*PYTHON, DATAGRAMS, "serve", str(PORT)])
        ports = Path(f"/proc/{two.host.pid}/net/udp6")
        eventually(lambda: f":{PORT:04X} " in ports.read_text())
        for address in (two.address4, two.address6):
            returned, total = one.host.run([*PYTHON, DATAGRAMS, "send", address, str(PORT)]).stdout.split()
            assert int(returned) == int(total) > 500
        server.stop()
        if way.endswith("shared"):
            for counters in (one.counters(), two.counters()):
                assert counters["batches_shared"] > 0 and counters["parts_helped"] > 0
        tunnel.check()
