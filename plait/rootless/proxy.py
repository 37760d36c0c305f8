"""`plait proxy FILE`: SOCKS5, HTTP and single ports of a sandbox's network, for programs outside of it.

Connections are accepted outside, by asyncio; the sockets that go on through the tunnel are made inside
(rootless/box.py), and names are asked for inside, by a process that lives there. So no name and no byte goes
by another way. SOCKS5 is RFC 1928 without authentication, CONNECT alone; HTTP is CONNECT (RFC 9110, section
9.3.6) and, for plain http://, one request a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from plait.failure import Failure
from plait.rootless.box import Sandbox
from plait.signals import interruptible

GREETING_SECONDS: Final = 60.0  # for a client to say what it wants, and for the connection to be there
PIECE: Final = 1 << 16
HEAD_BYTES: Final = 1 << 16  # of an HTTP request
NAME_CHARACTERS: Final = 253  # RFC 1035, section 2.3.4: 255 bytes, of which the form in use spends two
RESOLVER: Final = """
import concurrent.futures, json, socket, sys, threading
lock = threading.Lock()
def answer(number, host):
    try:
        told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = [[int(each[0]), each[4][0]] for each in told]
    except (OSError, UnicodeError):
        found = []
    with lock:
        print(json.dumps([number, found]), flush=True)
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    for line in sys.stdin:
        pool.submit(answer, *json.loads(line))
"""
ENDINGS: Final = (OSError, asyncio.IncompleteReadError, Failure)  # of one connection, and of no other
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Greeting: TypeAlias = Callable[[Reader, Writer], Awaitable[socket.socket | None]]
# RFC 1928, section 6
SUCCEEDED, GENERAL, NETWORK, HOST, REFUSED, COMMAND, KIND = 0, 1, 3, 4, 5, 7, 8
REPLIES: Final = {
    errno.ENETUNREACH: NETWORK, errno.EHOSTUNREACH: HOST, errno.ETIMEDOUT: HOST, errno.ECONNREFUSED: REFUSED,
}  # fmt: skip
_PLACE = re.compile(r"(?:(?:\[(?P<six>[^]]*)\]|(?P<host>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})")
_HOST = r"(?:\[[^]]*\]|[^:\[\]]+)"
_FORWARD = re.compile(rf"(?P<here>(?:{_HOST}:)?[0-9]{{1,5}}):(?P<there>{_HOST}:[0-9]{{1,5}})")


@dataclass(frozen=True)
class Place:
    """Where to listen, or to connect to; a port of 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Wishes:
    """What is asked for: places to listen at, and single ports (-L, -R) with where each leads."""

    socks5: Sequence[Place] = ()
    http: Sequence[Place] = ()
    local: Sequence[tuple[Place, Place]] = ()
    remote: Sequence[tuple[Place, Place]] = ()


def place(text: str, address: str = "127.0.0.1") -> Place:
    """[ADDRESS:]PORT, at this address when it names none. Failure when it is none."""
    found = _PLACE.fullmatch(text)
    if not found or int(found["port"]) > 0xFFFF:
        step = "Write 127.0.0.1:1080, [::1]:1080 or 1080."
        raise Failure(f"{text} is not understood", "it is no address and port", step)
    return Place(found["six"] or found["host"] or address, int(found["port"]))


def forward(text: str, address: str = "127.0.0.1") -> tuple[Place, Place]:
    """[ADDRESS:]PORT:HOST:PORT, as ssh has it; address as for `place`. Failure when it is none."""
    found = _FORWARD.fullmatch(text)
    if not found:
        step = "Write 8080:intranet.example:80, or 127.0.0.1:8080:intranet.example:80."
        raise Failure(f"{text} is not understood", "it is no [ADDRESS:]PORT:HOST:PORT", step)
    return place(found["here"], address), place(found["there"])


def run(config: str, wishes: Wishes) -> int:
    """Serve until a signal ends it; exit code. Failure when the tunnel or a port cannot be had."""
    with interruptible(), Sandbox(config) as box:
        return asyncio.run(Proxy(box).serve(wishes))


class Proxy:
    """Servers outside, connections inside."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[list[tuple[int, str]]]] = {}
        self._questions = -1  # fd that the resolver reads from
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, wishes: Wishes) -> int:
        """Until SIGINT or SIGTERM: 0. Failure when the sandbox ends before."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
        resolver = self._start_resolver()
        over = asyncio.ensure_future(asyncio.to_thread(self.box.wait, resolver))
        over.add_done_callback(lambda _: ended.set())
        try:
            with contextlib.ExitStack() as stack:
                await self._open(stack, wishes)
                await ended.wait()
            if over.done():
                over.result()  # a Failure says why
                raise Failure("the proxy has ended", "its resolver inside was killed", "Start it again.")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with contextlib.suppress(Failure):
                self.box.signal(resolver, signal.SIGKILL)
            await asyncio.wait([over])
        return 0

    async def _open(self, stack: contextlib.ExitStack, wishes: Wishes) -> None:
        """Everything that is asked for. Failure at the first that cannot be had."""
        for at in wishes.socks5:
            self._say("socks5", await self._listen(stack, at, self._socks5))
        for at in wishes.http:
            self._say("http", await self._listen(stack, at, self._http))
        for at, there in wishes.local:
            self._say(f"to {there}", await self._listen(stack, at, self._forwarding(self.connect, there)))
        for at, there in wishes.remote:
            inner = self._forwarding(_connect_here, there)
            self._say(f"inside, to {there}", await self._listen(stack, at, inner, inside=True))

    # -- connections through the tunnel -----------------------------------------------------------

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection from inside. OSError, when there is none; names are asked for inside."""
        error = OSError(errno.EHOSTUNREACH, f"no address for {host}")
        for family, address in await self._addresses(host):
            sock = await asyncio.to_thread(self.box.socket, family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
                return sock
            except OSError as refused:
                sock.close()
                error = refused
            except BaseException:
                sock.close()
                raise
        raise error

    async def _addresses(self, host: str) -> list[tuple[int, str]]:
        with contextlib.suppress(ValueError):
            family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
            return [(family, host)]
        if len(host) > NAME_CHARACTERS:
            return []
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            question = json.dumps([number, host]).encode() + b"\n"
            await asyncio.to_thread(os.write, self._questions, question)
            found: list[tuple[int, str]] = await future
            return found
        finally:
            del self._asked[number]

    def _start_resolver(self) -> int:
        theirs, self._questions = os.pipe()
        answers, told = os.pipe()
        program = [sys.executable, "-I", "-S", "-c", RESOLVER]
        number = self.box.start(program, stdin=theirs, stdout=told, directory="/", start_new_session=True)
        os.close(theirs)
        os.close(told)
        loop, rest = asyncio.get_running_loop(), b""

        def read() -> None:
            nonlocal rest
            data = os.read(answers, PIECE)
            if not data:
                loop.remove_reader(answers)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                which, found = json.loads(line)
                if (future := self._asked.get(which)) and not future.done():
                    future.set_result([(family, address) for family, address in found])

        loop.add_reader(answers, read)
        return number

    # -- what clients speak -----------------------------------------------------------------------

    async def _socks5(self, reader: Reader, writer: Writer) -> socket.socket | None:
        version, methods = await reader.readexactly(2)
        if version != 5 or 0 not in await reader.readexactly(methods):
            writer.write(b"\x05\xff")
            return None
        writer.write(b"\x05\x00")
        _, command, _, kind = await reader.readexactly(4)
        match kind:
            case 1:
                host = str(IPv4Address(await reader.readexactly(4)))
            case 4:
                host = str(IPv6Address(await reader.readexactly(16)))
            case 3:
                host = (await reader.readexactly((await reader.readexactly(1))[0])).decode("ascii", "replace")
            case _:
                writer.write(_reply(KIND))
                return None
        port = int.from_bytes(await reader.readexactly(2), "big")
        if command != 1:
            writer.write(_reply(COMMAND))
            return None
        try:
            sock = await self.connect(host, port)
        except OSError as error:
            writer.write(_reply(REPLIES.get(error.errno or 0, GENERAL)))
            return None
        writer.write(_reply(SUCCEEDED))
        return sock

    async def _http(self, reader: Reader, writer: Writer) -> socket.socket | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, fields = head.decode("latin-1").partition("\r\n")
            method, target, version = line.split(" ")
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = parts.hostname, parts.port or (443 if method == "CONNECT" else 80)
            if not host or (method != "CONNECT" and parts.scheme != "http"):
                raise ValueError
        except (ValueError, asyncio.LimitOverrunError):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return None
        try:
            sock = await self.connect(host, port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return None
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            return sock
        own = re.sub(r"(?im)^(?:connection|proxy-[^:\r\n]*):.*\r\n", "", fields)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = f"{method} {path} {version}\r\nConnection: close\r\n{own}".encode("latin-1")
        await asyncio.get_running_loop().sock_sendall(sock, request)
        return sock

    def _forwarding(self, connect: Callable[[str, int], Awaitable[socket.socket]], there: Place) -> Greeting:
        async def greet(_: Reader, __: Writer) -> socket.socket | None:
            with contextlib.suppress(OSError):
                return await connect(there.host, there.port)
            return None

        return greet

    async def _listen(
        self, stack: contextlib.ExitStack, at: Place, greet: Greeting, *, inside: bool = False
    ) -> Place:
        """Where it listens. Failure when it cannot."""

        async def serve(reader: Reader, writer: Writer) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            with contextlib.closing(writer), contextlib.suppress(*ENDINGS):
                async with asyncio.timeout(GREETING_SECONDS):
                    sock = await greet(reader, writer)
                if sock is not None:
                    await _relay(reader, writer, *await asyncio.open_connection(sock=sock))

        family, host = socket.AF_INET6 if ":" in at.host else socket.AF_INET, at.host
        try:
            if inside:  # bind(2) of Python would ask for a name out here
                found = await self._addresses(at.host)
                if not found:
                    raise OSError(errno.EADDRNOTAVAIL, f"the servers inside know no address of {at.host}")
                family, host = socket.AddressFamily(found[0][0]), found[0][1]
            sock = self.box.socket(family) if inside else socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, at.port))
            server = await asyncio.start_server(serve, sock=sock, limit=HEAD_BYTES)
        except OSError as error:
            step = f"Choose another port, or see who has it: ss -ltnp sport = :{at.port}"
            if error.errno != errno.EADDRINUSE:
                is_closed = error.errno == errno.EACCES
                step = "Choose a port from 1024 on." if is_closed else "Give an address that is there."
            raise Failure(f"cannot listen at {at}", error.strerror or str(error), step) from error
        stack.callback(server.close)
        return Place(*sock.getsockname()[:2])

    def _say(self, what: str, at: Place) -> None:
        print(f"plait: {at} is open: {what}", file=sys.stderr, flush=True)


async def _connect_here(host: str, port: int) -> socket.socket:
    """A connection in the network outside, for what comes from inside (-R)."""
    loop = asyncio.get_running_loop()
    error = OSError(errno.EHOSTUNREACH, f"no address for {host}")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
            return sock
        except OSError as refused:
            sock.close()
            error = refused
    raise error


async def _relay(reader: Reader, writer: Writer, inner_reader: Reader, inner_writer: Writer) -> None:
    """Both ways, each until its end; who does not read holds up nobody but its own other end."""
    with contextlib.closing(inner_writer):
        async with asyncio.TaskGroup() as group:
            group.create_task(_pour(reader, inner_writer))
            group.create_task(_pour(inner_reader, writer))


async def _pour(source: Reader, target: Writer) -> None:
    try:
        while data := await source.read(PIECE):
            target.write(data)
            await target.drain()
        target.write_eof()
    except OSError:
        target.transport.abort()


def _reply(code: int) -> bytes:
    """RFC 1928, section 6; which address we connect from is nobody's business."""
    return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])
