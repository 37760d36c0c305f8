"""The table of ChaCha20-Poly1305 providers (engine/aead.h), keyed by the word in the setting `aead`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from engine._engine import ffi, lib


class Provider(NamedTuple):
    """One provider of the table. lib.aead_new(number) is NULL when this build, host or CPU lacks it."""

    number: int
    library: str
    package: str  # the Debian package; "" when every build has the library


def _providers() -> Iterator[tuple[str, Provider]]:
    number = 0
    while (row := lib.aead_provider(number)) != ffi.NULL:
        words = [ffi.string(text).decode() for text in (row.setting, row.library, row.package)]
        yield words[0], Provider(number, *words[1:])
        number += 1


PROVIDERS: Final = dict(_providers())
