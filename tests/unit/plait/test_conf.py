"""Configuration files, with the real wg(8) and wg-quick(8) as oracles.

wg talks to a UAPI socket of this test instead of an interface, so what it understood of a file can
be read word for word:

    file -> wg setconf NAME -> /var/run/wireguard/NAME.sock (this test) = to_set(parse(file))
    records -> answer_get -> the same socket -> wg showconf NAME        = to_text(...)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import uapi
from plait import keys
from plait.quick import conf, limits

KEY, OTHER = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
RUN = Path("/var/run/wireguard")
NAME = f"plconf{os.getpid() % 10**8}"

GOOD = f"""# a comment
[Interface]
PrivateKey = {KEY}
ListenPort = 51820   # the usual one
FwMark = 0xca6c
Address = 10.0.0.1/24, fd00::1
Address=10.1.0.1
DNS = 10.0.0.53, example.com
MTU = 1380
Table = off
PreUp = echo "%i = up"
PostUp = first
PostUp = second
PreDown = third
PostDown = fourth
SaveConfig = true

[Peer]
PublicKey = {OTHER}
PresharedKey={KEY}
AllowedIPs = 10.0.0.7/8,fd00::/64
AllowedIPs = 192.0.2.1
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
[peer]
publickey = {KEY}
endpoint = vpn.example.com:1
PERSISTENTKEEPALIVE = off
"""


def test_meaning() -> None:
    read = conf.parse(GOOD, "wg0.conf")
    interface, (first, second) = read.interface, read.peers
    assert interface == conf.Interface(
        private_key=keys.decode(KEY),
        listen_port=51820,
        fwmark=0xCA6C,
        addresses=[
            conf.Address(bytes((10, 0, 0, 1)), 32, 24),
            conf.Address(b"\xfd" + bytes(14) + b"\1", 128, 128),
            conf.Address(bytes((10, 1, 0, 1)), 32, 32),
        ],
        dns=["10.0.0.53"],
        dns_search=["example.com"],
        mtu=1380,
        table="off",
        pre_up=['echo "%i = up"'],
        post_up=["first", "second"],
        pre_down=["third"],
        post_down=["fourth"],
        save_config=True,
    )
    assert [str(address) for address in interface.addresses] == ["10.0.0.1/24", "fd00::1/128", "10.1.0.1/32"]
    assert first.public_key == keys.decode(OTHER) and first.preshared_key == keys.decode(KEY)
    assert [str(ip) for ip in first.allowed_ips] == ["10.0.0.0/8", "fd00::/64", "192.0.2.1/32"]
    assert first.endpoint == conf.Host("2001:db8::1", 51820) and first.keepalive == 25
    assert first.endpoint.endpoint == uapi.Endpoint(b"\x20\x01\x0d\xb8" + bytes(11) + b"\1", 51820)
    assert (second.endpoint, second.keepalive) == (conf.Host("vpn.example.com", 1), 0)
    assert second.endpoint is not None and second.endpoint.endpoint is None
    with pytest.raises(ValueError, match=r"vpn\.example\.com"):
        conf.to_set(read)
    where = uapi.Endpoint(bytes((192, 0, 2, 9)), 1)
    assert [peer.endpoint for peer in conf.to_set(read, lambda host: where).peers][1] == where
    assert conf.Host("::ffff:192.0.2.9", 1).endpoint == where


def test_limits_stand_in_comments_of_a_peer() -> None:
    lines = ["# PlaitQuota = 1.5 GB", "#plaitexpires=2027-01-31", "# Quota = 7", "#"]
    limited, other = conf.parse(f"[Peer]\nPublicKey = {OTHER}\n" + "\n".join([*lines, "[Peer]"])
                                + f"\nPublicKey = {KEY} # PlaitQuota = 5\n#PlaitQuota = off\n").peers
    assert (limited.quota, limited.expires) == (1_500_000_000, 1801353600)
    assert (other.quota, other.expires) == (0, None), "a comment behind something is one"
    (change, _) = conf.to_set(conf.Conf(peers=[limited, other])).peers
    assert (change.quota, change.expires) == (limited.quota, limited.expires)
    again = conf.parse(conf.to_text(conf.Conf(peers=[limited])))
    assert (again.peers[0].quota, again.peers[0].expires) == (limited.quota, limited.expires)
    assert conf.parse("# PlaitQuota = nothing\n[Interface]\n# PlaitQuota = nothing\n") == conf.Conf()


def test_names_stand_in_comments_of_a_peer() -> None:
    """Whatever stands there may have been a comment for years, so that nothing of it is refused."""
    long = "\N{CAT}" * 20
    names = ["# Name = Alice's phone", f"#name={long}", "# friendly_name = a\tb", "# Name: x", "# Name =",
             "# Name = \udce9"]  # fmt: skip
    text = "# Name = nobody\n" + "".join(f"[Peer]\nPublicKey = {OTHER}\n{line}\n" for line in names)
    read = conf.parse(text)
    assert [peer.name for peer in read.peers] == ["Alice's phone", long[:16], "a?b", None, "", "?"]
    assert [change.name for change in conf.to_set(read).peers] == [peer.name for peer in read.peers]
    (again, _) = conf.parse(conf.to_text(conf.Conf(peers=read.peers[:2]))).peers
    assert again.name == "Alice's phone"


@pytest.mark.parametrize(("text", "count"), [
    ("1", 1), ("5000 B", 5000), ("100 GB", 10**11), ("100gib", 100 << 30), ("0.5 KB", 500),
    ("1.5TiB", 3 << 39), ("off", 0), ("9223372036854775807", 2**63 - 1),
])  # fmt: skip
def test_quotas_as_they_are_written(text: str, count: int) -> None:
    assert limits.parse_quota(text) == count


NO_QUOTAS = ["", "0", "-1", "GB", "1 PB", "1.GB", "1e9", "9223372036854775808", "0.1 B", "1,5 GB"]


@pytest.mark.parametrize("text", NO_QUOTAS)
def test_what_is_no_quota(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        limits.parse_quota(text)


@pytest.mark.parametrize(("text", "seconds"), [
    ("2027-01-31", 1801353600), ("2027-01-31T01:00:00+01:00", 1801353600), ("2027-01-31 00:00", 1801353600),
    ("2027-01-31T00:00:00Z", 1801353600), ("off", 0),
])  # fmt: skip
def test_times_as_they_are_written(text: str, seconds: int) -> None:
    assert limits.parse_expires(text) == seconds
    assert not seconds or limits.parse_expires(limits.format_expires(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "31.01.2027", "2027-02-30", "1970-01-01", "2107-01-01", "tomorrow"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        limits.parse_expires(text)


ALONE, P = "[Interface]", f"[Peer]\nPublicKey = {OTHER}"
BAD = [
    ("", "PrivateKey = " + KEY, 1),
    ("", "[Interfaces]", 1),
    ("", "[Interface", 1),
    ("", "Interface]", 1),
    (ALONE, "nonsense", 2),
    (ALONE, "PrivateKey = " + KEY[:-2], 2),
    (ALONE, "PrivateKey = " + KEY[:-1], 2),
    (ALONE, "PrivateKey = " + KEY[:-2] + "l=", 2),
    (ALONE, "PrivateKey = " + KEY + "A", 2),
    (ALONE, "PrivateKey =", 2),
    (ALONE, "ListenPort = 65536", 2),
    (ALONE, "ListenPort = -1", 2),
    (ALONE, "ListenPort =", 2),
    (ALONE, "FwMark = 0x100000000", 2),
    (ALONE, "FwMark = ca6c", 2),
    (ALONE, "FwMark = 0x", 2),
    (ALONE, "Address = 10.0.0.1/33", 2),
    (ALONE, "Address = 10.0.0", 2),
    (ALONE, "Address = 10.0.0.1/", 2),
    (ALONE, "DNS = 10.0.0.256", 2),
    (ALONE, "DNS = a;b", 2),
    (ALONE, "MTU = 67", 2),
    (ALONE, "MTU = 1e3", 2),
    (ALONE, "Table = a b", 2),
    (ALONE, "SaveConfig = yes", 2),
    (ALONE, "Endpoint = 192.0.2.1:1", 2),
    (ALONE, "Speed = fast", 2),
    (P, "# PlaitQuota = much", 3),
    (P, "# PlaitExpires = soon", 3),
    ("", "[NetDev]", 1),
    (P, "Address = 10.0.0.1/24", 3),
    (P, "PrivateKey = " + KEY, 3),
    (P, "Endpoint = 192.0.2.1", 3),
    (P, "Endpoint = 192.0.2.1:0", 3),
    (P, "Endpoint = [2001:db8::1]", 3),
    (P, "Endpoint = [2001:db8::1:1", 3),
    (P, "Endpoint = a/b:1", 3),
    (P, "Endpoint = :1", 3),
    (P, "AllowedIPs = 10.0.0.0/8,", 3),
    (P, "AllowedIPs = 10.0.0.0/8 fd00::/8", 3),
    (P, "AllowedIPs = fd00::/129", 3),
    (P, "AllowedIPs = +-10.0.0.0/8", 3),
    (P, "AllowedIPs = -", 3),
    (P, "PersistentKeepalive = 65536", 3),
    (P, "PersistentKeepalive =", 3),
    (P, "Keepalive = 1", 3),
    (P, "AllowedIPs = # none", 3),
    (P, "[Peer]", 3),
    ("[Peer]\n\n", "[Interface]", 1),
]


@pytest.mark.parametrize(("before", "line", "number"), BAD)
def test_mistakes_are_named(before: str, line: str, number: int) -> None:
    with pytest.raises(conf.ConfError) as caught:
        conf.parse(f"{before}\n{line}\n" if before else line, "wg0.conf")
    error = caught.value
    assert (error.file, error.line_number) == ("wg0.conf", number)
    assert error.what and error.why and error.next
    assert KEY[:20] not in str(error)


@pytest.mark.parametrize(("before", "line", "quick", "what", "why"), [
    (ALONE, "Endpoint = 192.0.2.1:1", True, "a peer's key", "Endpoint has no meaning in [Interface]"),
    (ALONE, "allowedips = ::/0", False, "a peer's key", "AllowedIPs has no meaning in [Interface]"),
    (P, "PrivateKey = " + KEY, True, "an interface's key", "PrivateKey has no meaning in [Peer]"),
    (P, "fwmark = 1", False, "an interface's key", "FwMark has no meaning in [Peer]"),
    (P, "dns = 192.0.2.1", True, "an interface's key", "DNS has no meaning in [Peer]"),
    (ALONE, "dns = 192.0.2.1", False, "a key of wg-quick", "DNS is wg-quick's, wg does not know it"),
    (ALONE, "Jc = 4", True, "a key of AmneziaWG", "the other end speaks AmneziaWG"),
    (P, "Reserved = 1, 2, 3", True, "a key of Cloudflare WARP", "it sets three bytes that are 0"),
    (ALONE, "Speed = 1", False, "an unknown key", "[Interface] has "),
    (P, "Speed = 1", True, "an unknown key", "[Peer] has "),
])  # fmt: skip
def test_a_key_that_cannot_stand_there_is_known_for_what_it_is(
    before: str, line: str, quick: bool, what: str, why: str
) -> None:
    with pytest.raises(conf.ConfError) as caught:
        conf.parse(f"{before}\n{line}\n", "wg0.conf", quick)
    assert caught.value.what == what and caught.value.why.startswith(why)


def test_a_section_that_wg_quick_does_not_know_has_none_of_its_keys() -> None:
    """wg reads [In terface] as [Interface]; wg-quick does not, and would hand Address to wg."""
    assert conf.parse("[In\tterface]\nListenPort = 1\n", "f").interface.listen_port == 1
    with pytest.raises(conf.ConfError) as caught:
        conf.parse("[In\tterface]\nAddress = 10.0.0.1/24\n", "f")
    assert caught.value.line_number == 2 and "wg-quick" in caught.value.why


def test_quick_keys_are_not_wg_s() -> None:
    with pytest.raises(conf.ConfError, match="wg-quick strip"):
        conf.parse("[Interface]\nMTU = 1420\n", quick=False)
    conf.parse(conf.strip(GOOD), quick=False)


def test_hash_begins_no_comment_in_a_hook() -> None:
    """bash reads it, and knows which # is in quotes. In other values and in keys it begins a comment."""
    hooks = "PostUp = echo '#1' # two\n PreDown\t=\t# nothing \r\n"
    interface = conf.parse(f"[Interface]\n{hooks}MTU = 1300 # PostUp = x\n#PreUp = y\n").interface
    assert (interface.post_up, interface.pre_down) == (["echo '#1' # two"], ["# nothing"])
    assert (interface.mtu, interface.pre_up) == (1300, [])
    with pytest.raises(conf.ConfError, match="NUL"):
        conf.parse("[Interface]\nPostUp = a # \0\n")


def test_bytes_that_are_no_utf_8_mean_themselves() -> None:
    text = conf.decode(b"# caf\xe9\n[Interface] # \xff\nPreUp = \xe9\n")
    assert conf.parse(text).interface.pre_up[0].encode("utf-8", "surrogateescape") == b"\xe9"
    with pytest.raises(conf.ConfError) as caught:
        conf.parse(conf.decode(b"[Interface]\n\xe9 = 1\n"))
    assert caught.value.line_number == 2


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_is_called_so(coding: str) -> None:
    with pytest.raises(conf.ConfError, match="UTF-16"):
        conf.decode(GOOD.encode(coding), "wg0.conf")


def test_a_byte_order_mark_is_called_so() -> None:
    for head in ("[Interface]", "# [Interface]", ""):
        with pytest.raises(conf.ConfError, match="a byte order mark") as caught:
            conf.parse(conf.decode(f"\ufeff{head}\n".encode()))
        assert caught.value.line_number == 1 and caught.value.line.isprintable()


@pytest.mark.parametrize("key", (*conf.AMNEZIA_KEYS, "Reserved"))
def test_keys_of_other_protocols_are_not_to_be_left_out(key: str) -> None:
    """Without them the file is accepted, and the other end stays silent."""
    for section in ("[Interface]", P):
        with pytest.raises(conf.ConfError) as caught:
            conf.parse(f"{section}\n{key.upper()} = 1\n")
        assert "another protocol" in caught.value.why or "WireGuard" in caught.value.why
        assert "silent" in caught.value.why and "#" not in caught.value.next
        assert "plain WireGuard" in caught.value.next


@pytest.mark.parametrize(("lines", "replaced", "written"), [
    ("AllowedIPs = +10.0.0.0/8, -10.1.0.0/16", False, ["+10.0.0.0/8", "-10.1.0.0/16"]),
    ("AllowedIPs = 10.0.0.0/8, +10.1.0.0/16", False, ["+10.0.0.0/8, +10.1.0.0/16"]),
    ("AllowedIPs = -10.0.0.0/8\nAllowedIPs = 10.1.0.0/16", True, ["-10.0.0.0/8", "10.1.0.0/16"]),
    ("AllowedIPs = 10.0.0.0/8\nAllowedIPs = 10.1.0.0/16", True, ["10.0.0.0/8, 10.1.0.0/16"]),
])  # fmt: skip
def test_allowed_ips_are_added_and_taken_by_sign(lines: str, replaced: bool, written: list[str]) -> None:
    """Since wireguard-tools 1.0.20250521; the last AllowedIPs line says whether the list is replaced."""
    read = conf.parse(f"{P}\n{lines}\n")
    (change,) = conf.to_set(read, append=True).peers
    assert change.replace_allowed_ips is replaced
    assert all(str(ip) in lines for ip in change.allowed_ips)
    assert sum(ip.removed for ip in change.allowed_ips) == lines.count("-")
    text = conf.to_text(read)
    assert [line.removeprefix("AllowedIPs = ") for line in text.splitlines() if "Allowed" in line] == written
    again = conf.parse(text)
    assert conf.to_set(again).records == conf.to_set(read).records


def test_interface_names() -> None:
    assert conf.interface_name("/etc/wireguard/wg0.conf") == "wg0"
    for name in ("wg0", "", ".conf", "sixteen-letters-.conf", "a b.conf", "a/b.txt"):
        with pytest.raises(conf.ConfError):
            conf.interface_name(name)


@given(st.binary(min_size=32, max_size=32))
def test_keys_as_text(key: bytes) -> None:
    assert keys.decode(keys.encode(key)) == key


LINES = GOOD.split("\n")
SNIPPETS = st.one_of(
    st.text(max_size=12),
    st.text("0123456789abcdef.:/,[]=#% \t\rxXoO-", max_size=12),
    st.sampled_from(["[Peer]", "[Interface]", "#", "=", "off", "MTU", "65536", "\0", "\x85", "\u00a0"]),
)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """GOOD with one line cut into, and maybe lines swapped."""
    lines = list(LINES)
    which = draw(st.integers(0, len(lines) - 1))
    at = draw(st.integers(0, len(lines[which])))
    new = draw(SNIPPETS)
    lines[which] = lines[which][:at] + new + lines[which][at + draw(st.integers(0, 6)) :]
    if draw(st.booleans()):
        other = draw(st.integers(0, len(lines) - 1))
        lines[which], lines[other] = lines[other], lines[which]
    return "\n".join(lines)


@settings(max_examples=300)
@given(mutants())
def test_mutated_files_are_refused_or_read(text: str) -> None:
    with contextlib.suppress(conf.ConfError):
        conf.parse(text)
    conf.strip(text)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    with contextlib.suppress(conf.ConfError):
        conf.parse("[Interface]\n" + text)
    conf.strip(text)


@given(st.text(max_size=60).filter(lambda text: "publickey" not in "".join(text.lower().split())))
def test_masked_lines_hold_no_secret(text: str) -> None:
    for line in (f"PrivateKey = {KEY}{text}", f"private key={KEY}", f"{text}{KEY}", f"Key = {KEY} {text}"):
        assert KEY[:-1] not in conf.mask(line)


# --- the real programs --------------------------------------------------------------------------

real_wg = pytest.mark.skipif(
    shutil.which("wg") is None or os.geteuid() != 0,
    reason="needs root and wireguard-tools (apt install wireguard-tools)",
)
real_wg_quick = pytest.mark.skipif(
    shutil.which("wg-quick") is None or os.geteuid() != 0,
    reason="needs root and wireguard-tools (apt install wireguard-tools)",
)
ORACLE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Interface:
    """A UAPI socket that keeps what it is told and answers get with `answer`."""

    def __init__(self) -> None:
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path = RUN / f"{NAME}.sock"
        self.told = b""
        self.answer = b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                data = b""
                while not data.endswith(b"\n\n") and (more := connection.recv(1 << 16)):
                    data += more
                if data.startswith(b"set"):
                    self.told = data
                    connection.sendall(uapi.answer_set(0))
                elif data:
                    connection.sendall(self.answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        self.path.unlink()


@pytest.fixture(scope="module")
def interface() -> Iterator[Interface]:
    interface = Interface()
    yield interface
    interface.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plait-conf-") as name:
        yield Path(name)


def wg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"WG_ENDPOINT_RESOLUTION_RETRIES": "0"}
    return subprocess.run(
        ["wg", *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def check_against_wg(interface: Interface, folder: Path, text: str) -> bool:
    """What parse accepts, wg accepts with the same meaning. True when both did."""
    try:
        read = conf.parse(text, quick=False)
    except conf.ConfError:
        return False
    if any(peer.endpoint is not None and peer.endpoint.endpoint is None for peer in read.peers):
        return False  # a name: wg would ask the network
    if re.search(r"^allowedips=[^#\n]*[+-]", re.sub(r"[^\S\n]", "", text.lower()), re.MULTILINE):
        return False  # signs are newer than Debian's wg
    for command, append in (("setconf", False), ("addconf", True)):
        interface.told = b""
        path = folder / "f.conf"
        path.write_text(text, newline="", encoding="utf-8", errors="surrogateescape")
        done = wg(command, NAME, path)
        assert done.returncode == 0, (text, done.stderr)
        assert uapi.parse_set(interface.told) == conf.to_set(read, append=append), text
    return True


def spread(draw: st.DrawFn, key: str, value: str) -> str:
    """`key = value` in some case and spacing, maybe with a comment."""
    key = "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in key)
    space = [draw(st.sampled_from(["", " ", "\t", "  "])) for _ in range(4)]
    comment = draw(st.sampled_from(["", "#", "# x = y [Peer]", " # \u00e9"]))
    return f"{space[0]}{key}{space[1]}={space[2]}{value}{space[3]}{comment}"


@st.composite
def files(draw: st.DrawFn) -> str:
    texts = st.binary(min_size=32, max_size=32).map(keys.encode)
    lines = [draw(st.sampled_from(["[Interface]", " [interface] # x", "[ INTERFACE ]"]))]
    if draw(st.booleans()):
        lines.append(spread(draw, "PrivateKey", draw(texts)))
    if draw(st.booleans()):
        lines.append(spread(draw, "ListenPort", str(draw(st.integers(0, 65535)))))
    if draw(st.booleans()):
        mark = draw(st.integers(0, 2**32 - 1))
        lines.append(spread(draw, "FwMark", draw(st.sampled_from([str(mark), hex(mark), "off", "oFF"]))))
    for _ in range(draw(st.integers(0, 3))):
        lines += ["", draw(st.sampled_from(["[Peer]", "[peer]"])), spread(draw, "PublicKey", draw(texts))]
        if draw(st.booleans()):
            lines.append(spread(draw, "PresharedKey", draw(texts)))
        if draw(st.booleans()):
            port = draw(st.integers(1, 65535))
            host = draw(st.sampled_from(["192.0.2.1", "[2001:db8::1]", "[::ffff:192.0.2.1]", "2001:db8::1"]))
            lines.append(spread(draw, "Endpoint", f"{host}:{port}"))
        if draw(st.booleans()):
            lines.append(
                spread(draw, "PersistentKeepalive", draw(st.sampled_from(["off", "0", "25", "065535"])))
            )
        for _ in range(draw(st.integers(0, 2))):
            ips = draw(
                st.lists(
                    st.sampled_from(["10.0.0.1", "10.1.2.3/9", "::/0", "fd00::5/63"]), min_size=1, max_size=3
                )
            )
            lines.append(spread(draw, "AllowedIPs", draw(st.sampled_from([", ", ",", " ,\t"])).join(ips)))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\r\n"]))


@real_wg
@ORACLE
@given(text=files())
def test_wg_understands_the_same(interface: Interface, folder: Path, text: str) -> None:
    assert check_against_wg(interface, folder, text)


@real_wg
@ORACLE
@given(text=mutants())
def test_wg_understands_the_same_of_mutants(interface: Interface, folder: Path, text: str) -> None:
    check_against_wg(interface, folder, conf.strip(text).replace("vpn.example.com", "192.0.2.5"))


@real_wg_quick
@ORACLE
@given(text=mutants().filter(lambda text: "\0" not in text))
def test_strip_as_wg_quick(folder: Path, text: str) -> None:
    path = folder / "plq.conf"
    path.write_text(text, newline="", encoding="utf-8", errors="surrogateescape")
    done = subprocess.run(["wg-quick", "strip", path], capture_output=True, timeout=60, check=False)
    if done.returncode == 0:
        assert done.stdout.decode("utf-8", "surrogateescape") == conf.strip(text)
    else:  # only for a boolean that is none
        assert b"neither true nor false" in done.stderr
        with pytest.raises(conf.ConfError):
            conf.parse(text)


@real_wg
@ORACLE
@given(text=files())
def test_text_as_wg_showconf(interface: Interface, text: str) -> None:
    read = conf.parse(text)
    for peer in read.peers:
        peer.allowed_ips = list(dict.fromkeys(peer.allowed_ips))
    device = uapi.DeviceRecord(
        read.interface.private_key, read.interface.listen_port or 0, read.interface.fwmark or 0
    )
    peers = [
        uapi.PeerRecord(
            peer.public_key,
            peer.preshared_key or bytes(32),
            peer.endpoint.endpoint if peer.endpoint else None,
            0,
            0,
            0,
            0,
            [peer.keepalive or 0, *[0] * (len(uapi.NUMBERS) - 1)],
            peer.allowed_ips,
        )
        for peer in read.peers
    ]
    interface.answer = b"".join(uapi.answer_get(device, (uapi.format_peer(peer).encode() for peer in peers)))
    done = wg("showconf", NAME)
    assert done.returncode == 0, done.stderr
    for peer in read.peers:  # showconf prints what the endpoint means, not how it was written
        if peer.endpoint is not None and (endpoint := peer.endpoint.endpoint) is not None:
            peer.endpoint = conf.Host(str(endpoint).rpartition(":")[0].strip("[]"), endpoint.port)
    assert done.stdout.strip() == conf.to_text(read).strip()
