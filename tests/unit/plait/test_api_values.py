"""Keys, endpoints, peers and events as `import plait` gives them."""

from __future__ import annotations

import dataclasses
import doctest
import pickle
import subprocess
import sys
import typing
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

import plait
from engine import uapi
from plait import Endpoint, Failure, Key, Peer, uapi_client
from plait.api import events as api_events
from plait.api import values
from plait.api.events import KINDS, event_of
from plait.api.interface import head_of
from workers.control.events import Event as Kind

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
HEAD = {"life": 1, "number": 2, "time": 1764000000.123}


def test_every_public_name_is_there_and_documented() -> None:
    for name in plait.__all__:
        assert getattr(plait, name).__doc__, name
        assert name in dir(plait)
    hints = typing.get_type_hints(plait.Interface.__init__)
    assert hints["private_key"] == Key | None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = plait.no_such_name


def test_the_types_that_checkers_see_are_those_that_are_given() -> None:
    """The list under TYPE_CHECKING, the homes of the names, and __all__ are one."""
    homes = {name for names in plait._HOMES.values() for name in names}
    assert homes | {"aio"} == set(plait.__all__) and plait.__all__ == sorted(plait.__all__, key=str)
    found = {
        name for name, kind in vars(api_events).items()
        if isinstance(kind, type) and issubclass(kind, api_events.Event)
    }  # fmt: skip
    assert found == set(plait._HOMES["plait.api.events"])


def test_import_plait_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import plait; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['__future__', 'plait']\n"


@pytest.mark.parametrize("module", [values, plait.failure], ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module: Any) -> None:
    found = doctest.testmod(module, extraglobs={"Key": Key, "Failure": Failure})
    assert found.attempted and not found.failed


@pytest.mark.parametrize("secret", [PRIVATE, PRESHARED])
def test_no_secret_is_shown_unless_it_is_asked_for(secret: str) -> None:
    key = Key(secret)
    peer = Peer(Key.generate().public_key, preshared_key=key)
    assert secret not in repr(key) and secret not in repr(peer) and secret not in str(peer)
    assert secret not in repr({"key": key}) and f"{key}" == str(key) == secret
    assert str(peer.public_key) in repr(peer)
    assert repr(pickle.loads(pickle.dumps(key))) == "Key(hidden)"
    with pytest.raises(Failure) as refused:
        Key(secret[:-2])
    assert secret[:-2] not in str(refused.value) and refused.value.__cause__ is None


def test_a_key_is_its_bytes() -> None:
    key = Key(PRIVATE)
    assert key == Key(bytes(key)) == Key.from_base64(PRIVATE) and hash(key) == hash(Key(bytes(key)))
    assert key != Key(PRESHARED) and key != PRIVATE
    assert Key(str(key.public_key)) == key.public_key
    made = {Key.generate() for _ in range(3)} | {Key.generate_preshared() for _ in range(3)}
    assert len(made) == 6


@pytest.mark.parametrize("bad", ["", "x" * 44, PRIVATE + "\n", PRIVATE[:-1], b"x" * 31, b"x" * 33])
def test_what_is_no_key_is_refused(bad: str | bytes) -> None:
    with pytest.raises(Failure) as refused:
        Key(bad)
    assert refused.value.what and refused.value.why and refused.value.next_step.endswith(".")


@pytest.mark.parametrize("text", ["192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%eth0]:65535", "1.2.3.4:0"])
def test_an_endpoint_is_written_as_it_is_read(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize("text", ["", "192.0.2.1", "2001:db8::1:51820", "[192.0.2.1]:1", "host:1",
                                  "192.0.2.1:x", "192.0.2.1:65536", "1.2.3.4:-1", "1.2.3.4:²"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(Failure):
        Endpoint.parse(text)


@pytest.mark.parametrize("change", [{"keepalive": -1}, {"keepalive": 65536},
                                    {"endpoint": Endpoint(ip_address("192.0.2.1"), 0)},
                                    {"name": "a" * 65}, {"name": "a\n"}, {"quota": -1}, {"quota": 1 << 63},
                                    {"expires": datetime(2027, 1, 31)},
                                    {"expires": datetime(2107, 1, 1, tzinfo=UTC)}])  # fmt: skip
def test_a_peer_that_no_engine_would_take_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Failure):
        Peer(Key(PRIVATE), **change)


@pytest.mark.parametrize("numbers", [(65536, None), (-1, None), (None, 1 << 32), (None, -5)])
def test_a_port_or_mark_that_no_engine_would_take_is_refused(numbers: tuple[int | None, int | None]) -> None:
    with pytest.raises(Failure, match="there are 0 to"):
        head_of(None, *numbers)


def test_a_peer_comes_back_from_its_text_as_it_was() -> None:
    """The lines that add it are read by the engines' parser, and what an engine tells makes the same peer."""
    given = Peer(
        Key(PRIVATE).public_key, [ip_network("10.0.0.2/32"), ip_network("2001:db8::/64")],
        Endpoint.parse("[fe80::7%lo]:5"), Key(PRESHARED), 25,
        quota=10**12, expires=datetime(2027, 1, 31, tzinfo=UTC),
        on_demand=True, idle_after=7200, timestamp=bytes(range(12)),
        name="Andr\N{LATIN SMALL LETTER E WITH ACUTE}%",
    )  # fmt: skip
    bare = Peer(Key(PRESHARED).public_key)
    gone = Key.generate().public_key
    text = values.text_of_set([given, bare], [gone], uapi.Set(listen_port=7))
    operation = uapi.parse_set(text)
    first, *changes = operation.peers
    assert operation.listen_port == 7 and (first.public_key, first.remove) == (bytes(gone), True)
    assert all(change.replace_allowed_ips for change in changes)
    for peer, change in zip((given, bare), changes, strict=True):
        shown = uapi.format_peer(uapi.PeerRecord(
            change.public_key, change.preshared_key or bytes(32), change.endpoint, 1764000000, 5000, 6, 7,
            [getattr(change, number.field) or 0 for number in uapi.NUMBERS.values()], change.allowed_ips,
            "quota", change.name or "",
        ))  # fmt: skip
        [told] = uapi_client.parse("wg0", shown + "errno=0\n\n").peers
        back = values.peer_of(told)
        assert back == peer and (back.tx_bytes, back.rx_bytes, back.ran_out) == (6, 7, "quota")
        assert change.timestamp == peer.timestamp
        assert back.latest_handshake is not None
        assert back.latest_handshake.isoformat() == "2025-11-24T16:00:00.000005+00:00"
    assert dataclasses.replace(given, rx_bytes=9) == given != dataclasses.replace(given, keepalive=24)


def test_limits_that_are_not_said_stay_and_others_can_be_taken_away() -> None:
    key = Key(PRIVATE).public_key
    assert "plait_" not in values.text_of_set([Peer(key)], [], uapi.Set())
    text = values.text_of_set([Peer(key, quota=0, expires=Peer.NEVER, name="")], [], uapi.Set())
    assert "plait_expires=0\nplait_quota=0\nplait_name=\n" in text


FIELDS = {
    "peer": PRIVATE, "name": "phone", "claimed_key": PRIVATE, "public_key": PRIVATE,
    "endpoint": "192.0.2.1:7", "was": "[fe80::1%eth0]:7", "source": "192.0.2.1:0", "message": "initiation",
    "tries": 3, "count": 51821, "reason": "of a test", "mend": "nothing", "worker": "control",
    "cause": "killed", "repaired": "nothing", "incarnation": 2, "away": 0.5, "pause": 1.5, "receivers": 2,
    "consumers": 3,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(Kind))
def test_each_event_of_the_engine_has_a_class_with_its_values(kind: Kind) -> None:
    bare = event_of("wg0", {**HEAD, "event": kind})
    assert type(bare) is KINDS[kind] and (bare.kind, bare.interface) == (kind, "wg0")
    assert bare.time.isoformat() == "2025-11-24T16:00:00.123000+00:00"
    event = event_of("wg0", {**HEAD, "event": kind, **FIELDS})
    assert str(event)
    for each in dataclasses.fields(event):
        value = getattr(event, each.name)
        hint = typing.get_type_hints(type(event))[each.name]
        plain = {int: int, str: str, float: float, Key | None: Key, Endpoint | None: Endpoint}
        if hint in plain:
            assert isinstance(value, plain[hint]), (each.name, value)
            assert each.name in ("kind", "interface", "cause") or value, "nothing was taken over"


def test_each_field_of_an_event_is_one_that_engines_tell() -> None:
    own = {each.name for each in dataclasses.fields(api_events.Event)} | {"port", "more", "cause"}
    for kind in {*KINDS.values()}:
        assert {each.name for each in dataclasses.fields(kind)} <= own | FIELDS.keys(), kind


def test_an_event_may_be_matched() -> None:
    match event_of("wg0", {**HEAD, "event": "mac1_wrong", "source": "192.0.2.9:5", "message": "initiation"}):
        case plait.HandshakeRefused(cause=cause, source=source):
            assert (cause, str(source)) == ("mac1_wrong", "192.0.2.9:5")
        case other:
            pytest.fail(f"{other}")


def test_what_is_suppressed_or_newer_is_an_event_as_well() -> None:
    more = event_of("wg0", {**HEAD, "event": "mac1_wrong", "more": 7})
    assert isinstance(more, plait.Suppressed) and (more.more, more.kind) == (7, "mac1_wrong")
    newer = event_of("wg0", {**HEAD, "event": "of_tomorrow", "peer": PRIVATE})
    assert type(newer) is plait.Event and newer.told["peer"] == PRIVATE and "of_tomorrow" in str(newer)
