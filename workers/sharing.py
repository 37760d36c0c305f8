"""Whether holders lend parts of their batches to idle consumers (workers/datapath/sharing.h)."""

from __future__ import annotations

from typing import Final, Literal, get_args

Share = Literal["never", "auto", "always"]
NEVER: Final = "never"


def number_of(share: Share) -> int:
    """SHARE_NEVER, SHARE_AUTO or SHARE_ALWAYS of workers/datapath/holder.h."""
    return get_args(Share).index(share)
