"""The host's own programs (ip, nft, resolvconf, …), run for `plait up` and `plait down`.

What changes the host is said on stderr first, as wg-quick says it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from plait.failure import Failure


def run_command(*arguments: str, text: str | None = None, timeout: float | None = None) -> None:
    """Say a command and run it. Failure with its own words when it fails. text: its standard input."""
    print(f"[#] {shlex.join(arguments)}", file=sys.stderr, flush=True)
    # Its stderr goes to a file, not a pipe: an engine that goes to the background keeps it open.
    what = f"`{shlex.join(arguments)}` failed"
    with tempfile.TemporaryFile() as words:
        try:
            done = subprocess.run(
                arguments,
                input=None if text is None else text.encode(),
                stdin=subprocess.DEVNULL if text is None else None,
                stdout=sys.stderr,
                stderr=words,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            why = f"it had not ended after {timeout} s"
            raise Failure(what, why, "Run it by hand to see why.") from error
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    if done.returncode:
        why = said.replace("\n", " / ") or f"exit code {done.returncode}"
        raise Failure(what, why, "What was done before it is undone; mend that and try again.")
    if said:
        print(said, file=sys.stderr)


def undo_command(*arguments: str) -> None:
    """A command that takes something back: when it fails, it says so, and the others must follow."""
    with complaints():
        run_command(*arguments)


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Say a Failure and go on."""
    try:
        yield
    except (Failure, OSError) as error:
        print(f"plait: {error}", file=sys.stderr)


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -json` tells; empty when it fails, as it does for what does not exist."""
    done = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        return []
    return [entry for entry in json.loads(done.stdout) if entry]
