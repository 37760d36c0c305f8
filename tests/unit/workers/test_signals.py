"""Signals are taken by a loop, also those that came before anybody listened."""

from __future__ import annotations

import signal

from workers.supervisor.signals import Signals

NUMBERS = (signal.SIGUSR2, signal.SIGTTIN)


def test_blocked_signals_wait_for_whoever_listens_next() -> None:
    """As in a program that becomes another one: between the two nobody has a handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    signal.raise_signal(signal.SIGTTIN)  # to this thread: others block nothing
    with Signals(NUMBERS) as signals:
        assert signals.are_waiting
        assert signals.take() == [signal.SIGTTIN] and not signals.are_waiting
        signal.raise_signal(signal.SIGUSR2)
        assert signals.take() == [signal.SIGUSR2]
