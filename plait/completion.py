"""What a shell offers for an argument when TAB is pressed: names of interfaces, and files.

A shell starts `plait` for it and waits, so next to nothing is imported here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from click import Context, Parameter
    from click.shell_completion import CompletionItem

SOCKETS = "/var/run/wireguard"
FILES = "/etc/wireguard"


def engines(_: Context, __: Parameter, incomplete: str, directory: str = SOCKETS) -> list[CompletionItem]:
    """Interfaces whose engine runs, by their sockets."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in _names(directory, ".sock", incomplete)]


def files(_: Context, __: Parameter, incomplete: str, directory: str = FILES) -> list[CompletionItem]:
    """Interfaces of wg-quick files; where none fits, any file."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in _names(directory, ".conf", incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _names(directory: str, suffix: str, incomplete: str) -> list[str]:
    try:
        found = os.listdir(directory)
    except OSError:  # not there, or root's alone
        return []
    names = [name.removesuffix(suffix) for name in found if name.endswith(suffix)]
    return sorted(name for name in names if name.startswith(incomplete))
