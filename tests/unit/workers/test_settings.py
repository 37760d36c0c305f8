"""The settings file: taken whole, or refused with file, line, what, why and the next step."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from workers import settings
from workers.failure import Exit, Failure

CPUS = frozenset({0, 1, 2, 3})


def load(tmp_path: Path, text: str | bytes, **environment: str) -> settings.Settings:
    path = tmp_path / "wg0.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return settings.load("wg0", {"PLAIT_CONFIG": str(path), **environment}, CPUS)


# text, line, what is quoted, part of the reason, part of the next step
REFUSED = [
    ("receivers = 0", 1, "receivers = 0", ">= 1", "1 to 256"),
    ("receivers = 257", 1, "receivers = 257", "<= 256", "1 to 256"),
    ("\n# two\n  consumers   =  'a'", 3, "consumers = 'a'", "got str", "1 to 256"),
    ("consumers = true", 1, "consumers = true", "got bool", "1 to 256"),
    ("consumers = 2.0", 1, "consumers = 2.0", "got float", "1 to 256"),
    ("receivers = 1\ncores = []", 2, "cores = []", "length >= 1", "[0, 1]"),
    ("cores = [0,\n 'x']", 1, "cores = [0,", "got str", "[0, 1]"),
    ("cores = 1", 1, "cores = 1", "got int", "[0, 1]"),
    ("cores = [-1]", 1, "cores = [-1]", ">= 0", "[0, 1]"),
    ("\ncores = [0, 9]", 2, "cores = [0, 9]", "CPU 9", "[0, 1]"),
    ("receivers = 3\nmax_receivers = 2", 2, "max_receivers = 2", "3 receivers from the start", "plait scale"),
    ("max_consumers = 1", 1, "max_consumers = 1", "4 consumers from the start", "plait scale"),
    ("max_consumers = 257", 1, "max_consumers = 257", "<= 256", "plait scale"),
    ("max_peers = 1048577", 1, "max_peers = 1048577", "<= 1048576", "1048576"),
    ("max_peers = 0", 1, "max_peers = 0", ">= 1", "1048576"),
    ("max_peers = 123456789012345678901234567890", 1, "max_peers = 1234", "<= 1048576", "1048576"),
    ("sessions = 63", 1, "sessions = 63", ">= 64", "2097152"),
    ("sessions = 2097153", 1, "sessions = 2097153", "<= 2097152", "2097152"),
    ("small_slots = 63", 1, "small_slots = 63", ">= 64", "32767"),
    ("small_slots = 32768", 1, "small_slots = 32768", "<= 32767", "32767"),
    ("train_slots = 0", 1, "train_slots = 0", ">= 1", "4096"),
    ("train_slots = 4097", 1, "train_slots = 4097", "<= 4096", "4096"),
    ("handoff = 'weave'", 1, "handoff = 'weave'", "weave", '"pipeline"'),
    ("idle_after = '12'", 1, "idle_after = '12'", "it is no time", '"12h"'),
    ("idle_after = '-1s'", 1, "idle_after = '-1s'", "it is no time", '"12h"'),
    ("idle_after = '181d'", 1, "idle_after = '181d'", "more than 180 days", '"12h"'),
    ("idle_after = 12", 1, "idle_after = 12", "got int", '"12h"'),
    ("gateway = 16", 1, "gateway = 16", "up to 15", "gateway_bits"),
    ("gateway_bits = 2\ngateway = 4", 2, "gateway = 4", "up to 3", "gateway_bits"),
    ("gateway = -1", 1, "gateway = -1", ">= 0", "0 to 15"),
    ("gateway = 1\ngateway_bits = 3", 2, "gateway_bits = 3", "", "2, 4, 6 or 8"),
    ("aead = 'rot13'", 1, "aead = 'rot13'", "rot13", '"evp"'),
    ("receivers = 1\nreciever = 2", 2, "reciever = 2", "no such setting", "receivers, consumers"),
    ("[pools]\nsmall = 1", 1, "[pools]", "no such setting", "receivers, consumers"),
    ("[[cores]]\nfirst = 1", 1, "[[cores]]", "got object", "[0, 1]"),
    ("a.b = 1", 1, "a.b = 1", "no such setting", "receivers, consumers"),
    ('"receivers" = 0', 1, '"receivers" = 0', ">= 1", "1 to 256"),
    ("receivers = 1\nconsumers 2", 2, "settings", "expected '='", "TOML"),
    ("receivers = 1\nconsumers =", 2, "settings", "invalid value", "TOML"),
    ("receivers = 1\nreceivers = 2\n", 2, "settings", "overwrite", "TOML"),
    ("receivers = 1\nmax_peers = " + "1" * 5000, 2, "settings", "4300 digits", "TOML"),
    ("cores = " + "[" * 5000, 1, "settings", "recursion", "TOML"),
    (b"receivers = 1\n# \xff\n", 2, "settings", "UTF-8", "defaults"),
]


@pytest.mark.parametrize(("text", "line", "what", "why", "next_step"), REFUSED)
def test_refusal_names_file_line_what_why_next(
    tmp_path: Path, text: str | bytes, line: int, what: str, why: str, next_step: str
) -> None:
    with pytest.raises(Failure) as caught:
        load(tmp_path, text)
    failure = caught.value
    assert failure.what.startswith(f"{tmp_path / 'wg0.toml'}, line {line}: ")
    assert what in failure.what
    assert why in failure.why
    assert next_step in failure.next_step
    assert failure.code == Exit.SETTINGS
    assert "\n" not in str(failure)


def test_every_setting_can_be_given(tmp_path: Path) -> None:
    given = load(
        tmp_path,
        "receivers = 3\nconsumers = 2\ncores = [2, 0]\nmax_peers = 100\nsessions = 200\n"
        "small_slots = 128\ntrain_slots = 4\nhandoff = 'pipeline'\npin = true\naead = 'evp'\n"
        "max_receivers = 5\nmax_consumers = 2\ntun_offload = false\nudp_offload = false\nmulticast = true\n"
        "priority = 'normal'\n",
    )
    assert given == settings.Settings(
        receivers=3, consumers=2, cores=(2, 0), max_peers=100, sessions=200, small_slots=128, train_slots=4,
        handoff="pipeline", pin=True, aead="evp", max_receivers=5, max_consumers=2, tun_offload=False,
        udp_offload=False, multicast=True, priority="normal",
    )
    assert [given.cores_of(i) for i in range(3)] == [(2,), (0,), (2,)]
    assert msgspec.structs.replace(given, pin=False).cores_of(1) == (0, 2)


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("receivers = 1\nconsumers = 3", (4, 6)),  # there are four CPUs
        ("receivers = 1\nconsumers = 20\ncores = [0]", (2, 40)),
        ("receivers = 2\nmax_receivers = 2\nmax_consumers = 32", (2, 32)),
    ],
)
def test_room_for_more_workers(tmp_path: Path, text: str, room: tuple[int, int]) -> None:
    given = load(tmp_path, text)
    assert (given.room_for("receiver"), given.room_for("consumer")) == room
    laid_out = settings.geometry(given)
    assert (laid_out["max_receivers"], laid_out["max_consumers"]) == room


def test_every_key_is_explained() -> None:
    assert set(settings.KEYS) == set(settings.Settings.__struct_fields__)


def test_defaults_follow_the_host() -> None:
    absent = settings.load("no-such-interface", {}, CPUS)
    assert (absent.receivers, absent.consumers, absent.cores) == (4, 4, (0, 1, 2, 3))
    many = settings.load("no-such-interface", {}, frozenset(range(300)))
    assert (many.receivers, many.consumers, len(many.cores)) == (256, 256, 300)


def test_threads_of_the_environment_are_a_default_only(tmp_path: Path) -> None:
    assert settings.load("no-such-interface", {"WG_THREADS": "2"}, CPUS).receivers == 2
    assert settings.load("no-such-interface", {"WG_THREADS": "999"}, CPUS).consumers == 256
    given = load(tmp_path, "receivers = 1", WG_THREADS="3")
    assert (given.receivers, given.consumers) == (1, 3)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_threads_must_be_a_number(text: str) -> None:
    with pytest.raises(Failure, match="WG_THREADS") as caught:
        settings.load("no-such-interface", {"WG_THREADS": text}, CPUS)
    assert caught.value.code == Exit.USAGE


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught:
        settings.load("wg0", {"PLAIT_CONFIG": str(tmp_path / "none.toml")}, CPUS)
    assert caught.value.code == Exit.SETTINGS
    with pytest.raises(Failure, match="Is a directory"):
        settings.load("wg0", {"PLAIT_CONFIG": str(tmp_path)}, CPUS)


def test_an_empty_variable_names_no_file() -> None:
    assert settings.path_of("wg0", {"PLAIT_CONFIG": ""}) == Path("/etc/plait/wg0.toml")


@pytest.mark.parametrize("receivers", [*range(1, 65), 65, 127, 128, 129, 255, 256])
def test_geometry_is_one_that_shm_accepts(receivers: int) -> None:
    from shm._shm import ffi, lib

    for small, train, peers, sessions in [
        (64, 1, 1, None), (1024, 16, 1 << 16, None), (32767, 4096, 1 << 20, 1 << 21), (64, 1, 65, 65)
    ]:  # fmt: skip
        numbers = settings.geometry(
            settings.Settings(
                receivers=receivers, consumers=1, cores=(0,), max_peers=peers, sessions=sessions,
                small_slots=small, train_slots=train,
            )
        )  # fmt: skip
        assert lib.segment_lay_out(ffi.new("struct geometry *", numbers), ffi.NULL) > 0
        assert numbers["max_peers"] >= peers and numbers["max_keypairs"] >= (sessions or 0)
        assert 2048 < numbers["mailbox_cells"] * receivers <= 4096


@pytest.mark.parametrize(("text", "seconds"), [
    ("", 0), ("0s", 0), ("90s", 90), ("30m", 1800), ("12h", 43200), ("180d", settings.IDLE_MOST),
])  # fmt: skip
def test_times_are_in_seconds_minutes_hours_and_days(tmp_path: Path, text: str, seconds: int) -> None:
    assert load(tmp_path, f'idle_after = "{text}"' if text else "").idle_seconds == seconds


@pytest.mark.parametrize(("text", "wanted"), [
    ("", (0, 0)), ("gateway_bits = 8", (0, 0)), ("gateway = 0", (0, 4)), ("gateway = 15", (15, 4)),
    ("gateway = 255\ngateway_bits = 8", (255, 8)),
])  # fmt: skip
def test_a_gateway_has_a_number_and_a_width(tmp_path: Path, text: str, wanted: tuple[int, int]) -> None:
    assert load(tmp_path, text).gateway_and_bits == wanted
