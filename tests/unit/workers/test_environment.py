"""A word in an environment variable that nobody knows is told once, and what is done instead is true."""

from __future__ import annotations

import logging
import socket

import pytest

from engine import uapi
from plait import daemon
from plait.quick import conf
from plait.quick import up_down as quick
from plait.uapi_client import Device
from plait.watch import show
from plait.watch.terminal import is_coloured
from workers import environment
from workers.supervisor.notify import ServiceManager

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="


@pytest.fixture(autouse=True)
def nothing_is_told_yet() -> None:
    environment.tell.cache_clear()


def test_words_about_colours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for word, coloured in (("", False), ("auto", False), ("never", False), ("always", True)):
        monkeypatch.setenv("WG_COLOR_MODE", word)
        assert is_coloured() == coloured and capsys.readouterr().err == ""
    monkeypatch.setenv("WG_COLOR_MODE", "Always")
    assert not is_coloured() and not is_coloured()
    assert capsys.readouterr().err == (
        "plait: cannot use WG_COLOR_MODE=Always: it is not known, so colours are for terminals; "
        "set it to always, never or auto, or unset it\n"
    )


def test_words_about_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    device = Device("wg0", PRIVATE, 0, 0)
    for word, is_shown, told in (
        ("never", True, ""),
        ("always", False, ""),
        ("no", False, "WG_HIDE_KEYS=no"),
    ):
        monkeypatch.setenv("WG_HIDE_KEYS", word)
        assert (PRIVATE in show.pretty(device, 0.0, coloured=False)) == is_shown
        words = capsys.readouterr().err
        assert told in words and bool(words) == bool(told)


def test_words_about_tries(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for word, is_told in (
        ("infinity", False),
        ("3", False),
        ("", False),
        ("many", True),
        ("-1", True),
        ("\u0663", True),
    ):
        monkeypatch.setenv("WG_ENDPOINT_RESOLUTION_RETRIES", word)
        found = quick.resolve(conf.Host("192.0.2.1", 51820))
        assert found == uapi.endpoint_of(socket.inet_aton("192.0.2.1"), 51820)
        assert (f"WG_ENDPOINT_RESOLUTION_RETRIES={word}: " in capsys.readouterr().err) == is_told


def test_words_about_the_foreground(capsys: pytest.CaptureFixture[str]) -> None:
    for word, is_foreground, is_told in (
        ("1", True, False),
        ("0", False, False),
        ("", False, False),
        ("yes", False, True),
    ):
        assert daemon._is_foreground(word) == is_foreground
        assert ("plaitd: cannot use WG_PROCESS_FOREGROUND=" in capsys.readouterr().err) == is_told


def test_a_watchdog_of_no_number(caplog: pytest.LogCaptureFixture) -> None:
    for word, interval in (("4000000", 2.0), ("0", None), ("", None)):
        assert ServiceManager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": word}).interval == interval
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        assert ServiceManager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2s"}).interval is None
    (told,) = caplog.messages
    assert told.startswith("cannot use WATCHDOG_USEC=2s: ")
