"""A provider in Python at an engine that is a socket of the test: what it hears, and what it makes of that.

tests/interop/test_python_provider.py has the same with a real engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

import plait
from plait import Endpoint, Failure, Key, Peer, Refuse
from plait.api.provider import TRIES
from tests.support.waiting import PATIENCE

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
KEY = Key(bytes([7] * 32))


def serve(path: Path, why: str, *connections: Speak) -> None:
    """A provider until its Failure, of an engine that speaks so on its connections, and has no more."""
    count = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # who only sees whether somebody listens
            await reader.readuntil(b"\n\n")
            count += 1
            await connections[count - 1](reader, writer)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(connected, path), plait.aio.attach(str(path)) as wg:

            @wg.provider()
            async def lookup(key: Key, source: Endpoint) -> Peer | Refuse:
                return Refuse(ttl=int(str(source.address).rpartition(".")[2]))

            with pytest.raises(Failure, match=why) as failed:
                async with asyncio.timeout(PATIENCE):
                    await wg.serve_forever()
            assert failed.value.next_step

    asyncio.run(run())
    assert count == len(connections)


def saying(text: str, then: str = "") -> Speak:
    """This text, and the end when all of `then` came in answer."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        assert await reader.readexactly(len(then)) == then.encode()

    return speak


def question(number: int, source: str) -> str:
    return f'unknown_peer={{"id": {number}, "public_key": "{KEY}", "source": "{source}", "age_ms": 1}}\n'


@pytest.mark.parametrize("last, why", [
    ("", "does not know the question"),
    ("errno=71\n\n", "does not know the question"),
    ("errno=16\n\n", "as many providers as there may be"),
])  # fmt: skip
def test_an_engine_that_has_no_use_for_a_provider_is_left(tmp_path: Path, last: str, why: str) -> None:
    serve(tmp_path / "wg0.sock", why, *[saying(last)] * (1 if last else TRIES))


def test_connections_that_end_before_a_word_are_made_again(tmp_path: Path) -> None:
    """Control is killed just then. Only so many in a row say that the engine does not know the question."""
    ends = [saying("")] * 3
    full = saying("errno=16\n\n")
    serve(tmp_path / "wg0.sock", "as many providers", *ends, saying("serving=1\n"), *ends, full)


def test_lookups_are_answered_on_each_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plait.provider")
    told = "serving=1\n" + question(3, "192.0.2.9:40000")
    serve(
        tmp_path / "wg0.sock", "Protocol error",
        saying(told, "refuse=3\nttl=9\n\n"),
        saying('serving=0\nerror={"what": "a", "why": "b", "next": "c"}\nerrno=62\n\n'),  # ETIME
        saying(told, "refuse=3\nttl=9\n\n"),
        saying('serving=1\nerror={"what": "x", "why": "y", "next": "z"}\nerrno=71\n\n'),
    )  # fmt: skip
    words = [record.getMessage() for record in caplog.records]
    assert sum("is asked about unknown peers" in each for each in words) == 3
    assert any("stands by" in each for each in words) and any("x: y; z" in each for each in words)


def test_what_is_evicted_may_go_where_nobody_wants_its_totals(tmp_path: Path) -> None:
    told = {"id": 4, "public_key": str(KEY), "life": "1-2-3", "timestamp": "00" * 12, "rx": 1, "tx": 2}
    line = f"serving=1\nevicted={json.dumps(told | {'latest_handshake': 0})}\n"
    serve(tmp_path / "wg0.sock", "as many providers", saying(line, "done=4\n"), saying("errno=16\n\n"))


@pytest.mark.parametrize("line", [
    "unknown_peer={", "unknown_peer={}", 'unknown_peer={"id": 1, "public_key": "x", "source": ""}',
    "unknown_peer=7", "evicted=[]", "errno=x", "\xff", "x" * (1 << 17),
])  # fmt: skip
def test_an_engine_that_tells_nonsense_is_left(tmp_path: Path, line: str) -> None:
    serve(tmp_path / "wg0.sock", "cannot be understood", saying(f"serving=1\n{line}\n"))


def test_the_end_of_the_engine_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"serving=1\n")
        path.unlink()

    serve(path, "nobody listens", end)


def test_what_cannot_be_served_is_refused_before() -> None:
    synchronous, asynchronous = plait.Interface("wg0"), plait.aio.Interface("wg0")
    for wg in (synchronous, asynchronous):
        for options in ({"window": 0}, {"window": 4097}, {"timeout": 0}):
            with pytest.raises(Failure, match="the provider is refused"):
                wg.provider(**options)  # type: ignore[arg-type]
    with pytest.raises(Failure, match="no provider to be asked"):
        synchronous.serve_forever()
    with pytest.raises(Failure, match="no provider to be asked"):
        asyncio.run(asynchronous.serve_forever())
    synchronous.shutdown()
