"""Shared memory segments: made by the supervisor, inherited as file descriptors, mapped by every worker.

A segment never has a name (O_TMPFILE), so that a kill at any moment leaves nothing in /dev/shm; it lives
as long as somebody has its descriptor or mapping. Sparse memory must never become a SIGBUS: whatever is
used has been allocated before (`posix_fallocate`), and no room is a `SegmentError` at that moment.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shm._shm import ffi, lib
from shm.layout import REGIONS, layout_hash

if TYPE_CHECKING:
    from shm._shm import geometry, header_p

_GEOMETRY = tuple(name for name, _ in ffi.typeof("struct geometry").fields)
# Allocated from the start: what any process may touch at any time. The rest grows by `ensure`.
_AT_ONCE = tuple(
    REGIONS.index(name) for name in ("workers", "bells", "starving", "counters", "device", "ready", "states")
)


class SegmentError(Exception):
    """A segment could not be made, grown or mapped. Says what, why and the next step.

    is_full: for want of room in /dev/shm.
    """

    def __init__(self, what: str, why: str, next_step: str, is_full: bool = False) -> None:
        super().__init__(f"{what}: {why}; {next_step}")
        self.what, self.why, self.next, self.is_full = what, why, next_step, is_full


def _no_room(what: str, wanted: int, error: OSError) -> SegmentError:
    words = os.strerror(error.errno or 0)
    if error.errno in (errno.EPERM, errno.ENOSYS):
        allow = "allow fallocate and ftruncate in the container's seccomp profile"
        return SegmentError(what, f"the kernel refuses it ({words})", allow)
    if error.errno == errno.EFBIG:
        raise_it = "raise it (ulimit -f unlimited; LimitFSIZE=infinity)"
        return SegmentError(what, "it is larger than the limit on the size of files", raise_it)
    if error.errno not in (errno.ENOSPC, errno.ENOMEM):
        return SegmentError(what, words, "check that /dev/shm is a writable tmpfs")
    with contextlib.suppress(OSError):
        shm = os.statvfs("/dev/shm")
        return SegmentError(
            what,
            f"/dev/shm has {shm.f_bavail * shm.f_frsize >> 20} MiB free, {-(-wanted >> 20)} MiB are needed",
            "enlarge it (mount -o remount,size=2G /dev/shm; docker: --shm-size) or configure fewer slots",
            is_full=True,
        )
    return SegmentError(what, "out of shared memory", "enlarge /dev/shm", is_full=True)


def open_nameless() -> int:
    """A new shared-memory file, 0600, that nobody can name. OSError when it cannot be made."""
    return os.open("/dev/shm", os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def open_by_posix_ipc(name: str) -> int:
    """The same where the file system knows no O_TMPFILE: a kill between the two calls leaves an empty file.
    OSError when it cannot be made, or is there."""
    try:
        import posix_ipc
    except ImportError as error:  # it has no wheel for every Python (docs/adr/0020-libraries-are-opened.md)
        raise OSError(errno.EOPNOTSUPP, "it knows no O_TMPFILE, and posix_ipc is not installed") from error
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    except posix_ipc.Error as error:
        raise OSError(str(error)) from error
    posix_ipc.unlink_shared_memory(name)
    fd: int = memory.fd
    return fd


def _open(bytes_: int, hint: str) -> int:
    """A fresh, zeroed, sparse shared-memory file of this size, 0600, without a name."""
    try:
        try:
            fd = open_nameless()
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # open(2): the file system, the kernel
                raise
            fd = open_by_posix_ipc(f"/plait-{hint}-{os.urandom(8).hex()}")
    except OSError as error:
        raise SegmentError(
            "creating shared memory",
            error.strerror or str(error),
            "check that /dev/shm is mounted and writable",
        ) from error
    try:
        os.set_inheritable(fd, False)
        os.ftruncate(fd, bytes_)
    except OSError as error:
        os.close(fd)
        raise _no_room("creating shared memory", bytes_, error) from error
    return fd


def _allocate(fd: int, offset: int, length: int, what: str) -> None:
    if length <= 0:
        return
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        raise _no_room(what, length, error) from error


class PlainSegment:
    """A second, plain segment (the vault). `buffer` is all of it; fresh memory is zero."""

    def __init__(self, fd: int, bytes_: int) -> None:
        """Map `bytes_` of `fd` shared; takes the descriptor over."""
        self.fd = fd
        self.bytes = bytes_
        try:
            self.map = mmap.mmap(fd, bytes_, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as error:
            os.close(fd)
            what = f"mapping {bytes_} bytes of shared memory"
            if isinstance(error, OSError) and error.errno == errno.EMFILE:  # a mapping keeps one of its own
                next_step = "raise the limit on open files (ulimit -n; LimitNOFILE=)"
                raise SegmentError(what, "no descriptor is left", next_step) from error
            raise SegmentError(
                what,
                f"there is no room for {bytes_ >> 20} MiB in the address space",
                "raise its limit (ulimit -v unlimited; LimitAS=infinity), or set max_peers, sessions, "
                "max_receivers or max_consumers lower",
            ) from error
        with contextlib.suppress(OSError):  # a kernel without it dumps more, no reason to stop
            self.map.madvise(mmap.MADV_DONTDUMP)
        self._pointer = ffi.from_buffer("char[]", self.map, require_writable=True)

    @classmethod
    def attach(cls, fd: int, bytes_: int) -> PlainSegment:
        """Map a segment that another process made and passed as `fd`."""
        if os.fstat(fd).st_size != bytes_:
            raise SegmentError(
                "attaching to shared memory",
                f"it has {os.fstat(fd).st_size} bytes instead of {bytes_}",
                "restart the interface: the processes are of different versions",
            )
        return cls(fd, bytes_)

    @property
    def address(self) -> int:
        """Where byte 0 is mapped in this process."""
        return int(ffi.cast("uintptr_t", self._pointer))

    @property
    def buffer(self) -> memoryview:
        """All bytes, writable. Release every view before `close`."""
        return memoryview(self.map)

    def keep_from_children(self) -> None:
        """Children of this process have no mapping of it."""
        self.map.madvise(mmap.MADV_DONTFORK)

    def ensure(self, offset: int, length: int) -> None:
        """Allocate these bytes before their first use; SegmentError when there is no room."""
        _allocate(self.fd, offset, length, "growing shared memory")

    def close(self) -> None:
        """Unmap and close. Nothing derived from `address` may be used afterwards."""
        ffi.release(self._pointer)
        self.map.close()
        os.close(self.fd)


class DataSegment:
    """The data segment of one interface as this process maps it.

    `segment` is the cffi `struct segment *` of `shm._shm`; another extension module casts
    `segment_address`. `address` is where byte 0 is mapped. Neither outlives `close`.
    """

    def __init__(self, plain: PlainSegment) -> None:
        """Attach to the mapped bytes; SegmentError unless their header is one of this build's."""
        self._plain = plain
        self.segment = ffi.new("struct segment *")
        header = ffi.cast("struct header *", plain.address)
        if header.magic != lib.LAYOUT_MAGIC or header.layout_hash != layout_hash():
            why = "its layout is not the one this program was built with"
        elif lib.segment_attach(self.segment, ffi.cast("char *", plain.address), plain.bytes) != 0:
            why = "its header contradicts itself"
        else:
            self._allocated: dict[int, int] = {}
            return
        plain.close()
        raise SegmentError(
            "attaching to the data segment", why, "restart the interface: processes of two versions share it"
        )

    @classmethod
    def attach(cls, fd: int, bytes_: int) -> DataSegment:
        """Map the segment that the supervisor made and passed as `fd`; takes the descriptor over."""
        return cls(PlainSegment.attach(fd, bytes_))

    def keep_from_children(self) -> None:
        """Children of this process have no mapping of it."""
        self._plain.keep_from_children()

    @property
    def fd(self) -> int:
        """The descriptor, to pass on to a worker."""
        return self._plain.fd

    @property
    def bytes(self) -> int:
        """Size of the mapping."""
        return self._plain.bytes

    @property
    def address(self) -> int:
        """Where byte 0 is mapped in this process."""
        return self._plain.address

    @property
    def segment_address(self) -> int:
        """Address of the `struct segment` itself, for a cast in another cffi module."""
        return int(ffi.cast("uintptr_t", self.segment))

    @property
    def buffer(self) -> memoryview:
        """All bytes, writable. Release every view before `close`."""
        return self._plain.buffer

    def offset(self, region: int) -> int:
        """Byte offset of a region (`lib.REGION_…`)."""
        offset: int = self.segment.header.offset[region]
        return offset

    def ensure(self, region: int, count: int) -> None:
        """Allocate the first `count` elements of a region (`lib.REGION_…`) before their first use.

        Elements are rows, trie nodes, keypairs, index entries or public-key buckets; of the tokens and
        the timer columns, rows. Idempotent; a SegmentError leaves what was there.
        """
        if count <= self._allocated.get(region, 0):
            return
        what = f"growing the table of {REGIONS[region].replace('_', ' ')} to {count}"
        reached = count
        for offset, size, elements in self._pieces(region):
            if count > elements:
                raise SegmentError(
                    what,
                    f"it has room for {elements}",
                    "raise the limit in the interface's configuration and restart",
                )
            begin = min(self._allocated.get(region, 0), elements) * size
            length = min(-(-(count * size) // mmap.PAGESIZE) * mmap.PAGESIZE, elements * size)
            _allocate(self.fd, offset + begin, length - begin, what)
            reached = length // size
        self._allocated[region] = reached

    def _pieces(self, region: int) -> Iterator[tuple[int, int, int]]:
        """Offset, element size and elements of each run of a region that grows."""
        offset, g = self.offset(region), self.segment.geometry
        if region == lib.REGION_COLUMNS:
            for column in range(lib.TIMER_COLUMNS):
                yield offset + column * 4 * g.max_peers, 4, g.max_peers
            return
        sizes: dict[int, tuple[int, int]] = {
            lib.REGION_TOKENS: (8, -(-2 * g.max_peers // lib.TOKEN_BLOCK) * lib.TOKEN_BLOCK // 2),
            lib.REGION_ROWS: (lib.PEER_ROW_BYTES, g.max_peers),
            lib.REGION_INDEX: (lib.INDEX_ENTRY_BYTES, g.max_keypairs),
            lib.REGION_PUBLIC_KEYS: (4, g.public_key_buckets),
            lib.REGION_TRIE: (lib.TRIE_NODE_BYTES, g.max_trie_nodes),
            lib.REGION_KEYPAIRS: (lib.KEYPAIR_BYTES, g.max_keypairs),
        }
        if region not in sizes:
            raise ValueError(f"region {REGIONS[region]} is allocated from the start")
        yield (offset, *sizes[region])

    def ensure_receivers(self, count: int) -> None:
        """Allocate what receivers 0..count-1 need before they start: mailboxes and pools.

        Idempotent; SegmentError, with what was there as it was, when there is no room.
        """
        wanted = _of_receivers(self.segment.geometry, count)
        for region, length in wanted.items():
            try:
                os.posix_fallocate(self.fd, self.offset(region), max(length, 1))
            except OSError as error:
                what = f"allocating the packet buffers of {count} receivers"
                raise _no_room(what, sum(wanted.values()), error) from error

    def ensure_parts(self, worker: int) -> None:
        """Allocate what receiver or consumer `worker` (its line's number) needs to lend parts of a batch.

        Idempotent; a SegmentError when there is no room.
        """
        own = int(ffi.cast("uintptr_t", lib.part_of(self.segment, worker, 0))) - self.address
        room = int(ffi.cast("uintptr_t", lib.part_room(self.segment, worker))) - self.address
        what = "allocating what a worker lends of its batches"
        _allocate(self.fd, self.offset(lib.REGION_PARTS), ffi.sizeof("struct lending"), what)
        _allocate(self.fd, own, lib.PARTS * ffi.sizeof("struct part"), what)
        _allocate(self.fd, room, lib.PART_ROOM_BYTES, what)

    def protect(self) -> None:
        """In receivers and consumers: header, device, trie and index read-only, public keys unreachable."""
        if lib.segment_protect(self.segment) != 0:
            raise SegmentError(
                "protecting the tables", os.strerror(ffi.errno), "report this: mprotect failed"
            )

    def close(self) -> None:
        """Unmap and close."""
        self.segment = ffi.cast("struct segment *", 0)
        self._plain.close()


def create(
    geometry: Mapping[str, int],
    name_hint: str = "data",
    generation: int = 0,
    receivers: int | None = None,
) -> DataSegment:
    """Make the data segment: laid out, its fixed part allocated, its header written, its name gone.

    `geometry` has every field of `struct geometry`; `generation` names this start of the interface
    (0: a random one); so many `receivers` can start at once (None: all that it has room for). Raises
    SegmentError for numbers out of bounds and for a /dev/shm too small.
    """
    header = _header(geometry, generation)
    plain = PlainSegment(_open(header.bytes, name_hint), header.bytes)
    try:
        _allocate(plain.fd, 0, mmap.PAGESIZE, "allocating the data segment")
        fixed = _at_once(header.geometry)
        for region, length in fixed.items():
            try:
                os.posix_fallocate(plain.fd, header.offset[region], max(length, 1))
            except OSError as error:
                raise _no_room("allocating the data segment", sum(fixed.values()), error) from error
        header.magic = lib.LAYOUT_MAGIC
        ffi.memmove(ffi.cast("char *", plain.address), header, ffi.sizeof("struct header"))
    except SegmentError:
        plain.close()
        raise
    data = DataSegment(plain)
    try:
        data.ensure_receivers(geometry["max_receivers"] if receivers is None else receivers)
    except SegmentError:
        data.close()
        raise
    return data


def bytes_at_start(geometry: Mapping[str, int], receivers: int) -> int:
    """Bytes of /dev/shm that `create` takes for so many receivers; what grows with the peers is not in it."""
    g = _header(geometry, 1).geometry
    lengths = [mmap.PAGESIZE, *_at_once(g).values(), *_of_receivers(g, receivers).values()]
    return sum(-(-max(length, 1) // mmap.PAGESIZE) * mmap.PAGESIZE for length in lengths)


def _at_once(geometry: geometry) -> dict[int, int]:
    """Bytes by region, of what is allocated from the start."""
    return {region: lib.segment_region_bytes(ffi.addressof(geometry), region) for region in _AT_ONCE}


def _of_receivers(geometry: geometry, count: int) -> dict[int, int]:
    """Bytes by region, of what so many receivers need."""
    pools, cell = 2 * count, ffi.sizeof("struct mailbox_cell")
    mailbox = lib.segment_region_bytes(ffi.addressof(geometry), lib.REGION_MAILBOX)
    not_yet = cell * geometry.mailbox_cells * (geometry.max_receivers - count)
    return {
        lib.REGION_MAILBOX: mailbox - not_yet,
        lib.REGION_NODES: ffi.sizeof("struct node") * (1 + pools * geometry.nodes_a_pool),
        lib.REGION_SMALL_SLOTS: lib.SMALL_SLOT_BYTES * geometry.small_slots * pools,
        lib.REGION_TRAIN_SLOTS: lib.TRAIN_SLOT_BYTES * geometry.train_slots * pools,
    }


def create_plain(bytes_: int, name_hint: str = "vault") -> PlainSegment:
    """Make a plain segment: sparse, zero; `ensure` what is used before it is used."""
    return PlainSegment(_open(bytes_, name_hint), bytes_)


def _header(geometry: Mapping[str, int], generation: int) -> header_p:
    missing, unknown = set(_GEOMETRY) - set(geometry), set(geometry) - set(_GEOMETRY)
    if missing or unknown:
        raise ValueError(f"geometry: missing {sorted(missing)}, unknown {sorted(unknown)}")
    header = ffi.new("struct header *")
    try:
        for name in _GEOMETRY:
            setattr(header.geometry, name, geometry[name])
        laid_out = lib.segment_lay_out(ffi.addressof(header.geometry), header)
    except OverflowError:
        laid_out = 0
    if laid_out == 0:
        raise SegmentError(
            "laying out the data segment",
            f"a number is out of bounds in {dict(geometry)}",
            "peers: up to 2^20 in steps of 64; keypairs: 2^21; receivers, consumers: 256; slots: 32,767",
        )
    header.layout_hash = layout_hash()
    header.generation = generation or int.from_bytes(os.urandom(8), "little")
    return header
