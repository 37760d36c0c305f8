/* timers: what the holder notes when something happened.
 *
 * Arming must not be lost between holder and control. The holder stores the stamp, fences,
 * and reads NEXT_DUE; control (timers_look) stores TIMER_NEVER in NEXT_DUE, fences, reads the
 * stamps, then stores what is due. Of two fenced pairs at least one sees the other's store:
 * either control sees the stamp, or the holder sees TIMER_NEVER and reports.
 *
 * Ageing writes into the holder's columns beside the holder, by compare-exchange from one time to
 * another. The holder only ever stores: before the exchange, which then fails, or after it, so that
 * its own stamp stands in the end. A stamp that is armed stays so and one that is not is left alone,
 * so whether a stamp is armed is the holder's alone to say.
 *
 * A peer has two holders, one of each direction, and they stamp at once: a packet that was sent arms UNANSWERED_SINCE
 * and clears OWED_SINCE, one that came does the opposite, both set LAST_AUTHENTICATED. Whatever their stores do to
 * each other is what one of the two orders of the two packets would have done, since each is a store of the
 * present or of 0, and an arm that finds the stamp armed stores nothing: as if the packet that was sent had
 * left just before the one that came.
 *
 * Ageing keeps what the stamps say of each other, as far as control asks: the holder's get older than
 * control's notes. So what happened so long ago is the cause of nothing any more. */
#include "timers.h"

#include <string.h>

#define FIRST 1u  /* stamp of a lap */
#define LANES 4   /* numbers that are compared at once */
#define HOLDERS (1u << UNANSWERED_SINCE | 1u << OWED_SINCE | 1u << LAST_DATA_RECEIVED | 1u << LAST_DATA_SENT | \
                 1u << LAST_AUTHENTICATED | 1u << LAST_RECEIVED)
#define NOT_TICKS (1u << ATTEMPTS | 1u << JITTER | 1u << LAST_INITIATION_RECEIVED)
#define MILLISECOND 1000000u

typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t signed_lanes __attribute__((vector_size(4 * LANES)));

static int is_time(uint32_t at)
{
    return at != 0 && at != TIMER_NEVER;
}

static uint32_t stamp_of(uint64_t tick)
{
    return is_time((uint32_t)tick) ? (uint32_t)tick : FIRST;
}

uint32_t timers_tick(uint64_t now)
{
    return stamp_of(now >> TIMER_TICK_SHIFT);
}

int64_t timers_until(uint32_t tick, uint32_t at)
{
    return (int64_t)(uint32_t)(at - tick - TIMER_AHEAD) - (UINT32_MAX - TIMER_AHEAD) - 1;
}

static uint32_t load(const uint32_t *columns, uint32_t stride, uint32_t row, enum timer_column column)
{
    /* Relaxed: columns are single words that say nothing about other memory. */
    return __atomic_load_n(&columns[(uint64_t)column * stride + row], __ATOMIC_RELAXED);
}

static void store(uint32_t *columns, uint32_t stride, uint32_t row, enum timer_column column, uint32_t value)
{
    if (load(columns, stride, row, column) != value)  /* a line that control scans stays shared */
        __atomic_store_n(&columns[(uint64_t)column * stride + row], value, __ATOMIC_RELAXED);
}

/* Arms a stamp that is not armed. 1 when control would look too late for it. */
static int arm(uint32_t *columns, uint32_t stride, uint32_t row, enum timer_column column,
               uint32_t tick, uint64_t after)
{
    if (load(columns, stride, row, column))
        return 0;
    store(columns, stride, row, column, tick);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  /* the stamp before NEXT_DUE is read: see the top */
    uint32_t due = load(columns, stride, row, NEXT_DUE);
    return due == TIMER_NEVER || timers_until(tick, due) > (int64_t)after;
}

/* The first such packet ever: persistent keepalives begin to count from it. */
static int note_authenticated(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick)
{
    int news = arm(columns, stride, row, LAST_AUTHENTICATED, tick, 0);

    store(columns, stride, row, LAST_AUTHENTICATED, tick);
    return news;
}

int timers_data_sent(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick)
{
    store(columns, stride, row, LAST_DATA_SENT, tick);
    return arm(columns, stride, row, UNANSWERED_SINCE, tick,
               TIMER_NEW_HANDSHAKE_TICKS + (uint64_t)load(columns, stride, row, JITTER));
}

int timers_data_received(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick)
{
    store(columns, stride, row, LAST_DATA_RECEIVED, tick);
    return arm(columns, stride, row, OWED_SINCE, tick, TIMER_KEEPALIVE_TICKS);
}

int timers_authenticated_sent(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick)
{
    store(columns, stride, row, OWED_SINCE, 0);
    return note_authenticated(columns, stride, row, tick);
}

int timers_authenticated_received(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick)
{
    store(columns, stride, row, UNANSWERED_SINCE, 0);
    store(columns, stride, row, LAST_RECEIVED, tick);
    return note_authenticated(columns, stride, row, tick);
}

void timers_given_up(uint32_t *columns, uint32_t stride, uint32_t row)
{
    store(columns, stride, row, OWED_SINCE, 0);
}

void timers_look(uint32_t *columns, const uint32_t *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        __atomic_store_n(&columns[rows[i]], TIMER_NEVER, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);  /* before the stamps are read: see the top */
}

void timers_keepalive_changed(uint32_t *columns, uint32_t stride, uint32_t row, uint32_t tick, uint16_t seconds)
{
    uint64_t ticks = (seconds * 1000000000ull + (1u << TIMER_TICK_SHIFT) - 1) >> TIMER_TICK_SHIFT;
    uint32_t due = load(columns, stride, row, NEXT_DUE);

    store(columns, stride, row, PERSISTENT_ORDERED, tick);
    if (due == TIMER_NEVER || (int64_t)ticks < timers_until(tick, due))
        store(columns, stride, row, NEXT_DUE, stamp_of(tick + ticks));
}

int64_t timers_earliest(const uint32_t *next_due, uint32_t count, uint32_t tick)
{
    /* In the order of signed numbers, since few processors compare vectors of unsigned ones. Plain loads:
     * control alone writes here. */
    uint32_t origin = tick + TIMER_AHEAD + INT32_MIN, i = 0;
    signed_lanes least = INT32_MAX - (signed_lanes){ 0 };

    for (; i + LANES <= count; i += LANES) {
        lanes due;
        memcpy(&due, &next_due[i], sizeof due);
        signed_lanes never = due == TIMER_NEVER;
        signed_lanes far = ((signed_lanes)(due - origin) & ~never) | (never & INT32_MAX);
        signed_lanes is_less = far < least;
        least = (far & is_less) | (least & ~is_less);
    }
    for (; i < count; i++)
        if (next_due[i] != TIMER_NEVER && (int32_t)(next_due[i] - origin) < least[0])
            least[0] = (int32_t)(next_due[i] - origin);
    for (int lane = 1; lane < LANES; lane++)
        if (least[lane] < least[0])
            least[0] = least[lane];
    return least[0] == INT32_MAX ? INT64_MAX : timers_until(tick, (uint32_t)least[0] + origin);
}

/* The time `at` gets that age, if it is older. */
static void age(uint32_t *word, uint32_t tick, uint32_t ticks)
{
    uint32_t at = __atomic_load_n(word, __ATOMIC_RELAXED);

    if (is_time(at) && timers_until(tick, at) < -(int64_t)ticks)
        __atomic_compare_exchange_n(word, &at, stamp_of((1ull << 32) + tick - ticks), 0, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED);
}

void timers_age(uint32_t *columns, uint32_t stride, uint32_t first, uint32_t last, uint64_t now)
{
    uint32_t tick = timers_tick(now), milliseconds = (uint32_t)(now / MILLISECOND);

    for (enum timer_column column = 0; column < TIMER_COLUMN_COUNT; column++) {
        uint32_t *words = &columns[(uint64_t)column * stride];
        uint32_t ticks = TIMER_OLD + (HOLDERS >> column & 1 ? TIMER_OLDER : 0);
        for (uint32_t row = first; row < last && !(NOT_TICKS >> column & 1); row++)
            age(&words[row], tick, ticks);
    }
    for (uint32_t row = first; row < last; row++)  /* the flood guard's: forgotten long before they come round */
        if (milliseconds - load(columns, stride, row, LAST_INITIATION_RECEIVED) > UINT32_MAX / 2)
            store(columns, stride, row, LAST_INITIATION_RECEIVED, 0);
}

void timers_initialise(uint32_t *columns, uint32_t stride, uint32_t row)
{
    for (enum timer_column column = 0; column < TIMER_COLUMN_COUNT; column++)
        store(columns, stride, row, column, column == NEXT_DUE ? TIMER_NEVER : 0);
}
