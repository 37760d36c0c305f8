"""A program that is run for each key: what it prints is the answer (plait/peers/answer.py)."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from contextlib import suppress

from plait.api.provider import Answer, Question
from plait.api.values import Refuse
from plait.failure import Failure
from plait.keys import encode
from plait.peers import answer
from plait.peers.provider import say

OUTPUT_BYTES = 1 << 16


class Program:
    """command: words, of which %k is the key, %s the source, %i the interface and %% a percent sign."""

    def __init__(self, command: str, interface: str, jobs: int, timeout: float) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise _bad(command, str(error)) from error
        if not self.words:
            raise _bad(command, "it is empty")
        self.interface = interface
        self.timeout = timeout
        self.free = asyncio.Semaphore(jobs)

    async def look(self, question: Question) -> Answer:
        """Run it. What it does wrong is said, and is a refusal that is not remembered."""
        key = encode(question.public_key)
        async with self.free:
            try:
                output = await self._run([self._filled(word, key, question.source) for word in self.words])
                return answer.parse(output, question.public_key)
            except TimeoutError:
                why = f"took longer than {self.timeout:g} s and was killed"
            except OSError as error:
                why = f"cannot be started ({error.strerror})"
            except Failed as error:
                why = str(error)
            except (ValueError, UnicodeDecodeError) as error:
                why = f"printed no answer: {error}"
        say(f"{self.interface}: the program {why}; the key was {key}")
        return Refuse(0)

    def _filled(self, word: str, key: str, source: str) -> str:
        values = {"%k": key, "%s": source, "%i": self.interface, "%%": "%"}
        filled, at = "", 0
        while at < len(word):
            piece = values.get(word[at : at + 2])
            filled += word[at] if piece is None else piece
            at += 1 if piece is None else 2
        return filled

    async def _run(self, words: list[str]) -> str:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self.timeout):
                output = b""
                while part := await process.stdout.read(OUTPUT_BYTES):
                    output += part
                    if len(output) > OUTPUT_BYTES:
                        raise Failed(f"printed more than {OUTPUT_BYTES} bytes")
                code = await process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            raise Failed(how)
        return output.decode("ascii")


class Failed(Exception):
    """Of one run: why."""


def _bad(command: str, why: str) -> Failure:
    return Failure(f"--exec {command!r} is no command", why, "Write it as in a shell: --exec 'lookup %k'")
