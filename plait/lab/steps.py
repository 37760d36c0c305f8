"""What a command does in a laboratory, told step by step on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Step = Callable[[str], None]


@contextlib.contextmanager
def steps(name: str) -> Iterator[Step]:
    """Say on stderr what goes on: a line that moves on a terminal, one line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        last: list[str] = []

        def step(text: str) -> None:
            if last:
                console.print(f"[green]✓[/green] {last.pop()}", highlight=False)
            last.append(text)
            status.update(text)

        yield step
        if last:
            step("done")
