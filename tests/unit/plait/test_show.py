"""`plait show`: the oracle is `wg show`, asked about the same answers.

A small server plays the engine, in a host of the lab: any device that the protocol can tell of
can be shown that way, without bringing it about.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from plait import uapi_client
from plait.lab.namespaces import WIREGUARD_GO, Host, Lab, Peer, keypair, preshared_key
from plait.watch import show
from plait.watch.terminal import is_coloured
from tests.support.waiting import until

DEVICES = 60
CLOCK_REALTIME_COARSE = 5  # linux/time.h

# Answers each connection to /run/wireguard/NAME.sock with what the file NAME says.
SERVER = """
import os, selectors, socket, sys
os.makedirs("/run/wireguard", exist_ok=True)
waiting = selectors.DefaultSelector()
for name in os.listdir("/run/devices"):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"/run/wireguard/{name}.sock")
    sock.listen(16)
    waiting.register(sock, selectors.EVENT_READ, name)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        client, _ = key.fileobj.accept()
        if client.recv(4096):  # wg connects once more, only to see whether somebody is there
            client.sendall(open("/run/devices/" + key.data, "rb").read())
        client.close()
"""


def make_device(chance: random.Random, now: int) -> str:
    """A get answer with everything that may or may not be there."""

    def maybe(line: str) -> str:
        return line + "\n" if chance.random() < 0.7 else ""

    text = maybe(f"private_key={chance.randbytes(32).hex()}")
    text += maybe(f"listen_port={chance.randint(1, 65535)}") + maybe(f"fwmark={chance.getrandbits(32) | 1}")
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        ago = chance.choice([0, 1, 59, 60, 61, 3599, 3600, 86399, 86400, 31535999, 31536000, 1 << 29])
        # Two digits after the point say little about large numbers; so choose around every border.
        sizes = [chance.choice([0, 1, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 1 << 30, 1 << 40, 1 << 50])
                 for _ in range(2)]
        text += f"public_key={chance.randbytes(32).hex()}\n"
        text += f"preshared_key={chance.choice([bytes(32), chance.randbytes(32)]).hex()}\n"
        text += maybe(f"endpoint={chance.choice(['192.0.2.1:1', '[2001:db8::1]:65535', '[fe80::1]:7'])}")
        text += f"last_handshake_time_sec={chance.choice([0, now - ago])}\nlast_handshake_time_nsec={ago}\n"
        text += f"tx_bytes={sizes[0]}\nrx_bytes={sizes[1]}\n"
        text += f"persistent_keepalive_interval={chance.choice([0, 1, 25, 60, 61, 3600, 65535])}\n"
        ips = ["0.0.0.0/0", "10.1.2.0/24", "::/0", "2001:db8::/32", "fd00::1/128"]
        text += "".join(f"allowed_ip={ip}\n" for ip in chance.sample(ips, chance.randint(0, 4)))
        text += "protocol_version=1\n"
    return text + "errno=0\n\n"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Host, dict[str, str]]]:
    """A host with interfaces d0, d1, … and what each answers."""
    chance = random.Random(20261123)
    now = int(time.time())
    texts = {f"d{number}": make_device(chance, now) for number in range(DEVICES)}
    with Lab() as lab:
        host = lab.host("a")
        (host.root / "run/devices").mkdir()
        for name, text in texts.items():
            (host.root / "run/devices" / name).write_text(text)
        server = host.popen([sys.executable, "-c", SERVER])
        until(lambda: "ready" in server.output(), "answers")
        yield host, texts


def wg_and_ours(host: Host, name: str, text: str, *, coloured: bool) -> tuple[str, str]:
    """`wg show`, and our text of the same second: of all that passed while wg was asked, the one that fits.

    time(2), which wg asks, is the kernel's coarse clock: up to a tick behind the one that Python reads.
    """
    device = uapi_client.parse(name, text)
    environment = {"WG_COLOR_MODE": "always" if coloured else "never"}

    begin = int(time.clock_gettime(CLOCK_REALTIME_COARSE))
    theirs = host.run(["wg", "show", name], environment=environment).stdout
    ours = [show.pretty(device, now, coloured=coloured) for now in range(begin, int(time.time()) + 1)]
    return theirs, theirs if theirs in ours else ours[0]


def between(theirs: Callable[[], str], ours: Callable[[], str]) -> tuple[str, str]:
    """What both say while what they speak of does not change: wg is asked before and after."""

    def both() -> tuple[str, str] | None:
        found = theirs(), ours()
        return found if theirs() == found[0] else None

    return until(both, "a moment without a change") or ("", "")


def timeless(text: str) -> str:
    """Without how long ago: each second says another time, and the commands may take one."""
    return re.sub(r"(latest handshake: ).*", r"\1some time ago", text)


def test_a_key_that_this_program_does_not_know_is_shown_as_it_came() -> None:
    key = "ab" * 32
    text = f"public_key={key}\nqueue_share=7\nrx_bytes=0\nodd=\x1b[2J\nprotocol_version=1\nerrno=0\n\n"
    device = uapi_client.parse("d0", text)
    assert device.peers[0].others == {"queue_share": "7", "odd": "\x1b[2J"}
    shown = show.pretty(device, time.time(), coloured=False)
    assert "  queue share: 7\n" in shown and "  odd: ?[2J\n" in shown
    [peer] = show.as_dict(device)["peers"]
    assert peer["queue_share"] == "7" and peer["public_key"].endswith("=")


@pytest.mark.network
@pytest.mark.parametrize("coloured", [False, True])
def test_interfaces_look_as_wg_shows_them(served: tuple[Host, dict[str, str]], coloured: bool) -> None:
    host, texts = served
    for name, text in list(texts.items())[coloured::2]:
        theirs, ours = wg_and_ours(host, name, text, coloured=coloured)
        assert ours == theirs, text


@pytest.mark.network
@pytest.mark.parametrize("field", [
    "public-key", "private-key", "listen-port", "fwmark", "peers", "preshared-keys", "endpoints",
    "allowed-ips", "latest-handshakes", "transfer", "persistent-keepalive", "dump",
])  # fmt: skip
def test_fields_are_as_wg_prints_them(served: tuple[Host, dict[str, str]], field: str) -> None:
    host, texts = served
    for name, text in list(texts.items())[:20]:
        lines = ["\t".join(row) + "\n" for row in show.rows(uapi_client.parse(name, text), field)]
        assert "".join(lines) == host.run(["wg", "show", name, field]).stdout


@pytest.mark.network
def test_the_command_in_a_host_with_two_engines() -> None:
    with Lab() as lab:
        a, b = lab.add_hosts(["a", "b"])
        cable = lab.link(a, b)
        (private_a, public_a), (private_b, public_b) = keypair(), keypair()
        psk = preshared_key()
        one, two = (host.engine("wg0", WIREGUARD_GO) for host in (a, b))
        two.configure(private_b, [Peer(public_a, ["10.7.0.1/32"], preshared_key=psk)], ["10.7.0.2/24"], 5182)
        peer = Peer(public_b, ["10.7.0.2/32"], cable.endpoint(b, 5182), psk, 25)
        one.configure(private_a, [peer], ["10.7.0.1/24"])
        a.engine("wg1", WIREGUARD_GO)
        assert a.ping("10.7.0.2", 3).received == 3

        def said(arguments: list[str]) -> tuple[str, str]:
            """By wg and by plait."""
            commands = [["wg", *arguments], ["plait", *arguments]]
            theirs, ours = (lambda words=words: timeless(a.run(words).stdout) for words in commands)
            return between(theirs, ours)

        assert a.run(["plait", "show", "interfaces"]).stdout == "wg0 wg1\n"
        for arguments in (["show"], ["show", "wg0"], ["show", "wg1"], ["show", "all"]):
            theirs, ours = said(arguments)
            assert sorted(ours.strip().split("\n\n")) == sorted(theirs.strip().split("\n\n"))
            assert "latest handshake" in ours or arguments == ["show", "wg1"]
        theirs, ours = said(["show", "all", "dump"])
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())

        # Of one peer. This engine does not know the question, so that all peers are asked for.
        theirs, ours = said(["show", "wg0"])[0], timeless(a.run(["plait", "show", "wg0", public_b]).stdout)
        assert ours and theirs.endswith("\n\n" + ours)
        told = json.loads(a.run(["plait", "show", "wg0", public_b, "--json"]).stdout)
        assert told["allowed_ips"] == ["10.7.0.2/32"] and psk not in json.dumps(told)
        nobody = a.run(["plait", "show", "wg0", public_a], check=False)
        assert (nobody.returncode, nobody.stdout) == (1, "") and "no peer of this public key" in nobody.stderr

        (told,) = json.loads(a.run(["plait", "show", "--json", "wg0"]).stdout)
        assert told["peers"][0]["public_key"] == public_b
        assert private_a not in json.dumps(told) and psk not in json.dumps(told)

        absent = a.run(["plait", "show", "wg7"], check=False)
        assert absent.returncode == 1 and "plaitd wg7" in absent.stderr
        other = a.run(["plait", "show", "--engine", "wg0"], check=False)
        assert other.returncode == 1 and other.stderr.startswith("plait: wg0 ")
        both = a.run(["plait", "show", "wg0", "transfer", "--json"], check=False)
        assert both.returncode == 1 and both.stdout == "" and "`transfer`" in both.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, no_color, terminal, wanted in (
        (None, None, True, True),
        (None, None, False, False),
        (None, "1", True, False),
        ("always", None, False, True),
        ("always", "1", False, True),
        ("never", None, True, False),
        ("auto", None, True, True),
    ):
        for name, value in (("WG_COLOR_MODE", mode), ("NO_COLOR", no_color)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        with contextlib.redirect_stdout(Terminal() if terminal else io.StringIO()):
            found = is_coloured()
        assert found is wanted, (mode, no_color, terminal)


@pytest.mark.parametrize(("lines", "shown"), [
    ("plait_quota=2048\nrx_bytes=1024\ntx_bytes=512\n", "  quota: 1.50 KiB of 2.00 KiB used\n"),
    ("plait_quota=1024\nrx_bytes=2048\nplait_ran_out=quota\n",
     "  quota: 2.00 KiB of 1.00 KiB used (cut off)\n"),
    ("plait_name=Andr%C3%A9%20\n", "  name: Andr\N{LATIN SMALL LETTER E WITH ACUTE} \n"),
    ("plait_expires=1000090\n", "  expires: in 1 minute, 30 seconds\n"),
    ("plait_expires=32622400\n", "  expires: in 1 year, 1 day\n"),
    ("plait_expires=999999\nplait_ran_out=expired\n", "  expires: 1 second ago (cut off)\n"),
])  # fmt: skip
def test_limits_of_a_peer_are_shown(lines: str, shown: str) -> None:
    device = uapi_client.parse("wg0", f"public_key={'ab' * 32}\n{lines}errno=0\n\n")
    assert shown in show.pretty(device, 1_000_000.5, coloured=False)
    (told,) = show.as_dict(device)["peers"]
    assert (told["quota"], told["expires"], told["ran_out"]) == (
        device.peers[0].quota, device.peers[0].expires, device.peers[0].ran_out or None,
    )  # fmt: skip


@pytest.mark.parametrize("answer, said", [
    ("", "ended early"),
    ("listen_port=1\n", "ended early"),
    ("errno=1\n\n", "EPERM"),
    ("errno=-22\n\n", "EINVAL"),
    ("errno=98\n\n", "another UDP port"),
    ("errno=0x\n\n", "`errno` that is none"),
    ("errno=99999999999\n\n", "`errno` that is none"),
    ("listen_port=a\nerrno=0\n\n", "`listen_port` that is none"),
    ("public_key=0\nerrno=0\n\n", "`public_key` that is none"),
    ("HTTP/1.1 400 Bad Request\r\n\r\n", "no key=value"),
])  # fmt: skip
def test_an_answer_that_is_cut_short_or_an_error_is_told(answer: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        uapi_client.parse("wg0", answer)
