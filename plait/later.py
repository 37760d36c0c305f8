"""A group of commands of which some are imported only when they run, or when their help is shown.

Scripts run `plait show` in a loop: it must not wait for imports that only benches need.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class Later(click.Group):
    """later: name of a command -> "module:attribute" to import it from."""

    def __init__(self, *args: Any, later: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.later = dict(later or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, imported or not."""
        return sorted({*super().list_commands(ctx), *self.later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now if it is not yet."""
        if cmd_name in self.later:
            module, _, attribute = self.later.pop(cmd_name).partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)
