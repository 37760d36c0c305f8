"""Several works of one sync: when one ends, all do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

AGAIN: Final = 1.0  # seconds behind which a work that was cancelled and goes on is cancelled again


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Until the first of them ends, or raises; the others are cancelled and awaited.

    A library may lose a cancellation: asyncio.wait_for of Python 3.11 does when what it waits for is done at
    that moment. So whoever goes on is cancelled again.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        going_on = set(tasks)
        while going_on:
            for task in going_on:
                task.cancel()
            _, going_on = await asyncio.wait(going_on, timeout=AGAIN)
        await asyncio.gather(*tasks, return_exceptions=True)  # what they raised besides is of no interest
