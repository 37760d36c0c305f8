"""A provider of peers as a program: it answers questions over one connection, and sets peers over another.

docs/socket.md has each line of the conversation (`unknown_peers=1`). When the engine's control process is
replaced both connections end; the provider connects again, and gives up when nobody listens any more.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from engine import uapi
from plait import uapi_client
from plait.failure import Failure
from plait.keys import decode
from plait.peers.answer import Answer, Refuse

RECONNECT = 0.2  # seconds before a connection that ended is made again
LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Question:
    """Who has this key? source: address and port of the initiation, which may be forged."""

    public_key: bytes
    source: str


Look = Callable[[Question], Awaitable[Answer]]  # must not raise


def run(name: str, window: int, look: Look) -> None:
    """Answer until SIGINT or SIGTERM, or the engine ends (Failure)."""
    asyncio.run(_run(name, window, look))


async def _run(name: str, window: int, look: Look) -> None:
    provider = Provider(name, window, look)
    serving = asyncio.create_task(provider.serve())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def say(text: str) -> None:
    """A line for people."""
    print(f"plait: {text}", file=sys.stderr, flush=True)


class Provider:
    """The provider of one engine."""

    def __init__(self, name: str, window: int, look: Look) -> None:
        self.name = name
        self.window = window
        self.look = look
        self.path = os.fspath(uapi_client.SOCKETS / f"{name}.sock")

    async def serve(self) -> None:
        """Serve until cancelled. Failure when nobody listens any more, or the engine takes no provider."""
        uapi_client.check_live(self.name)
        while True:
            with suppress(ConnectionError, FileNotFoundError):
                await self._serve_once()
            await asyncio.sleep(RECONNECT)
            uapi_client.check_live(self.name)

    async def _serve_once(self) -> None:
        asked, answers = await asyncio.open_unix_connection(self.path, limit=LINE_BYTES)
        setter = Setter(self.path)
        tasks: set[asyncio.Task[None]] = set()
        is_known = False
        try:
            answers.write(f"unknown_peers=1\nwindow={self.window}\n\n".encode())
            while line := await asked.readline():
                key, _, value = line.decode("ascii").rstrip("\n").partition("=")
                if key == "unknown_peer":
                    told = json.loads(value)
                    question = Question(decode(told["public_key"]), told["source"])
                    task = asyncio.create_task(self._answer(told["id"], question, setter, answers))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                elif key == "evicted":
                    answers.write(b"done=%d\n" % json.loads(value)["id"])
                elif key == "serving":
                    is_known = True
                    which = "is asked about unknown peers" if value == "1" else "stands by"
                    say(f"{self.name}: this program {which}")
                elif key == "error":
                    error = json.loads(value)
                    say(f"{self.name}: {error['what']}: {error['why']}; {error['next']}")
                elif key == "errno":
                    raise self._refused(int(value), is_known)
            if not is_known:
                raise self._refused(0, is_known)
        finally:
            for task in tasks:
                task.cancel()
            answers.close()
            setter.close()

    def _refused(self, code: int, is_known: bool) -> Failure:
        what = f"{self.name} asks nobody here about unknown peers"
        if is_known:
            why = f"its engine ended the connection ({os.strerror(code)})"
            return Failure(what, why, f"What it said stands above; see `plait events {self.name}`.")
        why = "its engine has as many providers as there may be, or does not know the question"
        return Failure(what, why, f"End another provider, or update the engine (plait upgrade {self.name}).")

    async def _answer(
        self, number: int, question: Question, setter: Setter, answers: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):  # the engine asks the next connection about what is open
            await self._answer_with(await self.look(question), number, setter, answers)

    async def _answer_with(
        self, answer: Answer, number: int, setter: Setter, answers: asyncio.StreamWriter
    ) -> None:
        if isinstance(answer, uapi.PeerChange):
            answer.on_demand = 1
            try:
                code = await setter.set(answer)
            except OSError:  # the client's next initiation is asked about again
                code = errno.ECONNRESET
            if code:
                say(f"{self.name}: the engine refuses a peer ({os.strerror(code)}); its log and "
                    f"`plait events {self.name}` say why")
                answer = Refuse(0)
        if isinstance(answer, Refuse):
            answers.write(b"refuse=%d\nttl=%d\n\n" % (number, answer.ttl))
        else:
            answers.write(b"done=%d\n" % number)
        await answers.drain()


class Setter:
    """A connection that carries sets. Many may be under way; the engine applies and answers them in order."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.waiting: deque[asyncio.Future[int]] = deque()
        self.writer: asyncio.StreamWriter | None = None
        self.reading: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()

    async def set(self, peer: uapi.PeerChange) -> int:
        """Set one peer; 0 or the errno. ConnectionError when the engine's control process ends meanwhile."""
        operation = uapi.Set()
        operation.add_peer(peer)
        async with self.lock:
            if self.writer is None:
                reader, self.writer = await asyncio.open_unix_connection(self.path)
                self.reading = asyncio.create_task(self._read(reader, self.writer))
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self.waiting.append(done)
            self.writer.write("".join(uapi.format_set(operation)).encode("ascii"))
            await self.writer.drain()
        return await done

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(b"errno="):
                    done = self.waiting.popleft()
                    if not done.done():
                        done.set_result(abs(int(line[6:])))
        writer.close()
        if self.writer is writer:  # the next set connects again: engines close the connection silent longest
            self.writer = None
        for done in self.waiting:
            if not done.done():
                done.set_exception(ConnectionResetError("the engine closed the connection"))
        self.waiting.clear()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.reading is not None:
            self.reading.cancel()
