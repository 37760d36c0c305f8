"""A selector that never refuses: what epoll cannot watch now is looked at by hand until it can.

epoll_ctl needs kernel memory (ENOMEM), and a user may have so many watches and no more (ENOSPC,
/proc/sys/fs/epoll/max_user_watches), whoever of the user's programs has them. Neither is a reason to end.
"""

from __future__ import annotations

import logging
import select
import selectors
from typing import Any

RETRY_SECONDS = 0.1
log = logging.getLogger("plait")


class Selector(selectors.DefaultSelector):
    """As a DefaultSelector. Events that are looked for by hand come up to RETRY_SECONDS late."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[int, selectors.SelectorKey] = {}  # by descriptor
        self.has_said = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        try:
            return super().register(fileobj, events, data)
        except OSError as error:
            fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
            if not self.has_said:
                self.has_said = True
                why = error.strerror or error
                log.error("the kernel refuses epoll_ctl (%s): descriptors are looked at by hand", why)
            self.refused[fd] = selectors.SelectorKey(fileobj, fd, events, data)
            return self.refused[fd]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        for fd, key in self.refused.items():
            if key.fileobj is fileobj or key.fileobj == fileobj:
                return self.refused.pop(fd)
        return super().unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        again, self.refused = self.refused, {}
        for key in again.values():
            self.register(key.fileobj, key.events, key.data)
        if again and not self.refused:
            self.has_said = False
            log.info("the kernel watches every descriptor again")
        ready = self._look()
        if ready:
            timeout = 0.0
        elif self.refused:
            timeout = RETRY_SECONDS if timeout is None else min(timeout, RETRY_SECONDS)
        return ready + super().select(timeout)

    def _look(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Which of those that epoll does not watch are ready. One by one: poll takes no more descriptors than
        the limit on open files, which may have been lowered."""
        ready = []
        for key in self.refused.values():
            poll = select.poll()
            poll.register(key.fd, _poll_events(key.events))
            for _, found in poll.poll(0):
                events = key.events if found & ~(select.POLLIN | select.POLLOUT) else _events(found)
                ready.append((key, events & key.events))
        return ready


def _poll_events(events: int) -> int:
    reads, writes = events & selectors.EVENT_READ, events & selectors.EVENT_WRITE
    return (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0)


def _events(found: int) -> int:
    reads, writes = found & select.POLLIN, found & select.POLLOUT
    return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if writes else 0)
