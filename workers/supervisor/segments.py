"""Making and discarding the two shared segments of an interface: data and vault."""

from __future__ import annotations

import errno
import os

from shm.segment import DataSegment, PlainSegment, SegmentError, create, create_plain
from workers.failure import Exit, Failure
from workers.settings import Settings, geometry
from workers.supervisor import room

VAULT_FIRST_BYTES = 4096
WIPE_BYTES = 1 << 20


def open_segments(interface: str, settings: Settings) -> tuple[DataSegment, PlainSegment]:
    """Make both segments: (data, vault). Neither has a name any more.

    All that packets need has memory, for the receivers of the start; the tables grow with the peers. The
    vault is one page: control alone knows what stands in it and gives it its size. Raises Failure when
    there is no room.
    """
    room.check(interface, settings)
    try:
        data = create(geometry(settings), receivers=settings.receivers)
        try:
            vault = create_plain(VAULT_FIRST_BYTES)
        except SegmentError:
            data.close()
            raise
    except SegmentError as error:
        raise _refused(interface, settings, error) from error
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


def _refused(interface: str, settings: Settings, error: SegmentError) -> Failure:
    what = f"cannot make the shared memory of {interface}"
    if not error.is_full:
        return Failure(what, error.why, error.next, Exit.MEMORY)
    wanted = room.up(room.need(settings).shm)
    return Failure(
        what, f"{error.why}; its start takes {wanted} MiB", room.MORE_SHM.format(wanted + 64), Exit.MEMORY
    )
