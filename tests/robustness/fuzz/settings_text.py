"""The engine's settings: refused in three parts, or complete, and then memory can be laid out for them."""

from __future__ import annotations

from shm._shm import ffi, lib
from workers import settings
from workers.failure import Exit, Failure

DEFAULTS = {"receivers": 2, "consumers": 2, "cores": [0, 1]}


def one_input(data: bytes) -> None:
    """The bytes of a file."""
    text = data.decode("utf-8", "replace")
    try:
        found = settings.parse(text, "wg0.toml", DEFAULTS)
    except Failure as failure:
        assert failure.code == Exit.SETTINGS and "wg0.toml, line " in str(failure)
        return
    assert set(found.cores_of(found.receivers)) <= set(found.cores)
    geometry = ffi.new("struct geometry *", settings.geometry(found))
    assert lib.segment_lay_out(geometry, ffi.NULL) > 0, found
