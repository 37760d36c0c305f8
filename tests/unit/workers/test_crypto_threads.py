"""The threads that help with large batches of handshakes end with their owner."""

from __future__ import annotations

import pytest

from workers.control.crypto_threads import CryptoThreads


def test_helpers_that_are_closed_take_nothing_more() -> None:
    threads = CryptoThreads(1)
    assert threads.pool is not None and threads.pool.submit(int, "7").result() == 7
    threads.close()
    with pytest.raises(RuntimeError):
        threads.pool.submit(int, "7")


def test_without_helpers_there_is_nothing_to_close() -> None:
    threads = CryptoThreads(0)
    threads.close()
    assert threads.pool is None
