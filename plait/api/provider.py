"""Provider: a program that an engine asks about unknown keys over one connection, and which sets peers over
another.

The engine's side, and each line, stand in docs/socket.md (`unknown_peers=1`). When control is restarted both
connections end, and they are made again for as long as somebody listens. What was asked on the old one is
cancelled: the engine has forgotten it, and the client's next try is asked about again.

`plait peers`, `plait.Interface.provider` and `plait.aio.Interface.provider` stand on this. Users' functions
run within `guarded_look` and `guarded_account`: what is wrong with one answer is logged, and is a refusal
that the engine does not remember, or an eviction that it tries again.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from engine import uapi
from plait import uapi_client
from plait.api.connection import connected
from plait.api.values import Endpoint, Key, Peer, Refuse, Totals, change_of, public
from plait.failure import Failure
from plait.keys import decode, encode

log = logging.getLogger("plait.provider")
PAUSE: Final = 0.2  # seconds before a connection that ended is made again
TRIES: Final = 4  # connections in a row that end before a word; a control that is killed ends one
LINE_BYTES: Final = 1 << 16
SECONDS: Final = 4.0  # for a lookup: a client tries again 5 s after its first try
ACCOUNT_SECONDS: Final = 20.0  # the engine gives a provider 30


@dataclass(frozen=True, slots=True)
class Question:
    """Who has this key? source: address and port that the initiation came from, not proven."""

    public_key: bytes
    source: str


Answer: TypeAlias = uapi.PeerChange | Refuse
Look: TypeAlias = Callable[[Question], Awaitable[Answer]]  # must not raise
Settled: TypeAlias = Callable[[bytes], Awaitable[None]]  # must not raise
Take: TypeAlias = Callable[[Key, Totals], Awaitable[bool]]  # whether the peer may go; must not raise
Lookup: TypeAlias = Callable[[Key, Endpoint], Awaitable[Peer | Refuse]]
Account: TypeAlias = Callable[[Key, Totals], Awaitable[None]]


class Provider:
    """One engine's. name: as uapi_client.py has it; window: questions at once, 1 to WINDOW_MOST.

    take: is told of peers that are evicted; without it each may go. settled: is told of each public key when
    its question is answered, and its peer set.
    """

    def __init__(
        self, name: str, window: int, look: Look, take: Take | None = None, settled: Settled | None = None
    ) -> None:
        self.name = name
        self.window = window
        self.look = look
        self.take = take
        self.settled = settled

    async def serve(self) -> None:
        """Until cancelled, and until what was under way then has ended.

        Failure when nobody listens any more, the engine does not know the question, or ends the connection.
        """
        unheard = 0
        while True:
            uapi_client.check_live(self.name)
            with uapi_client.explained(self.name, self._what, uapi_client.TIMEOUT):
                unheard = 0 if await self._serve_once() else unheard + 1
            if unheard == TRIES:
                raise self._refused(errno.EPROTO)
            await asyncio.sleep(PAUSE * max(unheard, 1))

    @property
    def _what(self) -> str:
        return f"{self.name} asks nobody here about unknown peers"

    def _refused(self, code: int) -> Failure:
        if code == errno.EBUSY:
            why = "its engine has as many providers as there may be"
            return Failure(self._what, why, "End one of the others first.")
        why = "its engine does not know the question; it is another program than plaitd, or an older plaitd"
        return Failure(self._what, why, f"Update the engine: plait upgrade {self.name}")

    async def _serve_once(self) -> bool:
        """Until the connection ends. True: the engine took us for a provider."""
        try:
            sock = await connected(self.name)
        except ConnectionRefusedError:  # between two engines; check_live says whether there is another
            return False
        asked, answers = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES)
        setter = Setter(self.name)
        tasks: set[asyncio.Task[None]] = set()
        is_known = False
        try:
            answers.write(f"unknown_peers=1\nwindow={self.window}\n\n".encode())
            while line := await asked.readline():
                key, _, value = line.decode("ascii").rstrip("\n").partition("=")
                if key == "unknown_peer":
                    told = json.loads(value)
                    question = Question(decode(told["public_key"]), told["source"])
                    work = self._answer(told["id"], question, setter, answers)
                elif key == "evicted":
                    told = json.loads(value)
                    work = self._account(told["id"], Key(told["public_key"]), _totals(told), answers)
                else:
                    if key == "serving":
                        is_known = True
                        which = "is asked about unknown peers" if value == "1" else "stands by"
                        log.info("%s: this program %s", self.name, which)
                    elif key == "error":
                        told = json.loads(value)
                        log.error("%s: %s: %s; %s", self.name, told["what"], told["why"], told["next"])
                    elif key == "errno" and int(value) != errno.ETIME:
                        raise self._ended(int(value)) if is_known else self._refused(int(value))
                    continue  # ETIME: we were too slow, and are the last of the providers now
                task = asyncio.create_task(work)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except ConnectionError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise uapi_client.nonsense(self.name, "it told a provider what is no line for one") from error
        finally:
            for task in tasks:
                task.cancel()
            answers.close()
            setter.close()
            await asyncio.gather(*tasks, return_exceptions=True)
        return is_known

    def _ended(self, code: int) -> Failure:
        why = f"its engine ended the connection ({os.strerror(code)})"
        return Failure(self._what, why, f"What it said was logged; see `plait events {self.name}`.")

    async def _answer(
        self, number: int, question: Question, setter: Setter, answers: asyncio.StreamWriter
    ) -> None:
        answer = await self.look(question)
        if isinstance(answer, uapi.PeerChange):
            try:
                code = await setter.set(answer)
            except OSError:  # the client's next try is asked about again
                code = errno.ECONNRESET
            if code:
                log.error(
                    "%s: the engine refuses the peer %s (%s); its log and `plait events %s` say why",
                    self.name, encode(question.public_key), os.strerror(code), self.name,
                )  # fmt: skip
                answer = Refuse(ttl=0)
        await _say(answers, number, answer if isinstance(answer, Refuse) else None)
        if self.settled is not None:
            await self.settled(question.public_key)

    async def _account(self, number: int, key: Key, totals: Totals, answers: asyncio.StreamWriter) -> None:
        may_go = self.take is None or await self.take(key, totals)
        await _say(answers, number, None if may_go else Refuse(ttl=0))


async def _say(answers: asyncio.StreamWriter, number: int, refuse: Refuse | None) -> None:
    with suppress(ConnectionError):  # what is open then is asked again
        if refuse is None:
            answers.write(b"done=%d\n" % number)
        else:
            answers.write(b"refuse=%d\nttl=%d\n\n" % (number, refuse.ttl))
        await answers.drain()


def _totals(told: dict[str, Any]) -> Totals:
    latest = told["latest_handshake"]
    return Totals(
        told["rx"], told["tx"], datetime.fromtimestamp(latest, UTC) if latest else None,
        bytes.fromhex(told["timestamp"]), told["life"],
    )  # fmt: skip


class Setter:
    """A connection for sets, each whole by itself; many may be under way."""

    def __init__(self, name: str) -> None:
        self.name = name
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
                sock = await connected(self.name)
                reader, self.writer = await asyncio.open_unix_connection(sock=sock)
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
        if self.writer is writer:  # the next set connects anew: an engine closes who was silent longest
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


# --- users' functions -----------------------------------------------------------------------------


def check(window: int, timeout: float) -> None:
    """Failure when these are none."""
    if not 1 <= window <= uapi.WINDOW_MOST:
        why = f"its window is {window}, and there may be 1 to {uapi.WINDOW_MOST} questions at once"
        raise Failure("the provider is refused", why, "Leave `window` out, or give another.")
    if not timeout > 0:
        why = f"its timeout is {timeout} s, so that no lookup could end in time"
        raise Failure("the provider is refused", why, "Leave `timeout` out, or give more seconds.")


def no_provider(name: str) -> Failure:
    """Somebody would serve without a function to ask."""
    step = "Decorate a function with `@wg.provider()` before `serve_forever`."
    return Failure(f"{name} asks nobody here about unknown peers", "there is no provider to be asked", step)


def guarded_look(name: str, lookup: Lookup, seconds: float) -> Look:
    """A user's function as one that never raises, and takes no longer."""

    async def look(question: Question) -> Answer:
        key = public(Key(question.public_key))
        answer: Answer = Refuse(ttl=0)

        async def run() -> None:
            nonlocal answer
            answer = _checked(key, await lookup(key, Endpoint.parse(question.source)))

        await _guarded(name, f"the lookup of {key}", seconds, run)
        return answer

    return look


def guarded_account(name: str, account: Account) -> Take:
    """Likewise; True when it returned."""

    async def take(key: Key, totals: Totals) -> bool:
        async def run() -> None:
            await account(public(key), totals)

        return await _guarded(name, f"taking back {key}", ACCOUNT_SECONDS, run)

    return take


def _checked(key: Key, answer: object) -> Answer:
    if isinstance(answer, Refuse):
        return answer
    if not isinstance(answer, Peer):
        raise ValueError(f"it returned a {type(answer).__name__}, which is neither a Peer nor a Refuse")
    if answer.public_key != key:
        raise ValueError(f"it returned the peer {answer.public_key}, which was not asked about")
    return change_of(answer)


async def _guarded(name: str, what: str, seconds: float, run: Callable[[], Awaitable[None]]) -> bool:
    """Whether it returned. Only our own end and the program's go through."""
    task = asyncio.current_task()
    try:
        async with asyncio.timeout(seconds) as timer:
            await run()
        return True
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        log.error("%s: %s was cancelled, and not by its provider", name, what)
    except Exception as error:
        if timer.expired():
            log.error("%s: %s took longer than %g s and was cancelled", name, what, seconds)
        else:
            log.error("%s: %s raised: %s", name, what, error, exc_info=True)
    return False
