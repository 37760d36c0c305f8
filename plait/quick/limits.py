"""Name and limits of a peer as a file has them: `# Name = alice`, `# PlaitQuota = 100 GB`,
`# PlaitExpires = 2027-01-31`.

They stand in comments, so that wg(8) and wg-quick(8) read the same file.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from engine.uapi import NAME_MOST, NUMBERS

EXPIRES_MOST: Final = NUMBERS["plait_expires"].most  # seconds since 1970: in the year 2106
QUOTA_MOST: Final = NUMBERS["plait_quota"].most
_UNITS: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SIZE: Final = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,6}))?\s*([a-z]{0,3})\Z", re.ASCII | re.IGNORECASE)


def parse_quota(text: str) -> int:
    """Bytes of `100 GB`, `1.5TiB` or `5000`; 0 for `off`. ValueError with the reason when it is none."""
    if text.lower() == "off":
        return 0
    found = _SIZE.match(text)
    unit: int | None = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        raise ValueError("it must be off, or a number of bytes, with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    fraction = found[2] or ""
    count: int = int(found[1] + fraction) * unit // 10 ** len(fraction)
    if not 0 < count <= QUOTA_MOST:
        raise ValueError(f"it must be 1 to {QUOTA_MOST} bytes")
    return count


def parse_expires(text: str) -> int:
    """Seconds since 1970 of a time in ISO 8601, in UTC unless it says otherwise; of a day: when it begins.
    0 for `off`. ValueError with the reason when it is none."""
    if text.lower() == "off":
        return 0
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        why = "it must be off, or a time such as 2027-01-31 or 2027-01-31T18:00:00+01:00"
        raise ValueError(why) from None
    seconds = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    if not 0 < seconds <= EXPIRES_MOST:
        raise ValueError("it must be a time from 1970 to 2106")
    return seconds


def format_expires(seconds: int) -> str:
    """The text of a time that `parse_expires` reads."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shorten_name(text: str) -> str:
    """As much of a text as a name may have: printable characters, NAME_MOST bytes of UTF-8."""
    name = "".join(c if c.isprintable() else "?" for c in text)
    return name.encode()[:NAME_MOST].decode("utf-8", "ignore").strip()
