/* timers: five timers of a peer as columns of coarse stamps (kernel: timers.c).
 *
 * The holder notes what happened; control (engine/timers.py) works out what is due. A stamp
 * is a tick of 2^24 ns (16.8 ms) since boot, 0 = not armed; it is stored only when it
 * changes. Functions are named for events; callers say what happened, never which timer.
 *
 * A column has the low 32 bits of a tick, which come round each 834 days. So nobody compares two of
 * them: timers_until does, for which a time is at most TIMER_AHEAD ticks ahead and otherwise past.
 * Control ages what is old (timers_age), so that no stamp gets old enough to be taken for another
 * lap's (docs/adr/0008-ticks-that-wrap.md).
 *
 *   new handshake     15 s + jitter after the first unanswered data sent; disarmed by
 *                     anything authenticated received                (UNANSWERED_SINCE)
 *   passive keepalive 10 s after the first data received since the last send; disarmed by
 *                     anything authenticated sent and by giving up a handshake; again if more
 *                     came                              (OWED_SINCE, LAST_DATA_RECEIVED)
 *   persistent        interval after the last authenticated packet either way (LAST_AUTHENTICATED)
 *   zero keys         540 s after the last session was derived        (SESSION_DERIVED)
 *   retransmit        5 s + jitter after an initiation, at most 20    (RETRY_DUE, ATTEMPTS)
 */
#ifndef ENGINE_TIMERS_H
#define ENGINE_TIMERS_H

#include <stdint.h>

/* cdef begin */
enum timer_column {
    NEXT_DUE,             /* control: when to look at this row; 0xffffffff = never */
    UNANSWERED_SINCE,     /* holder */
    OWED_SINCE,           /* holder */
    LAST_DATA_RECEIVED,   /* holder */
    LAST_DATA_SENT,       /* holder */
    LAST_AUTHENTICATED,   /* holder: sent or received */
    LAST_RECEIVED,        /* holder: authenticated received */
    LAST_HANDSHAKE_SENT,  /* control: initiation or response */
    RETRY_DUE,            /* control: 0 = no handshake in progress */
    ATTEMPTS,             /* control */
    SESSION_DERIVED,      /* control: when the latest session was derived; 0 = never */
    ZERO_DUE,             /* control: 540 s after that, or after a handshake given up; 0 = disarmed */
    KEYS_EXPIRE,          /* control: birth of the newest keypair + 180 s */
    JITTER,               /* control: ticks, drawn at each arming */
    KEEPALIVE_ORDERED,    /* control: when the passive keepalive was last ordered */
    LAST_INITIATION_RECEIVED, /* control: 20 ms flood guard, in ms */
    HANDSHAKE_ORDERED,    /* control: when new handshake last fired */
    PERSISTENT_ORDERED,   /* control: when the persistent keepalive was last ordered */
    TIMER_COLUMN_COUNT
};
#define TIMER_NEVER 0xffffffff
#define TIMER_TICK_SHIFT 24
#define TIMER_HANDSHAKES_MOST 18       /* given up when ATTEMPTS is above it: the first initiation and 19 more have left */
/* Seconds in ticks, rounded up: nothing is due early. */
#define TIMER_NEW_HANDSHAKE_TICKS 895  /* 15 s, jitter comes on top */
#define TIMER_KEEPALIVE_TICKS 597      /* 10 s */
#define TIMER_AHEAD 0x800000           /* 39 h; the longest a timer can be set for is 65,535 s */
#define TIMER_OLD 0x40000000           /* 208 days: no stamp is left older than that */
#define TIMER_OLDER 1024               /* ticks; more than any period that stamps are compared with */

/* Boottime ns as a stamp. Never 0 or TIMER_NEVER, which mean something else: those two ticks of a lap
 * are called 1, the one behind them, so that what is counted from them comes late and not early. */
uint32_t timers_tick(uint64_t now);
/* Ticks from `tick` until `at`: less than TIMER_AHEAD, negative when `at` is past. */
int64_t timers_until(uint32_t tick, uint32_t at);

/* columns[c * stride + row]. Each returns 1 when control must look at the row earlier than
 * NEXT_DUE says (the caller raises the event then), else 0. */
int timers_data_sent(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick);
int timers_data_received(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick);
int timers_authenticated_sent(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick);
int timers_authenticated_received(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick);
/* The handshake was given up: what is owed to the peer is forgotten (kernel: wg_expired_retransmit_handshake). */
void timers_given_up(uint32_t *columns, uint32_t stride, uint32_t row);
/* Control, before it reads stamps of these rows and stores a new NEXT_DUE: sets NEXT_DUE to
 * TIMER_NEVER, so that a stamp armed from now on is reported, and fences (timers.c). */
void timers_look(uint32_t *columns, const uint32_t *rows, uint32_t count);
/* Control: the persistent interval was set (kernel: netlink.c), or the interface came up with it. */
void timers_keepalive_changed(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick, uint16_t seconds);
/* Control: the earliest NEXT_DUE of `count` rows in ticks from `tick` on; INT64_MAX when there is none. */
int64_t timers_earliest(const uint32_t *next_due, uint32_t count, uint32_t tick);
/* Control, for each row each few days at least, beside holders at work: of rows first..last-1, stamps that
 * are older than TIMER_OLD get that age. Now: boottime ns. */
void timers_age(uint32_t *columns, uint32_t stride, uint32_t first, uint32_t last, uint64_t now);
/* Control, at birth of a row. */
void timers_initialise(uint32_t *columns, uint32_t stride, uint32_t row);
/* cdef end */

#endif
