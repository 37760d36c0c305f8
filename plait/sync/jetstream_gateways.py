"""Gateways that beat in a bucket of NATS JetStream beside that of the peers (plait/sync/knock.py).

Keys of the bucket, in which a value is forgotten behind its TTL:

    beat.N           the latest beat of gateway N: its instance
    session.N.BEAT   sessions that gateway N added with a beat

The store's clock is the time that it stamps messages with. Every gateway's beats are pushed here in their
order, our own among them: so the time of our own beat is now, and all beats before it have been seen.

A number belongs to who beats with it. A beat is written only where the one before is the one that is known
here. Another instance's is overwritten when it was the latest for TAKEN, by our own clock: a message has the
store's time, the absence of one has not.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from nats import errors
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from plait.failure import Failure
from plait.sync.jetstream_bucket import Bucket
from plait.sync.store import KEPT, PACKED, PATIENCE, Gateway

if TYPE_CHECKING:
    from datetime import datetime

    from nats.aio.client import Client
    from nats.aio.msg import Msg

SUFFIX: Final = "_gateways"  # behind the name of the peers' bucket
AGE: Final = timedelta(seconds=KEPT)
TAKEN: Final = 10.0  # seconds without a beat, behind which a number is free
TRIES: Final = 3  # of one beat
PIECES: Final = 16  # messages with sessions that are asked for at once
NUMBER_MOST: Final = 255
INSTANCE_MOST: Final = 64  # bytes of an instance
WRONG_SEQUENCE: Final = (10071, 10164)  # JSStreamWrongLastSequenceErrF, and its constant form


@dataclass(slots=True)
class Seen:
    """The latest beat of a gateway."""

    instance: str
    at: datetime  # by the store's clock


@dataclass(slots=True)
class Holder:
    """Who beats with our number."""

    number: int
    instance: str  # "": nobody
    sequence: int  # of the beat; 0: there is none
    since: float  # by our clock: when this beat was first seen


class JetStreamGateways(Bucket):
    """One connection for beats."""

    def __init__(self, shown: str, bucket: str, client: Client, said: list[str]) -> None:
        """bucket: of the beats."""
        made = f"--history=1 --ttl={KEPT:.0f}s --storage=memory"
        super().__init__(shown, bucket, client, said, made, "configs/sync/nats-gateway-knock.conf")
        self._seen: dict[int, Seen] = {}
        self._sequence = 0  # of the latest beat that was pushed
        self._now: datetime | None = None  # its time
        self._holder: Holder | None = None
        self._pushed: Any = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[JetStreamGateways]:
        """While beats are pushed. Failure when there is no bucket for them, or one that keeps too little."""
        config = (await self._look())["config"]
        age = timedelta(microseconds=int(config.get("max_age") or 0) / 1000)
        if config.get("max_msgs_per_subject") != 1 or age < AGE:
            why = f"it keeps more than the last value of each key, or has no TTL of {KEPT:.0f} s or more"
            raise Failure(f"{self._shown} is no place for beats", why, self._make("one that is"))
        last = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT, ack_policy=api.AckPolicy.NONE,
            mem_storage=True, num_replicas=1, name=f"beats_{secrets.token_hex(8)}",
        )  # fmt: skip
        with self._explained():
            subject = f"{self._prefix}beat.*"
            self._pushed = await self._streams.subscribe(subject, stream=self._stream, config=last)
        try:
            yield self
        finally:
            with suppress(errors.Error, OSError, TimeoutError):
                await self._pushed.unsubscribe()

    async def beat(self, number: int, instance: str, added: bytes) -> list[Gateway]:
        """As Gateways.beat."""
        for _ in range(TRIES):
            holder = await self._look_who_beats(number, instance)
            if holder.instance not in ("", instance) and time.monotonic() - holder.since < TAKEN:
                await self._hear(0)
                others = [each for each in self._found() if each.number != number]
                return [*others, Gateway(number, holder.instance, 0.0)]
            if sequence := await self._write(number, instance, holder.sequence):
                self._holder = Holder(number, instance, sequence, time.monotonic())
                if added:
                    with self._explained():
                        await self._streams.publish(f"{self._prefix}session.{number}.{sequence}", added)
                await self._hear(sequence)
                return self._found()
            self._holder = None  # it is not what was known
        why = f"its key beat.{number} changes whenever it is looked at"
        raise Failure(f"{self._shown} takes no beat", why, "Nothing has to be done: it is tried again.")

    async def sessions(self, number: int) -> AsyncGenerator[bytes]:
        """As Gateways.sessions."""
        async with self._consumer(f"session.{number}.*") as consumer:
            pending = await self._pending(consumer)
            while pending:
                with self._explained():
                    try:
                        found = await consumer.fetch(min(PIECES, pending), timeout=PATIENCE / 3)
                    except TimeoutError:
                        if pending := await self._pending(consumer):
                            raise
                        return  # those that were pending were forgotten meanwhile
                pending = found[-1].metadata.num_pending
                yield b"".join(each.data for each in found if self._is_of_use(each))

    async def _pending(self, consumer: Any) -> int:
        with self._explained():
            return (await consumer.consumer_info()).num_pending or 0

    def _is_of_use(self, message: Msg) -> bool:
        """A bucket may keep sessions for longer than we ask for, and whatever somebody else put there."""
        is_young = self._now is None or self._now - message.metadata.timestamp < AGE
        return is_young and len(message.data) % PACKED == 0

    async def _look_who_beats(self, number: int, instance: str) -> Holder:
        """Asked for once, and again with each beat while it is somebody else."""
        known = self._holder
        if known is not None and (known.number, known.instance) == (number, instance):
            return known
        with self._explained():
            try:
                subject = f"{self._prefix}beat.{number}"
                last = await self._streams.get_last_msg(self._stream, subject, direct=True)
            except NotFoundError:
                self._holder = Holder(number, "", 0, time.monotonic())
                return self._holder
        sequence = last.seq or 0
        if known is None or (known.number, known.sequence) != (number, sequence):
            self._holder = known = Holder(number, _text(last.data), sequence, time.monotonic())
        return known

    async def _write(self, number: int, instance: str, behind: int) -> int:
        """The sequence number of this beat; 0 when the one before it is not `behind`."""
        expected = {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(behind)}
        with self._explained():
            try:
                beat, subject = instance.encode(), f"{self._prefix}beat.{number}"
                return (await self._streams.publish(subject, beat, headers=expected)).seq
            except APIError as refused:
                if refused.err_code not in WRONG_SEQUENCE:
                    raise
        return 0

    async def _hear(self, sequence: int) -> None:
        """Note beats that were pushed, up to one with this sequence number at least."""
        with self._explained():
            while self._sequence < sequence or self._pushed.pending_msgs:
                self._note(await self._pushed.next_msg(timeout=PATIENCE / 3))

    def _note(self, message: Msg) -> None:
        told = message.metadata
        self._sequence, self._now = told.sequence.stream, told.timestamp
        name = message.subject.removeprefix(f"{self._prefix}beat.")
        if name.isascii() and name.isdecimal() and int(name) <= NUMBER_MOST:
            self._seen[int(name)] = Seen(_text(message.data), told.timestamp)

    def _found(self) -> list[Gateway]:
        if self._now is None:
            return []
        now, known = self._now, sorted(self._seen.items())
        return [Gateway(number, each.instance, (now - each.at).total_seconds()) for number, each in known]


def _text(beat: bytes | None) -> str:
    """An instance. Whoever may write beats may write anything: it is compared, and not shown."""
    return (beat or b"")[:INSTANCE_MOST].decode(errors="replace")
