"""What plaitd alone answers on the configuration socket: counters, its inside, events, sessions,
and changes of the engine itself.

An engine of another make is told apart from one that cannot be asked now (Foreign); `name` is as in
plait/uapi_client.py.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from plait import reports, uapi_client
from plait.failure import Failure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
GET_COUNTERS = b"get_counters=1\n\n"
_FORMATS = {"V32": "32s", "<u8": "Q", "<i8": "q"}  # what the module struct calls numpy's types


class Foreign(Failure):
    """An engine that answers `get`, and not what plaitd alone answers."""


class Columns:
    """The reader of a `get_counters` answer, which comes in pieces."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: list[bytes] = []

    def take(self, pairs: Iterable[tuple[str, str]]) -> None:
        """The next key=value pairs of the answer. Failure when one is no rows."""
        for key, value in pairs:
            try:
                self._rows.append(binascii.a2b_base64(value, strict_mode=True))
            except (ValueError, TypeError) as error:
                why = f"its answer has `{key[:20]}` that are none"
                raise uapi_client.nonsense(self._name, why) from error

    def table(self) -> NDArray[np.void]:
        """The rows: columns public_key, rx_bytes, tx_bytes, handshake (COUNTERS_ROW of engine.uapi)."""
        import numpy as np

        from engine.uapi import COUNTERS_ROW

        data = bytearray().join(self._rows)
        try:
            return np.frombuffer(data, np.dtype(list(COUNTERS_ROW)))
        except ValueError as error:
            raise self._cut_off() from error

    def handshakes(self) -> list[tuple[bytes, int]]:
        """Keys, and ns since 1970 of the latest handshake: without numpy, for a small process that stays."""
        from engine.uapi import COUNTERS_ROW

        layout = "<" + "".join(_FORMATS[kind] for _, kind in COUNTERS_ROW)
        try:
            rows = [struct.iter_unpack(layout, row) for row in self._rows]
        except struct.error as error:
            raise self._cut_off() from error
        return [(key, handshake) for each in rows for key, _, _, handshake in each]

    def _cut_off(self) -> Failure:
        return uapi_client.nonsense(self._name, "its `counters` end within a row")


def counters(name: str, patience: float = uapi_client.TIMEOUT) -> NDArray[np.void]:
    """Ask for every peer's counters at once. Failure when the engine does not know the question."""

    def table() -> NDArray[np.void]:
        columns = Columns(name)
        columns.take(uapi_client.exchange(name, GET_COUNTERS, patience))
        return columns.table()

    return _by_plaitd(name, "counters", table, patience)


def handshakes(name: str, patience: float = uapi_client.TIMEOUT) -> list[tuple[bytes, int]]:
    """Ask for every peer's key and latest handshake, in ns since 1970, 0 for never. Failure as `counters`."""

    def told() -> list[tuple[bytes, int]]:
        columns = Columns(name)
        columns.take(uapi_client.exchange(name, GET_COUNTERS, patience))
        return columns.handshakes()

    return _by_plaitd(name, "counters", told, patience)


def public_keys(name: str, patience: float = uapi_client.TIMEOUT) -> Iterator[bytes]:
    """Every peer's key, one at a time, however many there are. Failure as `counters`."""
    from engine.uapi import COUNTERS_ROW

    size = struct.calcsize("<" + "".join(_FORMATS[kind] for _, kind in COUNTERS_ROW))
    for key, value in uapi_client.exchange(name, GET_COUNTERS, patience):
        rows = _rows(name, key, value, size)
        yield from (rows[i : i + 32] for i in range(0, len(rows), size))


def sessions(name: str, cursor: int, patience: float = uapi_client.TIMEOUT) -> tuple[bytes, int]:
    """Sessions that are new since a cursor (0: all): rows of engine.uapi.SESSION_ROW, and the next cursor."""
    from engine.uapi import SESSION_BYTES

    def told() -> tuple[bytes, int]:
        rows, latest = bytearray(), -1
        for key, value in uapi_client.exchange(name, b"get_sessions=%d\n\n" % cursor, patience):
            if key == "sessions":
                rows += _rows(name, key, value, SESSION_BYTES)
            elif key == "cursor" and value.isdecimal():
                latest = int(value)
        if latest < 0:
            raise _foreign(name, "sessions")
        return bytes(rows), latest

    return _by_plaitd(name, "sessions", told, patience)


def _rows(name: str, key: str, value: str, size: int) -> bytes:
    try:
        rows = binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise uapi_client.nonsense(name, f"its answer has `{key[:20]}` that are none") from error
    if len(rows) % size:
        raise uapi_client.nonsense(name, f"its `{key[:20]}` end within a row")
    return rows


def tell_of_neighbour(
    name: str, number: int, lease: int, rows: bytes | None = None, patience: float = uapi_client.TIMEOUT
) -> int | None:
    """Another gateway of the same key is dead for `lease` seconds, 0: it is not. Refused when the engine does
    not take it.

    rows: its sessions, as `sessions` gives them; None: those that the engine was told of. Returns how many it
    knows; None: it knows none, and has to be told.
    """
    lines = [f"neighbour={number}", f"lease={lease}"]
    if rows is not None:
        from engine.uapi import SESSION_BYTES

        step = 84 * SESSION_BYTES  # a line has 4,096 bytes at most
        pieces = (rows[i : i + step] for i in range(0, max(len(rows), 1), step))
        lines += [f"sessions={binascii.b2a_base64(piece, newline=False).decode()}" for piece in pieces]
    told: list[str] = []
    try:
        pairs = uapi_client.exchange(name, "\n".join([*lines, "", ""]).encode(), patience)
        told += (value for key, value in pairs if key == "neighbour")
    except uapi_client.Unknown:
        return None
    except uapi_client.Refused as refused:
        for value in told:
            why = _decoded(name, "neighbour", value, reports.Neighbour)["refused"]
            made = uapi_client.Refused(why["what"], why["why"], why["next"])
            made.code = refused.code
            raise made from None
        raise
    if not told:
        raise _foreign(name, "neighbours")
    return int(_decoded(name, "neighbour", told[0], reports.Neighbour)["sessions"])


def engine(name: str, patience: float = uapi_client.TIMEOUT) -> dict[str, Any]:
    """Ask for the engine's own report (workers/control/engine_report.py says its shape).

    patience: seconds for the whole of the answer. Foreign when the engine does not know the question.
    """
    (report,) = _own(name, "get_engine=1", "engine", patience)[-1:]
    return _decoded(name, "engine", report, reports.Engine)


def parse_engine(name: str, answer: str) -> dict[str, Any]:
    """The engine's report in a `get_engine` answer that was received some other way."""
    for key, value in uapi_client.pairs_of(name, answer):
        if key == "engine":
            return _decoded(name, key, value, reports.Engine)
    raise _foreign(name, "engine")


def busiest(name: str, count: int, patience: float = uapi_client.TIMEOUT) -> dict[str, Any]:
    """Ask which peers carry most (control/busiest.py says the answer's shape); patience as for `engine`."""
    (report,) = _own(name, f"get_busiest={count}", "busiest", patience)[-1:]
    return _decoded(name, "busiest", report, reports.Busiest)


def events(name: str, patience: float = uapi_client.TIMEOUT) -> list[dict[str, Any]]:
    """What the engine remembers of events (workers/control/events.py says their shape), oldest first.

    patience as for `engine`.
    """
    return [event(name, value) for value in _own(name, "events=0", "event", patience)]


def event(name: str, value: str | bytes) -> dict[str, Any]:
    """The event that the value of an `event` line tells."""
    return _decoded(name, "event", value, reports.Told)


def await_change(name: str, key: str, value: str) -> dict[str, Any] | None:
    """Ask for a change of the engine itself, wait until it is done or refused, and give what is told of it
    (workers/supervisor/changes.py). None: the engine does not know such a request."""
    what = f"{name} cannot be changed"
    patience = uapi_client.TIMEOUT
    with (
        uapi_client.ask(name, f"{key}={value}\n\n".encode()) as sock,
        uapi_client.explained(name, what, patience),
    ):
        sock.settimeout(patience)
        with sock.makefile("r", encoding="ascii", newline="\n") as lines:
            if lines.readline() != "asked=1\n":
                return None
            sock.settimeout(None)  # every step of a change has an end of its own
            for line in lines:
                if line.startswith("change="):
                    return _decoded(name, "change", line.removeprefix("change="), reports.Change)
    why = "its engine ended before it told what became of it"
    raise Failure(what, why, "See why in its log; `plait show interfaces` tells which engines run.")


def _own(name: str, operation: str, which: str, patience: float) -> list[str]:
    """Ask what plaitd alone answers: the values of `which`, at least one."""

    def values() -> list[str]:
        pairs = uapi_client.exchange(name, f"{operation}\n\n".encode(), patience, is_whole=True)
        found = [value for key, value in pairs if key == which]
        if not found:
            raise _foreign(name, which)
        return found

    return _by_plaitd(name, which, values, patience)


def _by_plaitd(name: str, which: str, question: Callable[[], T], patience: float) -> T:
    """Ask what plaitd alone answers.

    An engine of another make ends the connection or answers an error, and so does a control process that is
    being replaced; `get`, which every engine knows, and a second try tell them apart.
    """
    try:
        return question()
    except (uapi_client.Unanswered, uapi_client.Refused, Foreign):
        for _ in uapi_client.exchange(name, uapi_client.GET, patience):
            break  # a line is enough
    try:
        return question()
    except (uapi_client.Unanswered, uapi_client.Refused) as failure:
        raise _foreign(name, which) from failure


def _foreign(name: str, which: str) -> Failure:
    names = {"engine": "its inside", "busiest": "its busiest peers", "event": "events"}
    told = names.get(which, which)
    why = "its engine does not know the question; it is another program than plaitd, or an older plaitd"
    return Foreign(f"{name} does not tell {told}", why, f"What every engine tells: plait show {name}")


def _decoded(name: str, which: str, value: str | bytes, shape: type) -> dict[str, Any]:
    try:
        return reports.decode(value, shape)
    except ValueError as error:
        what = f"{name} cannot be understood"
        why = f"its `{which}` is not as plaitd of this version tells it ({error})"
        raise Failure(what, why, "Update plait and its engine to the same version.") from error
