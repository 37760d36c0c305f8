"""Why a sandbox cannot be made, by the step that failed: three parts, the last true for this host."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final

from plait.failure import Failure

WHAT: Final = "the sandbox cannot be made"
SYSCTL: Final = Path("/proc/sys")
TUN: Final = Path("/dev/net/tun")


def failure_of(message: dict[str, Any]) -> Failure:
    """The Failure of a message {"failed": step, "errno", "words"} (rootless/init.py)."""
    step, code, words = message["failed"], message["errno"], message["words"]
    said = os.strerror(code) if code else words
    match step:
        case "user":
            return _no_user_namespace(said)
        case "network" | "mount" | "fork":
            kind = "pid" if step == "fork" else step
            limit = {"network": "net", "mount": "mnt", "fork": "pid"}[step]
            why = f"the kernel refuses this user another {kind} namespace ({said})"
            return Failure(WHAT, why, _raise_or_ask(f"user.max_{limit}_namespaces"))
        case "proc":
            why = f"/proc cannot be mounted in it ({said}); in a container, parts of its own may be hidden"
            return Failure(WHAT, why, "Run it outside, or with --security-opt systempaths=unconfined.")
        case "resolv":
            why = f"/etc/resolv.conf cannot be replaced inside ({said})"
            return Failure(WHAT, why, "Take DNS out of the file; if there is none: touch /etc/resolv.conf")
        case "watch":
            why = f"the host's changes of /etc/resolv.conf cannot be watched ({said})"
            return Failure(WHAT, why, "As root: sysctl fs.inotify.max_user_instances=1024")
        case "tun":
            return _no_tun(code, said)
        case "engine" | "died":
            what = "the tunnel has ended" if step == "died" else WHAT
            why = f"its engine: {said.removeprefix('plaitd: ')}"
            return Failure(what, why, "Start it again; LOG_LEVEL=debug makes its log say more.")
        case "set":
            step = "Look at the file's keys and prefixes."
            return Failure(WHAT, f"the engine refuses the file ({said})", step)
        case "ip":
            why = f"the interface does not take the file's addresses ({said})"
            return Failure(WHAT, why, "Mend the Address or MTU that it names.")
    why = f"{words or said} (at the step `{step}`)"
    return Failure(WHAT, why, "See what is missing: plait doctor --rootless")


def _no_user_namespace(said: str) -> Failure:
    why = f"the kernel refuses this user a user namespace ({said})"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        why = "AppArmor keeps user namespaces from programs without a profile"
        return Failure(WHAT, why, "As root: sysctl kernel.apparmor_restrict_unprivileged_userns=0")
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return Failure(WHAT, why, "As root: sysctl kernel.unprivileged_userns_clone=1")
    return Failure(WHAT, why, _raise_or_ask("user.max_user_namespaces"))


def _raise_or_ask(limit: str) -> str:
    if _setting(limit.replace(".", "/")) == "0":
        return f"As root: sysctl {limit}=15000"
    return "In a container, allow unshare and mount in its seccomp profile; else ask the administrator."


def _no_tun(code: int, said: str) -> Failure:
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        step = f"As root: modprobe tun; or give the container {TUN}."
        return Failure(WHAT, f"this host has no {TUN}", step)
    if code in (errno.EACCES, errno.EPERM) and not os.access(TUN, os.R_OK | os.W_OK):
        why = f"{TUN} is not open to this user, who needs no other privilege"
        return Failure(WHAT, why, f"As root: chmod 666 {TUN}")
    return Failure(WHAT, f"a TUN cannot be made ({said})", "See what is missing: plait doctor --rootless")


def _setting(path: str) -> str:
    try:
        return (SYSCTL / path).read_text().strip()
    except OSError:
        return ""
