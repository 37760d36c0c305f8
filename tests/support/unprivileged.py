"""A user without any privilege in a host of a lab."""

from __future__ import annotations

from pathlib import Path

from plait.lab.namespaces import Host

USER = 65534
UNPRIVILEGED = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all",
                "--bounding-set=-all")  # fmt: skip


def open_to_all(host: Host, *paths: Path) -> None:
    """In this host every user can reach these, also those that stand in a closed home."""
    closed: dict[Path, set[Path]] = {}
    for path in {path.resolve() for path in paths}:
        above = [each for each in (*reversed(path.parents), path) if not each.stat().st_mode & 1]
        if above:
            closed.setdefault(above[0], set()).add(path)
    for home, inside in closed.items():
        keep, lines = Path("/run/keep"), []
        for number, path in enumerate(sorted(inside)):
            lines += [f"mkdir -p {keep}/{number}", f"mount --bind '{path}' {keep}/{number}"]
        lines.append(f"mount -t tmpfs -o mode=755 home '{home}'")
        for number, path in enumerate(sorted(inside)):
            lines += [f"mkdir -p '{path}'", f"mount --move {keep}/{number} '{path}'"]
        host.run(["sh", "-ec", "\n".join(lines)])
