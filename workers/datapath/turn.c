/* Theory. A peer's hot state has one writer at a time: whoever holds its token. A turn is
 * short and always the same: what control ordered, what came in, what goes out, news for
 * control, token back. All system calls of the turn are done before the token is given,
 * so that packets of a peer can not overtake each other whoever takes the next turn. */
#include "workers/datapath/turn.h"

#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "shm/token.h"

/* Nodes came home: receivers that wait for slots are woken. */
static void holder_ring_starving(const struct holder *holder)
{
    bell_ring_starving(holder->segment, holder->bells);
}

static int holder_can_send(const struct holder *holder, uint32_t row, uint64_t now)
{
    struct session session;

    holder_session(holder, row, &session);
    return session_is_usable(&session, now);
}

/* For the watchdog's message, and for repair: set before the token is taken and cleared after
 * it was given, so that a wake that dies in between is found by the row in it. */
static void note_in_hand(const struct holder *holder, uint32_t value)
{
    __atomic_store_n(&holder->segment->workers[holder->worker].peer_in_hand, value, __ATOMIC_RELEASE);
}

int holder_take(const struct holder *holder, uint32_t row)
{
    note_in_hand(holder, row + 1);
    POINT("take: noted in hand, token not taken");
    if (token_take(holder->segment, row, holder->mark)) {
        POINT("take: token held, nothing done");
        return 1;
    }
    note_in_hand(holder, 0);
    return 0;
}

int holder_take_idle(const struct holder *holder, uint32_t row)
{
    note_in_hand(holder, row + 1);
    POINT("inline: noted in hand, token not taken");
    if (token_take_idle(holder->segment, row, holder->mark)) {
        POINT("inline: token held, nothing done");
        return 1;
    }
    note_in_hand(holder, 0);
    return 0;
}

uint32_t holder_take_turn(struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t orders, in = 0, out = 0, moved, batch;
    int usable, staged = 0;

    orders = holder_apply_orders(holder, row, now);
    if (orders & ORDER_RETIRE) {
        holder_drop_all(holder, row);
        holder_ring_starving(holder);
        POINT("retire: queues dropped, token held");
        token_give_dead(s, row);
        POINT("retire: token dead, control not told");
        note_in_hand(holder, 0);
        holder_tell(holder, row, 0, EVENT_RETIRED);
        return 0;
    }
    /* Each way as long as anything comes and the budget lasts: inline it is large, and what
     * was pushed meanwhile is drained here rather than by waking a consumer for it. */
    do {
        moved = in + out;
        while (in < holder->budget && (batch = holder_open_batch(holder, row, now, holder->budget - in)))
            in += batch;
        usable = holder_can_send(holder, row, now);
        while (usable && out < holder->budget && holder_has_room(holder, row) &&
               (batch = holder_seal_batch(holder, row, now, holder->budget - out)))
            out += batch;
    } while (in + out > moved && in < holder->budget && out < holder->budget);
    if (!usable && !queue_is_empty(s, 2 * row + OUTBOUND)) {
        /* Staged: they wait in their queue for a session, the newest 128 at most. */
        holder_trim_staged(holder, row, orders & ORDER_PURGE_STAGED ? 0 : STAGED_LIMIT, DROP_STAGED);
        staged = !(orders & ORDER_PURGE_STAGED);
        if (staged)
            holder_tell(holder, row, SESSION_HANDSHAKE_WANTED, 0);
    }
    if ((orders & ORDER_KEEPALIVE) && !out)
        holder_send_keepalive(holder, row, now);
    if (in | out)
        holder_ring_starving(holder);
    if (!queue_is_empty(s, 2 * row + INBOUND) || (usable && !queue_is_empty(s, 2 * row + OUTBOUND)))
        peer_give_back(s, row);
    else
        /* What comes into an empty queue after the look above is not staged yet: nobody has asked
         * for a handshake on its behalf, so it is worth another turn. */
        peer_give(s, row, staged);
    POINT("give: given, still noted in hand");
    note_in_hand(holder, 0);
    return in + out;
}
