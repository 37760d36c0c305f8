"""The providers of ChaCha20-Poly1305, as the setting `aead` names them (engine/aead.h)."""

from __future__ import annotations

from workers._workers import lib

# "auto": the fastest that works here.
PROVIDERS = {"auto": -1, "evp": lib.AEAD_EVP, "ipsec-mb": lib.AEAD_IPSEC_MB, "boringssl": lib.AEAD_BORINGSSL}

# Where a library comes from that not every host has.
PACKAGES = {"ipsec-mb": "libipsec-mb-dev", "boringssl": "android-libboringssl"}
