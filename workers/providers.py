"""The providers of ChaCha20-Poly1305, as the setting `aead` names them (engine/aead.h)."""

from __future__ import annotations

from engine import aead

PROVIDERS = {"auto": -1, **{word: provider.number for word, provider in aead.PROVIDERS.items()}}
PACKAGES = {word: provider.package for word, provider in aead.PROVIDERS.items() if provider.package}
