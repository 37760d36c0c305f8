"""What the timers of peers ask for, worked out over columns (engine/timers.h; kernel: timers.c).

There is no timer object. The holder of a peer notes what happened as coarse stamps; the
column NEXT_DUE says when control must look at a row, and control scans it once a tick
(due_rows). Only rows that are due are worked out (evaluate), all of them at once, and get
a new NEXT_DUE. Functions of events set control's own columns: callers say what happened, never which timer.

A stamp cannot be cleared by control, since it is the holder's. So control notes when it last acted on it
(HANDSHAKE_ORDERED, KEEPALIVE_ORDERED), and a stamp that is not later than that note has had its effect.
What happened after the note re-arms in the kernel from its first packet; only the last one's
time is known here. Hence the one difference: a timer that fired *without success* (nothing
was heard, or the keepalive could not be sent) and has new cause fires again a whole period
after it last fired, which is up to that period earlier than the kernel would, and never later.

A second difference on purpose: a retry that could not be sent (a response went out less than 5 s before) does
not end the retries; in the kernel it does.

Timers that fall due together, as after a suspend, act in the order of Action: what ends comes before what
begins, else the end would throw away what has just begun. The kernel's module clears keys and handshakes
*before* a suspend (device.c) and begins anew behind it, which is the same order.

A tick is 2^24 ns since boot. Periods are rounded up to whole ticks. Here ticks are plain integers that
never wrap; columns have their low 32 bits. `widen` and `narrow` lie between the two, and nothing else does
(docs/adr/0008-ticks-that-wrap.md; for C: timers_until, timers_tick).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from engine import constants
from engine._engine import ffi, lib

if TYPE_CHECKING:
    import numpy.typing as npt

Columns: TypeAlias = "npt.NDArray[np.uint32]"  # shape (COLUMNS, max_peers)
Rows: TypeAlias = "npt.NDArray[np.uint32]"  # shape (n,)

COLUMNS: Final[int] = lib.TIMER_COLUMN_COUNT
NEVER: Final[int] = lib.TIMER_NEVER  # in the column NEXT_DUE
NO_TICK: Final = 1 << 62  # a tick that never comes
_LAP: Final = 1 << 32
_LOW: Final = _LAP - 1
_AHEAD: Final[int] = lib.TIMER_AHEAD
_PLAIN: Final = np.array([lib.ATTEMPTS, lib.JITTER, lib.LAST_INITIATION_RECEIVED])  # no ticks
_KEPT: Final = np.array(
    [
        lib.RETRY_DUE,
        lib.ZERO_DUE,
        lib.KEYS_EXPIRE,
        lib.HANDSHAKE_ORDERED,
        lib.KEEPALIVE_ORDERED,
        lib.PERSISTENT_ORDERED,
    ]
)

Wide: TypeAlias = "npt.NDArray[np.int64]"  # ticks that never wrap
Fired: TypeAlias = "npt.NDArray[np.bool_]"


def ticks(duration: int) -> int:
    """A duration in ns as ticks, rounded up."""
    return -(-duration >> constants.TIMER_TICK_SHIFT)


def tick(now: int) -> int:
    """Boottime ns as a tick; never 0, which means not armed."""
    return max(1, now >> constants.TIMER_TICK_SHIFT)


def narrow(at: int) -> int:
    """A tick as a column has it. 0 stays 0, not armed; two of a lap are called 1, as by timers_tick."""
    low = at & _LOW
    return low if 0 < low < NEVER or not at else 1


def narrow_all(at: Wide) -> Wide:
    """`narrow` of each."""
    low = at & _LOW
    low[((low == 0) & (at != 0)) | (low == NEVER)] = 1
    return low


def widen(stamp: int, now: int) -> int:
    """A stamp as a tick: less than TIMER_AHEAD after `now`, a tick, or else before it. 0 stays 0."""
    end = now + _AHEAD
    return max(((stamp - end) & _LOW) + end - _LAP, 1) if stamp else 0


def widen_all(stamps: Rows, now: int) -> Wide:
    """`widen` of each."""
    end = now + _AHEAD
    wide = (stamps - np.uint32(end & _LOW)).astype(np.int64)  # wraps
    wide += end - _LAP
    np.maximum(wide, 1, out=wide)
    wide[stamps == 0] = 0
    return wide


def is_younger(stamps: Rows, age: int, now: int) -> npt.NDArray[np.bool_]:
    """Whether each is a stamp of at most `age` ticks before `now`, a tick. Without 8 bytes a row."""
    newest = _AHEAD - 1  # ticks after `now`; a stamp that is one more is a lap old
    passed = np.uint32((now + newest) & _LOW) - stamps  # wraps
    return np.asarray((stamps != 0) & (passed <= np.uint32(min(age + newest, _LOW))))


NEW_HANDSHAKE: Final = ticks(constants.NEW_HANDSHAKE_TIME)
KEEPALIVE: Final = ticks(constants.KEEPALIVE_TIMEOUT)
RETRY: Final = ticks(constants.REKEY_TIMEOUT)
ZERO: Final = ticks(constants.ZERO_KEYS_TIME)
EXPIRE: Final = ticks(constants.REJECT_AFTER_TIME) + 1  # the stamp of a birth is up to a tick early
JITTER: Final = constants.REKEY_TIMEOUT_JITTER_MAX >> constants.TIMER_TICK_SHIFT  # greatest, inclusive


class Action(IntFlag):
    """What evaluate asks control to do for a row. Several may come together; do them in this order: what
    ends comes before what begins."""

    GIVE_UP = 1  # 20 initiations unanswered: purge staged packets, forget the handshake
    EXPIRE_KEYS = 2  # ORDER_EXPIRE: no keypair is younger than 180 s
    ZERO_KEYS = 4  # ORDER_ZERO: no session derived for 540 s; forget the handshake too
    RETRY_HANDSHAKE = 8  # send an initiation if may_send_handshake; clear the sticky source first
    START_HANDSHAKE = 16  # likewise, as the first of up to 20
    SEND_KEEPALIVE = 32  # ORDER_KEEPALIVE


def due_rows(columns: Columns, used: int, now: int) -> Rows:
    """Rows below `used` that are to be looked at, ascending. now: a tick."""
    due = columns[lib.NEXT_DUE, :used]
    return np.flatnonzero(is_due(due, now)).astype(np.uint32)


def is_due(due: Rows, now: int) -> npt.NDArray[np.bool_]:
    """Whether each of these of NEXT_DUE is reached. now: a tick."""
    until = due - np.uint32((now + 1) & _LOW)  # but one tick, and wraps
    return np.asarray((due != NEVER) & (until >= np.uint32(_AHEAD - 1)))


def earliest(columns: Columns, used: int, now: int) -> int:
    """The tick at which the first of the rows below `used` is to be looked at, or NO_TICK."""
    where = ffi.cast("uint32_t *", columns.ctypes.data + lib.NEXT_DUE * columns.strides[0])
    until = lib.timers_earliest(where, used, now & _LOW)
    return min(now + until, NO_TICK)


def draw_jitter(count: int, randbytes: Callable[[int], bytes]) -> Rows:
    """Ticks of jitter for evaluate and initiation_sent: 0 to 333 ms, uniform. randbytes: as os.urandom."""
    return np.frombuffer(randbytes(4 * count), np.uint32) % np.uint32(JITTER + 1)


def evaluate(
    columns: Columns, rows: Rows, now: int, keepalive: npt.NDArray[np.uint16], jitter: Rows
) -> npt.NDArray[np.uint32]:
    """Work out rows that are due, or whose holder raised EVENT_TIMER; any row at any time is right.

    columns: the whole array, C-contiguous. rows: distinct. now: a tick. keepalive: persistent
    interval of each of these rows in seconds, 0 = off. jitter: from draw_jitter, for these rows.
    Returns the Action bits of each row; columns of control and NEXT_DUE are stored.
    """
    if not len(rows):
        return np.zeros(0, np.uint32)
    _look(columns, rows)
    wide = widen_all(columns[:, rows], now)
    wide[_PLAIN] = columns[_PLAIN[:, np.newaxis], rows]
    drawn = jitter.astype(np.int64)

    # In the order of Action. Each changes its own columns of `wide`.
    give_up, retry, next_retry = _retransmit(wide, now, drawn)
    expire, next_expire = _expire_keys(wide, now)
    zero, next_zero = _zero_keys(wide, now)
    start, next_start = _new_handshake(wide, now, drawn)
    owed, next_owed = _passive_keepalive(wide, now, give_up)
    persistent, next_persistent = _persistent_keepalive(wide, now, keepalive)

    columns[_PLAIN[:, np.newaxis], rows] = wide[_PLAIN]
    columns[_KEPT[:, np.newaxis], rows] = narrow_all(wide[_KEPT])
    looks = [next_retry, next_expire, next_zero, next_start, next_owed, next_persistent, _busy(wide, now)]
    next_due = np.minimum.reduce(looks)
    columns[lib.NEXT_DUE, rows] = np.where(next_due == NO_TICK, NEVER, narrow_all(next_due))
    actions = give_up * Action.GIVE_UP | expire * Action.EXPIRE_KEYS | zero * Action.ZERO_KEYS
    actions |= retry * Action.RETRY_HANDSHAKE | start * Action.START_HANDSHAKE
    actions |= (owed | persistent) * Action.SEND_KEEPALIVE
    return actions.astype(np.uint32)


# --- one function a timer: (whether it fired, when to look next or NO_TICK), each of shape (n,) ---------


def _retransmit(wide: Wide, now: int, jitter: Wide) -> tuple[Fired, Fired, Wide]:
    """An initiation without a response, after 5 s and jitter: (give up, send it again, next look)."""
    fired = _reached(wide[lib.RETRY_DUE], now)
    give_up = fired & (wide[lib.ATTEMPTS] > constants.MAX_TIMER_HANDSHAKES)
    retry = fired & ~give_up
    wide[lib.ATTEMPTS, retry] += 1
    wide[lib.RETRY_DUE, retry] = (now + RETRY + jitter)[retry]
    wide[lib.RETRY_DUE, give_up] = 0
    wide[lib.ZERO_DUE, give_up & (wide[lib.ZERO_DUE] == 0)] = now + ZERO
    return give_up, retry, _or_never(wide[lib.RETRY_DUE])


def _expire_keys(wide: Wide, now: int) -> tuple[Fired, Wide]:
    """The youngest keypair is 180 s old."""
    return _fire_once(wide[lib.KEYS_EXPIRE], now)


def _zero_keys(wide: Wide, now: int) -> tuple[Fired, Wide]:
    """No session was derived, or no handshake answered, for 540 s."""
    return _fire_once(wide[lib.ZERO_DUE], now)


def _new_handshake(wide: Wide, now: int, jitter: Wide) -> tuple[Fired, Wide]:
    """Data was sent 15 s ago, plus jitter, and nothing was heard since."""
    # What was sent before the latest session was derived is answered by that, though the holder, who
    # clears the stamp, may not have heard of it yet.
    is_answered = wide[lib.UNANSWERED_SINCE] < wide[lib.SESSION_DERIVED]
    since = np.where(is_answered, 0, wide[lib.UNANSWERED_SINCE])
    ordered, sent = wide[lib.HANDSHAKE_ORDERED], wide[lib.LAST_DATA_SENT]
    cause = (since > ordered) | (sent >= ordered)
    start = (since > 0) & cause & (np.maximum(since, ordered) + NEW_HANDSHAKE + wide[lib.JITTER] <= now)
    ordered[start] = now
    wide[lib.JITTER] = np.where(start | (since == 0), jitter, wide[lib.JITTER])
    wide[lib.ATTEMPTS, start] = 0
    cause = (since > ordered) | (sent >= ordered)
    return start, _again(wide, since, ordered, NEW_HANDSHAKE + wide[lib.JITTER], cause, now)


def _passive_keepalive(wide: Wide, now: int, give_up: Fired) -> tuple[Fired, Wide]:
    """Data was received 10 s ago and nothing was sent since. Giving up a handshake forgets it."""
    since, ordered = wide[lib.OWED_SINCE], wide[lib.KEEPALIVE_ORDERED]
    cause = (since > ordered) | (wide[lib.LAST_DATA_RECEIVED] > ordered - KEEPALIVE)
    owed = (since > 0) & cause & (np.maximum(since, ordered) + KEEPALIVE <= now)
    ordered[owed | give_up] = now
    cause = (since > ordered) | (wide[lib.LAST_DATA_RECEIVED] > ordered - KEEPALIVE)
    return owed, _again(wide, since, ordered, KEEPALIVE, cause, now)


def _persistent_keepalive(wide: Wide, now: int, keepalive: npt.NDArray[np.uint16]) -> tuple[Fired, Wide]:
    """No authenticated packet went either way for the interval (seconds, 0 = off)."""
    interval = -(-keepalive.astype(np.int64) * constants.SECOND >> constants.TIMER_TICK_SHIFT)
    last = np.maximum(wide[lib.LAST_AUTHENTICATED], wide[lib.PERSISTENT_ORDERED])
    armed = (interval > 0) & (last > 0)
    fired = armed & (last + interval <= now)
    wide[lib.PERSISTENT_ORDERED, fired] = now
    return fired, np.where(armed, np.where(fired, now, last) + interval, NO_TICK)


def _busy(wide: Wide, now: int) -> Wide:
    """A look each 10 s at a peer that is heard. Its stamps are armed and disarmed with each burst, and none
    of them is due before this: the holder reports no event a packet."""
    return np.where(wide[lib.LAST_AUTHENTICATED] + KEEPALIVE > now, now + KEEPALIVE, NO_TICK)


def _reached(due: Wide, now: int) -> Fired:
    return (due > 0) & (due <= now)


def _or_never(due: Wide) -> Wide:
    return np.where(due > 0, due, NO_TICK)


def _fire_once(due: Wide, now: int) -> tuple[Fired, Wide]:
    fired = _reached(due, now)
    due[fired] = 0
    return fired, _or_never(due)


def _again(wide: Wide, since: Wide, ordered: Wide, period: Wide | int, cause: Fired, now: int) -> Wide:
    """When to look at an armed stamp next: when its period ends, then each period while cause may still
    come unseen. The holder does not report packets behind an armed stamp, and without keys there are none."""
    due = np.maximum(since, ordered) + period
    due = np.where(due <= now, now + period, due)
    return np.where((since > 0) & (cause | (wide[lib.KEYS_EXPIRE] > 0)), due, NO_TICK)


def _look(columns: Columns, rows: Rows) -> None:
    """Before the stamps are read: an event from now on is reported (the fence is in timers.c)."""
    if not columns.flags.c_contiguous:
        raise ValueError("the columns are not C-contiguous; pass the whole array, not a slice of it")
    order = np.ascontiguousarray(rows, np.uint32)
    where = ffi.cast("uint32_t *", columns.ctypes.data + lib.NEXT_DUE * columns.strides[0])
    lib.timers_look(where, ffi.from_buffer("uint32_t[]", order), len(order))


# --- what happened, told by control -------------------------------------------------------------


def handshake_wanted(columns: Columns, row: int) -> None:
    """A fresh send, not a retry, asks for a handshake: it may take 20 initiations again."""
    columns[lib.ATTEMPTS, row] = 0


def may_send_handshake(columns: Columns, row: int, now: int) -> bool:
    """Whether 5 s have passed since our last initiation *or response* to this peer. now: a tick."""
    last = widen(int(columns[lib.LAST_HANDSHAKE_SENT, row]), now)
    return last == 0 or last + RETRY <= now


def initiation_sent(columns: Columns, row: int, now: int, jitter: int) -> None:
    """An initiation went out, or sending it failed. Also order AUTHENTICATED_SENT from the holder.

    now: a tick. jitter: ticks, one of draw_jitter.
    """
    columns[lib.LAST_HANDSHAKE_SENT, row] = narrow(now)
    _retry_at(columns, row, now + RETRY + jitter, now)


def retry_when_allowed(columns: Columns, row: int, now: int) -> None:
    """A handshake is wanted too soon after the last one: it is tried when 5 s are over. now: a tick."""
    last = widen(int(columns[lib.LAST_HANDSHAKE_SENT, row]), now)
    _retry_at(columns, row, last + RETRY, now)


def _retry_at(columns: Columns, row: int, due: int, now: int) -> None:
    columns[lib.RETRY_DUE, row] = narrow(due)
    _look_by(columns, row, due, now)


def response_sent(columns: Columns, row: int | Rows, now: int) -> None:
    """A response went out. Also order AUTHENTICATED_SENT from the holder."""
    columns[lib.LAST_HANDSHAKE_SENT, row] = narrow(now)


def session_derived(columns: Columns, row: int | Rows, now: int) -> None:
    """A keypair was made, in either role."""
    columns[lib.SESSION_DERIVED, row] = narrow(now)
    columns[lib.ZERO_DUE, row] = narrow(now + ZERO)
    columns[lib.KEYS_EXPIRE, row] = narrow(now + EXPIRE)
    _look_by(columns, row, now, now)  # stamps that lay armed while there were no keys may matter again


def handshake_complete(columns: Columns, row: int | Rows) -> None:
    """Initiator: the response was processed. Responder: the first data on `next` (EVENT_CONFIRMED)."""
    columns[lib.RETRY_DUE, row] = 0
    columns[lib.ATTEMPTS, row] = 0


def handshake_dropped(columns: Columns, row: int | slice) -> None:
    """The handshake in progress is void: private key changed, interface down, control restarted."""
    columns[lib.RETRY_DUE, row] = 0
    columns[lib.ATTEMPTS, row] = 0


def keepalive_changed(columns: Columns, row: int, now: int, seconds: int) -> None:
    """The persistent interval was set while the interface is up. From 0 to more, also order one at once."""
    if seconds:
        where = ffi.cast("uint32_t *", columns.ctypes.data)
        lib.timers_keepalive_changed(where, columns.shape[1], row, narrow(now), seconds)


def initiation_is_flood(columns: Columns, rows: Rows, now: int) -> npt.NDArray[np.bool_]:
    """Whether the last initiation of each peer was accepted less than 20 ms before `now`, boottime ns."""
    last: npt.NDArray[np.int64] = columns[lib.LAST_INITIATION_RECEIVED, rows].astype(np.int64)
    passed = (now // constants.MILLISECOND - last) & 0xFFFFFFFF
    flood = (last != 0) & (passed < constants.INITIATION_FLOOD_TIME // constants.MILLISECOND)
    return np.asarray(flood, np.bool_)


def initiation_accepted(columns: Columns, row: int | Rows, now: int) -> None:
    """An authentic initiation with a later timestamp. now: boottime ns."""
    columns[lib.LAST_INITIATION_RECEIVED, row] = max(1, now // constants.MILLISECOND & 0xFFFFFFFF)


def age(columns: Columns, first: int, last: int, now: int) -> None:
    """No stamp of rows first..last-1 is left so old that it could be taken for a later one. now: ns."""
    where = ffi.cast("uint32_t *", columns.ctypes.data)
    lib.timers_age(where, columns.shape[1], first, last, now)


def _look_by(columns: Columns, row: int | Rows, due: int, now: int) -> None:
    """Only ever earlier: a holder that reads the later value merely reports once more."""
    rows = np.atleast_1d(row)
    old = columns[lib.NEXT_DUE, rows]
    is_later = (old == NEVER) | (widen_all(old, now) > due)
    columns[lib.NEXT_DUE, rows[is_later]] = narrow(due)
