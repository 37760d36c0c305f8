"""An end of the protocol in the hands of the test: real keys, plain sockets, nothing hidden.

It speaks from the network of a lab's host, makes real sessions with an engine (as initiator, or
as responder when the engine begins), and counts every datagram that comes back.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine import cookie, messages, noise, tai64n
from plait.lab.namespaces import Host
from tests.support.waiting import PATIENCE, until

BUFFER_BYTES = 1 << 24
SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("<IIQ")


class Initiator:
    """One peer of the engine under test.

    address: (host, port) of the engine. senders: sockets; authenticated messages leave from the first.
    """

    def __init__(self, host: Host, private_key: bytes, engine_key: bytes, address: tuple[str, int],
                 senders: int = 1) -> None:
        self.identity = noise.Identity(private_key)
        self.keys = noise.PeerKeys(self.identity, engine_key)
        self.holder = cookie.CookieHolder()
        self.sockets = [host.socket() for _ in range(senders)]
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            sock.connect(address)
            sock.setblocking(False)
        self.sessions: list[noise.Session] = []
        self.counter = 0
        self._stamp = tai64n.ZERO

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    # -- datagrams ----------------------------------------------------------------------------

    def answers(self) -> list[bytes]:
        """Everything that has come back since the last call."""
        got = []
        for sock in self.sockets:
            while True:
                try:
                    got.append(sock.recv(1 << 16))
                except BlockingIOError:
                    break
        return got

    def await_answer(self, accept: Callable[[bytes], object], timeout: float = PATIENCE) -> bytes:
        """The first answer that accept finds true; others are dropped."""
        return until(lambda: next(filter(accept, self.answers()), b""), "such an answer", timeout)

    # -- handshakes ---------------------------------------------------------------------------

    def initiation(self, sender_index: int = 1) -> tuple[bytes, noise.InitiationSent]:
        """A right initiation with both macs (mac2 zero without a cookie) and its state."""
        self._stamp = tai64n.next_stamp(time.time_ns(), self._stamp)
        body, state = noise.create_initiation(self.identity, self.keys, sender_index, self._stamp)
        message = cookie.add_macs(body, self.keys.mac1_key, self.holder.cookie(time.monotonic_ns()))
        self.holder.message_sent(message)
        return message, state

    def handshake(self) -> noise.Session:
        """A new session, confirmed by a keepalive."""
        time.sleep(0.025)  # an engine takes one initiation of a peer in 20 ms
        index = len(self.sessions) + 1
        message, state = self.initiation(index)
        self.sockets[0].send(message)
        response = self.await_answer(lambda answer: answer[:4] == b"\2\0\0\0")
        return self._begin(noise.consume_response(self.identity, state, response, noise.NO_PSK))

    def respond(self, initiation: bytes) -> tuple[bytes, noise.Session]:
        """A right response (not sent) to the engine's own initiation, and the session it would make."""
        opened = noise.open_initiation(self.identity, initiation)
        _, opened = noise.open_timestamp(opened, self.keys.static_static)
        body, session = noise.create_response(opened, noise.NO_PSK, 1000 + len(self.sessions))
        return cookie.add_macs(body, self.keys.mac1_key, None), session

    def _begin(self, session: noise.Session) -> noise.Session:
        self.sessions.append(session)
        self.counter = 0
        self.sockets[0].send(self.seal(b""))
        return session

    def begin_as_responder(self, session: noise.Session) -> None:
        """The session of respond() is the current one now."""
        self.sessions.append(session)
        self.counter = 0

    # -- data ---------------------------------------------------------------------------------

    def seal(self, packet: bytes, counter: int | None = None) -> bytes:
        """A data message of the latest session, with the next counter unless one is given."""
        if counter is None:
            counter, self.counter = self.counter, self.counter + 1
        session = self.sessions[-1]
        nonce = struct.pack("<4xQ", counter)
        sealed = ChaCha20Poly1305(session.send_key).encrypt(nonce, packet, None)
        return _HEADER.pack(messages.DATA, session.remote_index, counter) + sealed

    def open(self, message: bytes) -> bytes | None:
        """What a data message of any of the sessions holds; None when it is none."""
        if len(message) < 32 or message[:4] != b"\4\0\0\0":
            return None
        _, index, counter = _HEADER.unpack_from(message)
        for session in self.sessions:
            if session.local_index == index:
                try:
                    nonce = struct.pack("<4xQ", counter)
                    return ChaCha20Poly1305(session.receive_key).decrypt(nonce, message[16:], None)
                except InvalidTag:
                    return None
        return None
