"""Print docs/settings.md from the schema of the settings (workers/settings.py).

usage: settings_page.py > docs/settings.md

Names, meanings, bounds and defaults are those that plaitd refuses and fills in with. What a limit does to
whom, and what he reads then, stands here: LIMITS. A test holds the quoted words to the code that says them.
"""

from __future__ import annotations

import json
import textwrap

import msgspec

from workers.settings import COUNTS, KEYS, MAX_SESSIONS, Settings

WIDTH = 100
DERIVED = {  # defaults that follow from the host or from other settings
    "receivers": "one for each CPU that plaitd may use; fewer where memory has no room",
    "consumers": "as receivers",
    "cores": "the CPUs that plaitd may use",
    "max_receivers": "twice `receivers`, at least one for each core",
    "max_consumers": "twice `consumers`, at least one for each core",
    "gateway": "none",
    "sessions": f"twice `max_peers`, {MAX_SESSIONS} at most",
}
NO_SPACE = "`Unable to modify interface: No space left on device`"  # wg's words for ENOSPC

# Setting; who is refused; the words he reads, and where. N stands for a number.
LIMITS = (
    ("max_peers", "a `set` with a peer more: the whole of it",
     f"`wg`: {NO_SPACE}; log and `plait events`: `this interface has room for N; "
     "raise max_peers in the settings, as far as N, and start the interface anew`"),
    ("max_peers", "a `set` with more than four allowed IPs for each possible peer, over all of them",
     "the same words: allowed IPs have no setting of their own"),
    ("sessions", "a handshake, ours or a peer's; sessions that are there go on",
     "log and `plait events` (`no_room_to_answer`, `no_room_to_begin`): `all N session keys are in use; "
     "raise sessions in the settings, as far as N, and start the interface anew`; counter `hs_no_room`"),
    ("max_receivers, max_consumers", "`plait scale` beyond them: the whole of it",
     "`the memory was laid out for N receivers and N consumers`, and which of the two to raise"),
    ("small_slots, train_slots",
     "nobody at first: a receiver without free buffers stops reading, and the kernel's queues fill; a peer "
     "that holds an eighth of them while others want some, or a long packet without a train slot, is "
     "dropped",
     "counters `slots_starved`; `drop_peer_share`, `drop_no_slot` and the two `…_outbound` "
     "(`plait show --engine`)"),
    ("receivers, consumers, small_slots, train_slots",
     "the start, where `/dev/shm`, memory or open files have no room for them",
     "`plaitd`: `its start takes N MiB of /dev/shm, which has N MiB free`, and the command that enlarges it"),
    ("cores", "the start, for a CPU that plaitd may not use",
     "`plaitd`: `CPU N is not one that plaitd may use here`"),
    ("aead", "the start, for a library that is not there",
     "`plaitd`: `asks for a library that this build, host or CPU has not`, and the package to install"),
)  # fmt: skip


def defaults() -> dict[str, str]:
    """The default of each setting, as the page shows it."""
    fixed = {
        field.name: f"`{json.dumps(field.default)}`"
        for field in msgspec.structs.fields(Settings)
        if field.default not in (None, msgspec.NODEFAULT)
    }
    return {key: fixed.get(key) or DERIVED[key] for key in KEYS}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def paragraph(*sentences: str) -> str:
    return textwrap.fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    shown = defaults()
    counts = sorted(COUNTS, key=list(KEYS).index)
    return "\n".join([
        "# Settings",
        "",
        paragraph(
            "What `wg` has no word for stands in `/etc/plait/IFACE.toml`, or in the file that",
            "`PLAIT_CONFIG` names (TOML). plaitd reads the file when it starts; without one the",
            "defaults hold. A file is taken whole or refused whole, with file, line, what, why and the",
            "next step (exit code 3). [configs/](../configs) has examples. `plait doctor` says whether",
            "the files of this host would be taken."),
        "",
        paragraph(
            "This page is printed by `scripts/settings_page.py` from the schema that plaitd reads the",
            "file with."),
        "",
        row("key", "default", "what it takes"),
        row("---", "---", "---"),
        *(row(f"`{key}`", shown[key], KEYS[key]) for key in KEYS),
        "",
        paragraph(
            "`WG_THREADS` in the environment takes the place of the default of `receivers` and",
            "`consumers`. Where a file names none of", ", ".join(f"`{key}`" for key in counts[:-1]),
            f"and `{counts[-1]}`, plaitd starts fewer of both when the host has no room for one on each",
            "CPU, and logs it.",
            "What many peers cost is in [scale.md](scale.md), what `handoff` does in",
            "[performance.md](performance.md#who-drains), what `priority` does in",
            "[ADR 0012](adr/0012-workers-that-wake-run-first.md), which library `aead` means in",
            "[security.md](security.md#what-a-broken-process-reaches)."),
        "",
        paragraph(
            "The hand-offs of earlier versions are still taken, and told in one line of the log:",
            '`"lend"` is called `"inline"` now, `"split"` is called `"pipeline"`, and `"auto"` is gone,',
            'for which `"inline"` is taken ([ADR 0011](adr/0011-two-hand-offs.md)).'),
        "",
        "## Whom a limit refuses, and what he reads",
        "",
        row("limit", "who is refused", "what he reads"),
        row("---", "---", "---"),
        *(row(", ".join(f"`{key}`" for key in keys.split(", ")), who, reads) for keys, who, reads in LIMITS),
        "",
        paragraph(
            "`max_peers` is rounded up to a multiple of 64, `sessions` to a power of two. A value that a",
            "key does not take, an unknown key and a file that is not TOML refuse the start:"),
        "",
        "    plaitd: /etc/plait/wg0.toml, line 3: cannot use `max_peers = 0`: expected int >= 1;",
        f"    max_peers takes {KEYS['max_peers']}",
        "",
        paragraph(
            "Nothing of a refused file holds. An engine that runs is not touched: settings are read at",
            "the start, and `plait scale` alone changes numbers of a running engine."),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
