"""`--handoff` of the commands that run engines of their own."""

from __future__ import annotations

from typing import Any

import click

from workers.handoffs import HANDOFFS, current


class HandoffChoice(click.Choice[str]):
    """One of the hand-offs; an earlier word is taken as well, and told on stderr."""

    def __init__(self) -> None:
        super().__init__(HANDOFFS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word of today."""
        word, note = current(str(value))
        if note:
            click.echo(f"plait: --handoff {note}", err=True)
        return super().convert(word, param, ctx)
