"""Who is sent to: the rule of plait/load/target.py."""

from __future__ import annotations

import ipaddress

import pytest
from click.testing import CliRunner

from plait.command import plait
from plait.failure import Failure
from plait.load.target import check, own_addresses, parse, sources

OWN = {ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7")}


@pytest.mark.parametrize("target", ["127.0.0.1", "127.9.9.9", "::1", "192.0.2.7", "2001:db8::7"])
def test_ours(target: str) -> None:
    check(ipaddress.ip_address(target), [], lambda: OWN)


@pytest.mark.parametrize(
    "target",
    [
        "192.0.2.8",
        "8.8.8.8",
        "10.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.255",
        "2001:db8::8",
        "::",
        "ff02::1",
        "::ffff:8.8.8.8",
    ],
)
def test_not_ours(target: str) -> None:
    with pytest.raises(Failure, match=r"is no target.*--i-own-this-target"):
        check(ipaddress.ip_address(target), ["192.0.2.9"], lambda: OWN)


@pytest.mark.parametrize("target", ["224.0.0.1", "255.255.255.255", "ff02::1"])
def test_an_address_of_many_hosts_is_nobodys(target: str) -> None:
    """The kernel would refuse each datagram, or many would get it."""
    with pytest.raises(Failure, match="the address of many hosts"):
        check(ipaddress.ip_address(target), [target], lambda: OWN)


def test_named_exactly() -> None:
    check(ipaddress.ip_address("198.51.100.1"), ["198.51.100.1"], lambda: OWN)
    for words in ("198.51.100.0/24", "gateway.example", "198.51.100.1:51820"):
        with pytest.raises(Failure, match="cannot use --i-own-this-target"):
            check(ipaddress.ip_address("198.51.100.1"), [words], lambda: OWN)


def test_this_host_has_loopback() -> None:
    assert ipaddress.ip_address("127.0.0.1") in own_addresses()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "no port"),
        ("127.0.0.1:0", "no port"),
        ("127.0.0.1:65536", "no port"),
        (":51820", "''"),
        ("gateway:51820", "gateway"),
        ("::1:51820", "brackets"),
        ("[127.0.0.1]:5", "brackets"),
    ],
)
def test_target_refused(text: str, why: str) -> None:
    with pytest.raises(Failure, match=why):
        parse(text)


def test_target_taken() -> None:
    assert parse("127.0.0.1:51820") == (ipaddress.ip_address("127.0.0.1"), 51820)
    assert parse("[::1]:1") == (ipaddress.ip_address("::1"), 1)


def test_sources() -> None:
    loopback = ipaddress.ip_address("127.0.0.1")
    assert sources("127.1.0.1+500", loopback).count == 500
    assert sources(None, loopback).count == 0
    for text, why in (
        ("127.1.0.1", "how many"),
        ("127.1.0.1+0", "how many"),
        ("::1+2", "family"),
        ("192.0.2.1+2", "cannot send from 192.0.2.1"),
        ("127.255.255.255+9", "cannot send from 128"),
    ):
        with pytest.raises(Failure, match=why):
            sources(text, loopback)


def test_the_command_refuses_and_sends_nothing() -> None:
    done = CliRunner().invoke(plait, ["load", "run", "--target", "192.0.2.1:51820", "--peers", "3"])
    assert done.exit_code == 1
    assert "192.0.2.1 is no target" in done.output
