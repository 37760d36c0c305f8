/* timers: what the holder notes when something happened.
 *
 * Arming must not be lost between holder and control. The holder stores the stamp, fences,
 * and reads NEXT_DUE; control (timers_look) stores TIMER_NEVER in NEXT_DUE, fences, reads the
 * stamps, then stores what is due. Of two fenced pairs at least one sees the other's store:
 * either control sees the stamp, or the holder sees TIMER_NEVER and reports. */
#include "timers.h"

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
    return load(columns, stride, row, NEXT_DUE) > tick + after;
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

    store(columns, stride, row, PERSISTENT_ORDERED, tick);
    if (tick + ticks < load(columns, stride, row, NEXT_DUE))
        store(columns, stride, row, NEXT_DUE, (uint32_t)(tick + ticks));
}

void timers_initialise(uint32_t *columns, uint32_t stride, uint32_t row)
{
    for (enum timer_column column = 0; column < TIMER_COLUMN_COUNT; column++)
        store(columns, stride, row, column, column == NEXT_DUE ? TIMER_NEVER : 0);
}
