/* Theory. A peer's hot state has one writer at a time: whoever holds its token. A turn is
 * short and always the same: what control ordered, what came in, what goes out, news for
 * control, token back. All system calls of the turn are done before the token is given,
 * so that packets of a peer can not overtake each other whoever takes the next turn. */
#include "workers/datapath/holder.h"

#include "engine/timers.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "shm/token.h"
#include "workers/clock.h"

#include <stdlib.h>

_Static_assert(sizeof(struct keypair) == KEYPAIR_BYTES, "shm/layout.h and engine/keypair.h disagree");
_Static_assert(sizeof(struct trie_node) == TRIE_NODE_BYTES, "shm/layout.h and engine/allowedips.h disagree");
_Static_assert(sizeof(struct peer_row) == PEER_ROW_BYTES, "a peer row is not what it says");
_Static_assert(sizeof(struct node) == 64 && sizeof(struct worker) == 128, "a line is not a line");
_Static_assert(BATCH_PACKETS + 64 <= SESSION_BATCH, "a usual batch is more than one");
_Static_assert((int)TIMER_COLUMN_COUNT <= TIMER_COLUMNS, "more timer columns than the layout has");

int holder_initialise(struct holder *holder, const struct segment *segment, struct aead *aead,
                      uint32_t worker)
{
    *holder = (struct holder){ .segment = segment, .aead = aead, .worker = worker, .budget = TAKE_BUDGET,
                               .udp4 = -1, .udp6 = -1, .tun = -1, .wait_ms = SEND_WAIT_MS };
    holder->mark = worker_mark(worker, segment->workers[worker].incarnation);
    for (int i = 0; i < MAX_WORKERS; i++)
        holder->bells[i] = -1;
    holder->cuttings = malloc(CUTTINGS_BYTES);
    return holder->cuttings ? 0 : -1;
}

void holder_release(struct holder *holder)
{
    free(holder->cuttings);
    holder->cuttings = NULL;
}

void holder_count(const struct holder *holder, uint32_t counter, uint64_t n)
{
    if (n)
        counter_add(holder->segment, holder->worker, (enum counter)counter, n);
}

void holder_session(const struct holder *holder, uint32_t row, struct session *session)
{
    const struct segment *s = holder->segment;
    struct peer_row *peer = &s->rows[row];

    *session = (struct session){
        .key_word = &peer->key_word,
        .keypairs = (struct keypair *)s->keypairs,
        .max_keypairs = s->geometry.max_keypairs,
        .peer = row,
        .peer_generation = __atomic_load_n(&peer->generation, __ATOMIC_RELAXED),
        .columns = s->columns,
        .stride = s->geometry.max_peers,
        .trie = (const struct trie_node *)s->trie,
        .max_trie_nodes = s->geometry.max_trie_nodes,
        /* acquire: the nodes that the root leads to were written before it */
        .root4 = __atomic_load_n(&s->device->trie_root4, __ATOMIC_ACQUIRE),
        .root6 = __atomic_load_n(&s->device->trie_root6, __ATOMIC_ACQUIRE),
        .mtu = __atomic_load_n(&s->device->mtu, __ATOMIC_RELAXED),
    };
}

void holder_tell(const struct holder *holder, uint32_t row, uint32_t session_news, uint32_t events)
{
    if (session_news & SESSION_HANDSHAKE_WANTED)
        events |= EVENT_HANDSHAKE_WANTED;
    if (session_news & SESSION_CONFIRMED)
        events |= EVENT_CONFIRMED;
    if (session_news & SESSION_TIMER)
        events |= EVENT_TIMER;
    if (session_news & SESSION_KEYS)
        events |= EVENT_KEYS;
    if (!events)
        return;
    POINT("event: known, not given");
    events_give(holder->segment, row, events);
    POINT("event: given, bell not rung");
    bell_ring(holder->segment, WORKER_CONTROL, holder->bells[WORKER_CONTROL]);
}

/* Nodes came home: receivers that wait for slots are woken. Only they announce it. */
static void holder_ring_starving(const struct holder *holder)
{
    for (uint32_t i = 0; i < holder->segment->geometry.max_receivers; i++)
        bell_ring_starving(holder->segment, WORKER_RECEIVER + i, holder->bells[WORKER_RECEIVER + i]);
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
    POINT("lend: noted in hand, token not taken");
    if (token_take_idle(holder->segment, row, holder->mark)) {
        POINT("lend: token held, nothing done");
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
    /* Each way as long as anything comes and the budget lasts: who lends has a large one, and what
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
