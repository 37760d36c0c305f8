"""Several works of one sync."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from plait.sync.together import together


async def never() -> None:
    await asyncio.Event().wait()


async def loses_a_cancellation() -> None:
    """As a library does whose work ended at that moment."""
    with suppress(asyncio.CancelledError):
        await never()
    await never()


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("it has ended")


def test_all_end_with_the_first_that_fails_though_one_lost_its_cancellation() -> None:
    with pytest.raises(ValueError, match="it has ended"):
        asyncio.run(together(loses_a_cancellation(), fails()))


def test_whoever_cancels_them_is_obeyed_though_one_loses_its_cancellation() -> None:
    async def run() -> None:
        works = asyncio.create_task(together(loses_a_cancellation(), never()))
        await asyncio.sleep(0)
        works.cancel()
        with pytest.raises(asyncio.CancelledError):
            await works

    asyncio.run(run())
