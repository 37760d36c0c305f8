"""News of the supervisor for control, which keeps the events: deaths and replacements.

Control may be the process that died, or die before it reads. So each piece of news is kept here until
control confirms it, and the next control gets what its predecessor did not confirm. One message is under way
at a time: a control that does not read does not hold the supervisor up. When a control dies before it
confirms, its successor gets the pieces one by one, so that the third death shows which piece is the cause:
that one is given up.

    {"kind": "news", "upto": 7, "news": [{"event": "worker_died", "at": …, "worker": "receiver 0", …}, …]}
    {"kind": "heard", "upto": 7}                                                  control's answer
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from workers.attempts import DEATHS

log = logging.getLogger(__name__)

KEPT: Final = 100  # pieces of news; the oldest are forgotten
AT_ONCE: Final = 20  # in one message, with room to spare in a channel's (channel.py)
WORD_CHARACTERS: Final = 200


class News:
    """send: a message to control, if it works. count: a piece of news was given up."""

    def __init__(
        self, send: Callable[[dict[str, Any]], None], count: Callable[[], None] = lambda: None
    ) -> None:
        self._send = send
        self._count = count
        self._sent = 0  # number of the first piece under way; 0 = nothing is
        self._deaths = 0  # of controls that did not confirm it
        self._unheard: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)
        self._number = 0
        self._is_open = False  # there is a control that understands news, and nothing is under way

    def emit(self, event: str, **details: Any) -> None:
        """It happened now. event: of workers.control.events.Event; details are words and numbers."""
        details = {
            name: value[:WORD_CHARACTERS] if isinstance(value, str) else value
            for name, value in details.items()
            if value not in ("", None)
        }
        self._number += 1
        self._unheard.append((self._number, {"event": event, "at": time.time_ns(), **details}))
        self._pass_on()

    def control_is_ready(self) -> None:
        """Another control listens."""
        self._is_open = True
        if self._sent:
            self._deaths += 1
            if self._deaths >= DEATHS:
                self._give_up()
        self._pass_on()

    def heard(self, upto: int) -> None:
        """Control told of all up to this number."""
        self._sent = self._deaths = 0
        while self._unheard and self._unheard[0][0] <= upto:
            self._unheard.popleft()
        self._is_open = True
        self._pass_on()

    def _give_up(self) -> None:
        """The first piece: control died of it so often."""
        sent, self._sent, self._deaths = self._sent, 0, 0
        if not self._unheard or self._unheard[0][0] != sent:
            return  # forgotten meanwhile
        _, news = self._unheard.popleft()
        self._count()
        log.error("news is given up, control died of it %d times: %s", DEATHS, news)
        if news["event"] != "step_given_up":
            self.emit("step_given_up", tries=DEATHS, reason=f"news of {news['event']}")

    def _pass_on(self) -> None:
        if not self._is_open or not self._unheard:
            return
        self._is_open = False
        told = list(self._unheard)[: 1 if self._deaths else AT_ONCE]
        self._sent = told[0][0]
        self._send({"kind": "news", "upto": told[-1][0], "news": [news for _, news in told]})
