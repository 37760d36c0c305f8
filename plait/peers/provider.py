"""What `plait peers` is beside the provider itself (plait/api/provider.py): until a signal, with words on
standard error. Each peer that its store has is one on demand."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress

from engine import uapi
from plait.api.provider import Answer, Look, Provider, Question, log


def run(name: str, window: int, look: Look) -> None:
    """Answer until SIGINT or SIGTERM, or the engine ends (Failure)."""
    say_what_is_logged()
    asyncio.run(_run(name, window, look))


async def _run(name: str, window: int, look: Look) -> None:
    async def look_on_demand(question: Question) -> Answer:
        answer = await look(question)
        if isinstance(answer, uapi.PeerChange):
            answer.on_demand = 1
        return answer

    serving = asyncio.create_task(Provider(name, window, look_on_demand).serve())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def say_what_is_logged() -> None:
    """What a provider logs is said on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("plait: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def say(text: str) -> None:
    """A line for people."""
    print(f"plait: {text}", file=sys.stderr, flush=True)
