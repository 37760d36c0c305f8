"""Making and discarding the two shared segments of an interface: data and vault."""

from __future__ import annotations

import errno
import os

from shm.segment import DataSegment, PlainSegment, SegmentError, create, create_plain
from workers.failure import Exit, Failure
from workers.settings import Settings, geometry

VAULT_FIRST_BYTES = 4096
WIPE_BYTES = 1 << 20


def open_segments(interface: str, settings: Settings) -> tuple[DataSegment, PlainSegment]:
    """Make both segments: (data, vault). Neither has a name any more.

    All that packets need has memory; the tables grow with the peers. The vault is one page:
    control alone knows what stands in it and gives it its size. Raises Failure when there is
    no room.
    """
    try:
        data = create(geometry(settings))
        try:
            vault = create_plain(VAULT_FIRST_BYTES)
        except SegmentError:
            data.close()
            raise
    except SegmentError as error:
        raise Failure(
            f"cannot make the shared memory of {interface}",
            error.why,
            error.next[0].lower() + error.next[1:],
            Exit.MEMORY,
        ) from error
    return data, vault


def discard(segment: DataSegment | PlainSegment) -> None:
    """Overwrite what a segment holds, then close it. Called when all workers are gone."""
    size = os.fstat(segment.fd).st_size
    zeros = bytes(WIPE_BYTES)
    at = 0
    try:
        while at < size:
            at = os.lseek(segment.fd, at, os.SEEK_DATA)  # ENXIO: nothing but holes from here on
            end = os.lseek(segment.fd, at, os.SEEK_HOLE)
            while at < end:
                at += os.pwrite(segment.fd, zeros[: end - at], at)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        segment.close()
