"""A file of [Peer] sections as the store: any size, looked up by an index, read again when it changes.

The index has eight bytes of each key and where its section stands, 16 bytes a peer; the section itself is
read from the file when it is asked for. So 500,000 peers take 8 MB here, wherever the rest of the file is.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import re
from array import array
from bisect import bisect_left
from pathlib import Path

from engine import uapi
from plait import keys
from plait.api.provider import Answer, Question
from plait.api.values import Refuse
from plait.failure import Failure
from plait.peers.answer import peer_of
from plait.peers.provider import say
from plait.quick import conf

SECTION_BYTES = 1 << 20  # the most of one section that is read
_KEY = re.compile(rb"\s*PublicKey\s*=\s*([A-Za-z0-9+/]{43}=)\s*(?:#.*)?$", re.IGNORECASE)


class Index:
    """Of one state of a file. OSError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")  # for as long as the index is used
        self.state = _state(os.fstat(self.file.fileno()))
        tags, places = array("Q"), array("Q")
        place, is_peer = 0, False
        at = 0
        for line in self.file:
            if line.lstrip().startswith(b"["):
                place, is_peer = at, line.strip().lower().startswith(b"[peer]")
            elif is_peer and (found := _KEY.match(line)):
                tags.append(_tag(binascii.a2b_base64(found[1])))
                places.append(place)
            at += len(line)
        order = sorted(range(len(tags)), key=tags.__getitem__)  # stable: of two of one key the later is last
        self.tags = array("Q", (tags[i] for i in order))
        self.places = array("Q", (places[i] for i in order))

    def find(self, key: bytes) -> str | None:
        """The text of the section of this key, the last one of several."""
        tag, found = _tag(key), None
        at = bisect_left(self.tags, tag)
        while at < len(self.tags) and self.tags[at] == tag:
            text = self._section(self.places[at])
            if any((line := _KEY.match(each)) and binascii.a2b_base64(line[1]) == key
                   for each in text.splitlines()):
                found = text
            at += 1
        return None if found is None else conf.decode(found)

    def _section(self, place: int) -> bytes:
        text = os.pread(self.file.fileno(), 1 << 12, place)
        while (end := re.search(rb"\n[ \t]*\[", text[1:])) is None and len(text) < SECTION_BYTES:
            more = os.pread(self.file.fileno(), 1 << 16, place + len(text))
            if not more:
                break
            text += more
        return text if end is None else text[: end.start() + 2]


def _tag(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class FileStore:
    """The store behind `--file`. Failure when the file cannot be read at the start."""

    def __init__(self, path: str, interface: str, ttl: int) -> None:
        self.path, self.interface, self.ttl = Path(path), interface, ttl
        try:
            self.index = Index(self.path)
        except OSError as error:
            why = error.strerror or str(error)
            raise Failure(f"{path} cannot be read", why, "Name a file with [Peer] sections.") from error
        self.reading: asyncio.Task[None] | None = None
        self.said = ""
        self._say_count()

    async def look(self, question: Question) -> Answer:
        """Look it up. A file that changes is read again first; while that fails, the one before answers."""
        await self._follow()
        try:
            text = self.index.find(question.public_key)
        except OSError as error:
            self._say(f"{self.path} cannot be read ({error.strerror})")
            return Refuse(0)
        if text is None:
            return Refuse(self.ttl)
        try:
            peer = uapi.PeerChange(question.public_key)
            return peer_of(conf.parse(text, str(self.path), quick=False), peer)
        except (ValueError, conf.ConfError) as error:
            why = f"{error.what}: {error.why}" if isinstance(error, conf.ConfError) else str(error)
            key = keys.encode(question.public_key)
            say(f"{self.interface}: the section of {key} in {self.path} is no peer: {why}")
            return Refuse(0)

    async def _follow(self) -> None:
        """Make an index of what the file is now."""
        while self.reading is not None or self._has_changed():
            if self.reading is None:
                self.reading = asyncio.create_task(self._read())
            reading = self.reading
            await asyncio.wait([reading])
            if self.said:
                return

    def _has_changed(self) -> bool:
        try:
            return _state(os.stat(self.path)) != self.index.state
        except OSError as error:  # it is being replaced, or is gone: what was read stays good
            self._say(f"{self.path} cannot be read any more ({error.strerror}); what it had before is used")
            return False

    async def _read(self) -> None:
        try:
            before, self.index = self.index, await asyncio.to_thread(Index, self.path)
            before.file.close()
            self.said = ""
            self._say_count()
        except OSError as error:
            self._say(f"{self.path} cannot be read any more ({error.strerror}); what it had before is used")
        finally:
            self.reading = None

    def _say_count(self) -> None:
        say(f"{self.interface}: {len(self.index.tags)} peers in {self.path}")

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            say(f"{self.interface}: {text}")
