"""The providers of ChaCha20-Poly1305, as the setting `aead` names them (engine/aead.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import aead
from workers._workers import ffi, lib

if TYPE_CHECKING:
    from workers._workers import Pointer
    from workers._workers import aead as context

PROVIDERS = {"auto": -1, **{word: provider.number for word, provider in aead.PROVIDERS.items()}}
PACKAGES = {word: provider.package for word, provider in aead.PROVIDERS.items() if provider.package}

_prepared: dict[str, Pointer[context]] = {}


def prepare(setting: str) -> None:
    """Make the context of this setting in the supervisor, for its workers to inherit: of libipsec-mb that is
    0.25 MiB, of which each worker copies what it writes to, and one test of itself instead of many."""
    made = lib.aead_new(PROVIDERS[setting])
    if made != ffi.NULL:  # else each worker finds out by itself, and says why
        _prepared[setting] = made


def new_context(setting: str) -> Pointer[context]:
    """The context of this setting, which is this process's own; NULL where its provider does not work."""
    return _prepared.pop(setting, None) or lib.aead_new(PROVIDERS[setting])
