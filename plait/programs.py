"""The host's own programs (ip, nft, resolvconf, …), run for `plait up` and `plait down`; where plaitd is.

What changes the host is said on stderr first, as wg-quick says it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plait.failure import Failure


def run_command(
    *arguments: str, text: str | None = None, timeout: float | None = None, logs_here: bool = False
) -> None:
    """Say a command and run it. Failure with its own words when it fails. text: its standard input.

    logs_here: the program stays in the background and logs to our stderr, so its words go there unread.
    """
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
                stderr=sys.stderr if logs_here else words,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            why = f"it had not ended after {timeout} s"
            raise Failure(what, why, "Run it by hand to see why.") from error
        except OSError as error:
            raise _not_run(arguments[0], error) from error
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    if done.returncode:
        why = "; ".join(line.rstrip(".") for line in said.splitlines()) or f"exit code {done.returncode}"
        raise Failure(what, why, _next_step(arguments, said))
    if said:
        print(said, file=sys.stderr)


def _not_run(program: str, error: OSError) -> Failure:
    mend = "Install it; `plait doctor` says what this host lacks."
    return Failure(f"`{program}` cannot be run", error.strerror or str(error), mend)


def _next_step(arguments: Sequence[str], said: str) -> str:
    """What to do about a program that failed, from its own words (iproute2 and the kernel's)."""
    words = said.lower()
    if "ipv6 is disabled" in words:
        return "Allow IPv6 here (sysctl net.ipv6.conf.all.disable_ipv6=0), or take IPv6 out of the file."
    if "file exists" in words and "route" in arguments:
        return (
            f"Another interface has this route (ip {arguments[1]} route show table all): take it away there, "
            "or write Table = off and set routes in PostUp."
        )
    if "file exists" in words or "already assigned" in words:
        return "It was set twice, by the file, by a hook or by hand: take one of them away."
    if "operation not permitted" in words:
        return "Run it as root; in a container, give it CAP_NET_ADMIN."
    return "Mend that and try again."


def undo_command(*arguments: str, text: str | None = None) -> None:
    """A command that takes something back: when it fails, it says so, and the others must follow."""
    with complaints():
        run_command(*arguments, text=text)


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Say a Failure and go on."""
    try:
        yield
    except Failure as error:
        print(f"plait: {error}", file=sys.stderr)


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -json` tells; empty when it fails, as it does for what does not exist."""
    try:
        done = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise _not_run("ip", error) from error
    if done.returncode or not done.stdout.strip():
        return []
    return [entry for entry in json.loads(done.stdout) if entry]


def plaitd(whose: str) -> str:
    """Path of plaitd: beside this Python, else on PATH. Failure, of whose engine it would be, without one."""
    beside = Path(sys.executable).parent / "plaitd"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("plaitd")
    if found is None:
        why = "there is no program plaitd beside this Python, nor on PATH"
        raise Failure(f"{whose} has no engine", why, "Install Plait whole: the package has plaitd.")
    return found
