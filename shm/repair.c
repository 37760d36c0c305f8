/* repair: what a process killed between any two instructions leaves, made whole.
 *
 * The dead process is reaped, so nothing of it runs any more; everybody else goes on meanwhile.
 * What it may have left, in the order in which it is mended:
 *
 *  - a push in its journal. Link-first knows only published and not published, and the
 *    chain's last node tells which (queue_is_published), without anybody's token. Never published:
 *    the chain is still private to a pool whose receiver is dead, and is walked home.
 *  - parts of batches: what it offered is nobody's, what it had taken is lost to its lender, who waits.
 *  - tokens that it held. Nobody else can hold these queues, so their lists can be walked from
 *    head: what it had marked in hand there was not advanced past and is `queued` again. Control is told,
 *    since news of the last turn may not have been. Only then does the token go to `queued`, with bit and bell.
 *  - nodes in its hand that no list reaches: advanced past, perhaps delivered, perhaps not. They
 *    come home and count as lost: once or never, not twice.
 *  - a receiver's nodes that are `owned`: home. What it had received and not made nodes of: counted.
 *  - wakes: after its latest push, after its latest give, of a queued token without a bit;
 *    summaries of ready sets; rings of consumers. Its rings of others are the caller's to make up for,
 *    who has their eventfds.
 *
 * Its incarnation moves on last: a repair that is itself cut short is repeated whole.
 */
#include "repair.h"

#include "bell.h"
#include "counters.h"
#include "orders.h"
#include "parts.h"
#include "queue.h"
#include "ready.h"
#include "schedule.h"
#include "token.h"

#define STEPS_A_NODE 64 /* it may go round while the walk goes on, a stub is a step too */

static void node_lose(const struct segment *segment, uint32_t number, struct repair *repair)
{
    repair->nodes_home++;
    repair->packets_lost += segment->node[number].packets;
    node_bring_home(segment, number);
}

static int is_pool_of(const struct segment *segment, uint32_t worker, uint32_t number)
{
    uint32_t receiver = (number - 1) / segment->geometry.nodes_a_pool / 2;
    return worker == WORKER_RECEIVER + receiver;
}

static void chain_undo(const struct segment *segment, uint32_t worker, uint32_t first, uint32_t last,
                       struct repair *repair)
{
    uint32_t number = first;
    for (uint32_t count = 0; count < segment->nodes; count++) {
        if (number - 1 >= segment->nodes || !is_pool_of(segment, worker, number))
            return;
        uint32_t next = queue_next(segment, 0, number); /* before the node is anybody else's */
        node_lose(segment, number, repair);
        if (number == last)
            return;
        number = next;
    }
}

static void journal_finish(const struct segment *segment, uint32_t worker, struct repair *repair)
{
    struct worker *line = &segment->workers[worker];
    uint32_t queue = __atomic_load_n(&line->journal_queue, __ATOMIC_ACQUIRE) - 1;
    if (queue / 2 >= segment->geometry.max_peers)
        return; /* none: 0 - 1 */
    int published = queue_is_published(segment, queue, line->journal_last);
    if (published == 1)
        repair->pushes_finished++;
    if (published == 0) {
        repair->pushes_undone++;
        chain_undo(segment, worker, line->journal_first, (uint32_t)line->journal_last, repair);
    }
    __atomic_store_n(&line->journal_queue, 0, __ATOMIC_RELEASE);
}

/* *steps: how many are left for all queues together. Every node is in one queue; rings, which only a broken
 * process leaves in as many rows as it likes, use the steps up. */
static void queue_requeue(const struct segment *segment, uint32_t queue, uint32_t mark, uint64_t *steps,
                          struct repair *repair)
{
    uint32_t number = segment->rows[queue / 2].heads[queue % 2].head;
    for (uint32_t count = 0; number != NODE_NIL && count <= segment->nodes && *steps != 0; count++, --*steps) {
        if (number - 1 < segment->nodes &&
            __atomic_load_n(&segment->states[number], __ATOMIC_RELAXED) == (NODE_IN_HAND | mark)) {
            __atomic_store_n(&segment->states[number], NODE_QUEUED, __ATOMIC_RELAXED);
            repair->nodes_requeued++;
        }
        number = queue_next(segment, queue, number);
    }
}

static void tokens_requeue(const struct segment *segment, uint32_t mark, struct repair *repair)
{
    uint32_t rows = __atomic_load_n(&segment->device->rows_used, __ATOMIC_ACQUIRE); /* there is no memory above */
    uint64_t steps = STEPS_A_NODE * (uint64_t)segment->nodes;

    for (uint32_t row = 0; row < rows && row < segment->geometry.max_peers; row++) {
        uint32_t tokens[DIRECTIONS] = { token_read(segment, DIRECTIONS * row + INBOUND),
                                        token_read(segment, DIRECTIONS * row + OUTBOUND) };
        if (tokens[INBOUND] == TOKEN_QUEUED || tokens[OUTBOUND] == TOKEN_QUEUED)
            peer_mend(segment, row); /* a bit may have died with whoever set or cleared it */
        for (uint32_t direction = 0; direction < DIRECTIONS; direction++) {
            uint32_t queue = DIRECTIONS * row + direction;
            if (tokens[direction] != (TOKEN_HELD | mark))
                continue;
            queue_requeue(segment, queue, mark, &steps, repair);
            repair->tokens_requeued++;
            events_give(segment, row, EVENT_HOLDER_DIED);
            queue_give_back(segment, queue);
        }
    }
}

static void nodes_collect(const struct segment *segment, uint32_t worker, uint32_t mark,
                          struct repair *repair)
{
    for (uint32_t number = 1; number <= segment->nodes; number++) {
        uint32_t state = __atomic_load_n(&segment->states[number], __ATOMIC_ACQUIRE);
        if (state == (NODE_IN_HAND | mark) || (state == NODE_OWNED && is_pool_of(segment, worker, number)))
            node_lose(segment, number, repair);
    }
}

void repair_worker(const struct segment *segment, uint32_t worker, struct repair *repair)
{
    *repair = (struct repair){ 0 };
    if (worker >= MAX_WORKERS)
        return;
    struct worker *line = &segment->workers[worker];
    uint32_t incarnation = __atomic_load_n(&line->incarnation, __ATOMIC_RELAXED);
    uint32_t mark = worker_mark(worker, incarnation);

    journal_finish(segment, worker, repair);
    parts_mend(segment, worker, mark);
    tokens_requeue(segment, mark, repair);
    nodes_collect(segment, worker, mark, repair);
    repair->packets_lost += line->arriving;
    counter_add(segment, WORKER_SUPERVISOR, DROP_KILLED, repair->packets_lost);

    if (line->journal_latest != 0) /* pushed, perhaps not scheduled */
        peer_mend(segment, (line->journal_latest - 1) / DIRECTIONS);
    if (line->peer_in_hand != 0) /* given, perhaps not looked at once more */
        peer_mend(segment, line->peer_in_hand - 1);
    for (uint32_t set = 0; set <= segment->geometry.max_consumers; set++)
        ready_mend(segment, set);

    /* It neither sleeps nor starves any more, nor reads anything. */
    __atomic_store_n(&line->journal_latest, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&line->peer_in_hand, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&line->arriving, 0, __ATOMIC_RELAXED);
    /* release: control that sees the epoch moved may use again what the dead was reading */
    __atomic_store_n(&line->epoch, (line->epoch + 1) & ~1u, __ATOMIC_RELEASE);
    bell_cancel(segment, worker);
    bell_starve(segment, worker, 0);
    for (uint32_t consumer = 0; consumer < segment->geometry.max_consumers; consumer++)
        bell_wake(segment, WORKER_CONSUMER + consumer);
    /* release: repaired before its old number means nobody (and a grace period may end) */
    __atomic_store_n(&line->incarnation, incarnation + 1, __ATOMIC_RELEASE);
}
