"""Which hand-off, AEAD provider and sharing engines of tests run with: PLAIT_TEST_HANDOFF, _AEAD and _SHARE.

scripts/product sets the first two to every combination. What a test asks for itself comes first, and a test
that goes through hand-offs or providers leaves out the others (`handoffs`).
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable

from workers._workers import ffi, lib
from workers.handoffs import current
from workers.providers import PROVIDERS

HANDOFF, _note = current(os.environ.get("PLAIT_TEST_HANDOFF", ""))
AEAD = os.environ.get("PLAIT_TEST_AEAD", "")
SHARE = os.environ.get("PLAIT_TEST_SHARE", "")
if _note:
    print(f"PLAIT_TEST_HANDOFF: {_note}", file=sys.stderr)


def completed(settings: str | None) -> str | None:
    """An engine's settings with what is asked for and not said in them; None for none."""
    given = tomllib.loads(settings or "")
    asked = {"handoff": HANDOFF, "aead": AEAD, "share": SHARE}
    lines = [f'{key} = "{value}"\n' for key, value in asked.items() if value and key not in given]
    return (settings or "") + "".join(lines) if lines else settings


def handoffs(names: Iterable[str]) -> list[str]:
    """Of names that begin with a hand-off, those that are to be tested."""
    return [name for name in names if not HANDOFF or name.partition("-")[0] == HANDOFF]


def provider(wanted: str) -> str:
    """What to write for `aead`: the provider asked for, else the wanted one, "auto" where that is missing."""
    name = AEAD or wanted
    aead = lib.aead_new(PROVIDERS[name])
    lib.aead_free(aead)
    return name if AEAD or aead != ffi.NULL else "auto"
