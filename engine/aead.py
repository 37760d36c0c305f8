"""The providers of ChaCha20-Poly1305 by the word of the setting `aead`: the table of engine/aead.h."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from engine._engine import ffi, lib


class Provider(NamedTuple):
    """One of the table. Whether this build, host and CPU have it, lib.aead_new(number) says."""

    number: int
    library: str
    package: str  # Debian's; "" where every build has it


def _providers() -> Iterator[tuple[str, Provider]]:
    number = 0
    while (row := lib.aead_provider(number)) != ffi.NULL:
        words = [ffi.string(text).decode() for text in (row.setting, row.library, row.package)]
        yield words[0], Provider(number, *words[1:])
        number += 1


PROVIDERS: Final = dict(_providers())
