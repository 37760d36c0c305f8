/* Theory. The hot state of one direction of a peer has one writer at a time: whoever holds its token. A turn is
 * short and always the same: orders, what waits in the queue, news for control, token back. All system calls of
 * the turn are done before the token is given, so that packets of one direction can not overtake each other
 * whoever takes the next turn. What both directions touch:
 *
 *   key word        inbound writes it, outbound reads it once a batch. A keypair that is named no more is wiped
 *                   after a grace period, and a turn ends before its worker's epoch moves.
 *   send counter    outbound takes nonces by compare-exchange, inbound may stop it for good (engine/keypair.c)
 *   endpoint        inbound writes it (two copies, shm/orders.c), outbound reads it
 *   timers          both store stamps (engine/timers.c)
 *   orders, events  compare-exchanged words (shm/orders.h): by them the directions tell each other */
#include "workers/datapath/turn.h"

#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "shm/token.h"

/* Outbound had to wait for orders, inbound applies them, outbound goes on. */
#define TURNS_IN_A_ROW 3

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

int holder_take(const struct holder *holder, uint32_t queue)
{
    note_in_hand(holder, queue / DIRECTIONS + 1);
    POINT("take: noted in hand, token not taken");
    if (token_take(holder->segment, queue, holder->mark)) {
        POINT("take: token held, nothing done");
        return 1;
    }
    note_in_hand(holder, 0);
    return 0;
}

int holder_take_idle(const struct holder *holder, uint32_t queue)
{
    note_in_hand(holder, queue / DIRECTIONS + 1);
    POINT("inline: noted in hand, token not taken");
    if (token_take_idle(holder->segment, queue, holder->mark)) {
        POINT("inline: token held, nothing done");
        return 1;
    }
    note_in_hand(holder, 0);
    return 0;
}

/* The queue is emptied for good, its token dies. */
static void retire(const struct holder *holder, uint32_t queue)
{
    holder_drop_all(holder, queue);
    holder_ring_starving(holder);
    POINT("retire: queue dropped, token held");
    token_give_dead(holder->segment, queue);
}

static uint32_t take_inbound_turn(struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t queue = DIRECTIONS * row + INBOUND, in = 0, batch;

    if (holder_apply_orders(holder, row, now) & ORDER_RETIRE) {
        retire(holder, queue); /* next is outbound */
        return 0;
    }
    /* Inline the budget is large, and what was pushed meanwhile is drained here rather than by waking a consumer. */
    while (in < holder->budget && (batch = holder_open_batch(holder, row, now, holder->budget - in)))
        in += batch;
    if (in)
        holder_ring_starving(holder);
    if (!queue_is_empty(s, queue))
        queue_give_back(s, queue);
    else
        queue_give(s, queue, 0);
    return in;
}

static uint32_t take_outbound_turn(struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t queue = DIRECTIONS * row + OUTBOUND, orders, out = 0, batch;
    int usable, staged = 0;

    orders = holder_take_orders(holder, row);
    if (orders & ORDER_RETIRE) {
        retire(holder, queue);
        POINT("retire: token dead, control not told");
        note_in_hand(holder, 0);
        holder_tell(holder, row, 0, EVENT_RETIRED);
        return 0;
    }
    if (orders == ORDERS_WAIT) {
        queue_give(s, queue, 1); /* what waits is inbound's to schedule */
        return 0;
    }
    usable = holder_can_send(holder, row, now);
    while (usable && out < holder->budget && holder_has_room(holder, row) &&
           (batch = holder_seal_batch(holder, row, now, holder->budget - out)))
        out += batch;
    if (!usable && !queue_is_empty(s, queue)) {
        /* Staged: they wait in their queue for a session, the newest 128 at most. */
        holder_trim_staged(holder, row, orders & ORDER_PURGE_STAGED ? 0 : STAGED_LIMIT, DROP_STAGED);
        staged = !(orders & ORDER_PURGE_STAGED);
        if (staged)
            holder_tell(holder, row, SESSION_HANDSHAKE_WANTED, 0);
    }
    if ((orders & ORDER_KEEPALIVE) && !out)
        holder_send_keepalive(holder, row, now);
    if (out)
        holder_ring_starving(holder);
    if (usable && !queue_is_empty(s, queue))
        queue_give_back(s, queue);
    else
        /* What comes into an empty queue after the look above is not staged yet: nobody has asked
         * for a handshake on its behalf, so it is worth another turn. */
        queue_give(s, queue, staged);
    return out;
}

/* A direction that nobody holds, idle or queued; 1 when this worker holds its token now. The consumer that a queued one
 * was meant for finds its bit, and the token gone. */
static int take_unheld(const struct holder *holder, uint32_t queue)
{
    return token_take_idle(holder->segment, queue, holder->mark) || token_take(holder->segment, queue, holder->mark);
}

uint32_t holder_take_turn(struct holder *holder, uint32_t queue, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t row = queue / DIRECTIONS, moved = 0;

    for (uint32_t turns = 1;; turns++) {
        moved += queue % DIRECTIONS == INBOUND ? take_inbound_turn(holder, row, now)
                                               : take_outbound_turn(holder, row, now);
        queue = DIRECTIONS * row + (queue % DIRECTIONS == INBOUND ? OUTBOUND : INBOUND);
        /* An order that this direction has now: given or let go by the other one, or control's. No process has to wake
         * for it where this one can go on. */
        if (!queue_has_orders(s, queue))
            break;
        POINT("order: the other direction's, its token not taken");
        if (turns == TURNS_IN_A_ROW || !take_unheld(holder, queue)) {
            peer_schedule(s, row);
            break;
        }
        POINT("order: the other direction's, its token held");
    }
    POINT("give: given, still noted in hand");
    note_in_hand(holder, 0);
    return moved;
}
