"""A provider of peers in Python, as the text of a program: INTERFACE, and "peer" or "refuse" for each key."""

from __future__ import annotations

PROVIDER = """
import asyncio, sys, plait
async def main(path, answer):
    async with plait.aio.attach(path) as wg:
        @wg.provider(window=256)
        async def lookup(key, source):
            return plait.Peer(key, on_demand=True) if answer == "peer" else plait.Refuse(ttl=60)
        await wg.serve_forever()
asyncio.run(main(*sys.argv[1:]))
"""
