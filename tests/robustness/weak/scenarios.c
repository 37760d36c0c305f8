/* scenarios: the smallest uses of shm/ in which each order has something to do.
 *
 * Compiled as shm/ is, so plain accesses here are looked at for races: what a producer writes into its node and a
 * holder reads, what holders leave each other in a row, what control uses again. */
#include "weak.h"

#include "shm/bell.h"
#include "shm/epoch.h"
#include "shm/mailbox.h"
#include "shm/orders.h"
#include "shm/parts.h"
#include "shm/pool.h"
#include "shm/queue.h"
#include "shm/ready.h"
#include "shm/repair.h"
#include "shm/schedule.h"
#include "shm/token.h"

#define NODES 4 /* of a pool */
#define NONE 0xffffffffu
#define LOG 8

static struct segment *s;
static int32_t *bells;
static struct pool *pools; /* of receivers 0 and 1, inbound */

/* What each thread did, in its own line: for finish(). */
struct log {
    uint32_t count, node[LOG];
};
static struct log *logs;

static void lay_out(uint32_t peers)
{
    s = private_new(sizeof *s);
    s->geometry = (struct geometry){
        .max_peers = peers,
        .max_receivers = 2,
        .max_consumers = 1,
        .nodes_a_pool = NODES,
        .small_slots = NODES,
        .mailbox_cells = 1,
    };
    s->pools = 4;
    s->nodes = 4 * NODES;
    s->device = shared_new(sizeof *s->device);
    s->workers = shared_new((WORKER_CONSUMER + 1) * sizeof *s->workers);
    s->bells = shared_new((WORKER_CONSUMER + 1) * sizeof *s->bells);
    s->starving = shared_new(sizeof *s->starving);
    bells = private_new(MAX_WORKERS * sizeof *bells);
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker++)
        bells[worker] = (int32_t)worker - WORKER_RECEIVER;
    s->counters = shared_new(2 * COUNTERS_A_WORKER * sizeof *s->counters);
    s->tokens = shared_new(TOKEN_BLOCK * sizeof *s->tokens);
    s->ready_words = ready_words_a_set(DIRECTIONS * peers);
    s->ready = shared_new(2 * s->ready_words * sizeof *s->ready);
    s->rows = shared_new((peers < 2 ? peers : 2) * sizeof *s->rows); /* the rest has no row here, only bits */
    s->mailbox = shared_new(2 * sizeof *s->mailbox);
    s->cells = shared_new(2 * sizeof *s->cells);
    s->states = shared_new((1 + s->nodes) * sizeof *s->states);
    s->node = shared_new((1 + s->nodes) * sizeof *s->node);
    logs = private_new(THREADS * sizeof *logs);
    pools = private_new(2 * sizeof *pools);
    for (uint32_t row = 0; row < peers && row < 2; row++) {
        token_initialise(s, DIRECTIONS * row + INBOUND);
        token_initialise(s, DIRECTIONS * row + OUTBOUND);
        queue_initialise(s, 2 * row + INBOUND);
        queue_initialise(s, 2 * row + OUTBOUND);
    }
    for (uint32_t worker = 0; worker <= WORKER_CONSUMER; worker++)
        s->workers[worker].incarnation = 1;
}

static void lay_out_queue(void)
{
    lay_out(1);
    for (uint32_t receiver = 0; receiver < 2; receiver++)
        if (pool_open(&pools[receiver], s, 2 * receiver) != 0)
            fail("no pool");
}

/* --- producers and holders --- */

static uint32_t node_new(uint32_t receiver)
{
    uint32_t slot = pool_take_small(&pools[receiver]), number = pool_issue(&pools[receiver], slot, 0);
    if (number == 0)
        fail("no node");
    s->node[number].packets = 1;
    s->node[number].length = number; /* stands for the packet's bytes */
    return number;
}

static void push(uint32_t receiver, uint32_t length)
{
    uint32_t first = node_new(receiver), last = first;
    for (uint32_t i = 1; i < length; i++) {
        uint32_t next = node_new(receiver);
        queue_link(s, last, next);
        last = next;
    }
    if (queue_push_mpsc(s, WORKER_RECEIVER + receiver, 0, first, last, length) != 0)
        fail("a push was refused");
}

static void take(uint32_t thread, uint32_t number)
{
    struct log *log = &logs[thread];
    if (log->count == LOG)
        fail("more was taken than there is");
    log->node[log->count++] = number;
}

/* With the token held: takes what is there, reads it, brings it home. `thread` keeps the log. */
static void drain(uint32_t thread, uint32_t mark)
{
    uint32_t numbers[4], count = queue_pop_sc(s, mark, 0, numbers, 4, 4);
    for (uint32_t i = 0; i < count; i++) {
        if (s->node[numbers[i]].length != numbers[i])
            fail("another node's packet");
        take(thread, numbers[i]);
        s->rows[0].rx_bytes += s->node[numbers[i]].length; /* the holder's */
        node_bring_home(s, numbers[i]);
    }
}

/* Each of `count` nodes from first on was taken `times` times in all, by whoever; what is left is drained first. */
static void all_taken(uint32_t first, uint32_t count, uint32_t times)
{
    for (uint32_t round = 0; round < 4; round++)
        drain(THREADS - 1, 99);
    if (queue_packets(s, 0) != 0 && queue_pop_sc(s, 99, 0, (uint32_t[4]){ 0 }, 4, 4) == 0 && queue_packets(s, 0) != 0)
        fail("the count is %u in an empty queue", queue_packets(s, 0));
    for (uint32_t number = first; number < first + count; number++) {
        uint32_t found = 0;
        for (uint32_t thread = 0; thread < THREADS; thread++)
            for (uint32_t i = 0; i < logs[thread].count; i++)
                found += logs[thread].node[i] == number;
        if (found != times)
            fail("node %u was taken %u times instead of %u", number, found, times);
        if (s->states[number] != NODE_FREE)
            fail("node %u is not home but %x", number, s->states[number]);
    }
}

static void ordered(uint32_t thread, uint32_t before, uint32_t after)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < logs[thread].count; i++) {
        if (logs[thread].node[i] == before && seen)
            fail("node %u was taken behind node %u of the same producer", before, after);
        seen |= logs[thread].node[i] == after;
    }
}

static void push_one_0(void) { push(0, 1); }
static void push_one_1(void) { push(1, 1); }
static void push_two_0(void) { push(0, 2); }

static void push_then_push_0(void)
{
    push(0, 1);
    push(0, 1);
}

static void holder_alone(void)
{
    drain(2, 7);
    drain(2, 7);
}

static void two_producers_end(unsigned waiting)
{
    (void)waiting;
    all_taken(1, 1, 1);
    all_taken(1 + 2 * NODES, 1, 1);
}

static void chain_end(unsigned waiting)
{
    (void)waiting;
    all_taken(1, 2, 1);
    all_taken(1 + 2 * NODES, 1, 1);
    ordered(2, 1, 2);
}

/* A node that came home is pushed again. */
static void push_again_0(void)
{
    push(0, 1);
    for (uint32_t slots = NODES - 1; slots > 0; slots--) /* no other node is left to take */
        pools[0].free_nodes = 0;
    if (pool_sweep(&pools[0]) == 0)
        return;
    push(0, 1);
    take(0, 1);
}

static void again_end(unsigned waiting)
{
    (void)waiting;
    uint32_t twice = logs[0].count;
    logs[0].count = 0;
    all_taken(1, 1, 1 + twice);
    all_taken(1 + 2 * NODES, 1, 1);
}

static void push_again_alone_0(void) { push_again_0(); }

static void again_alone_end(unsigned waiting)
{
    (void)waiting;
    uint32_t twice = logs[0].count;
    logs[0].count = 0;
    all_taken(1, 1, 1 + twice);
}

/* The count may be low by a chain that its producer had counted and not linked when the holder looked. */
static void counted(uint32_t held, uint32_t low)
{
    int32_t count = (int32_t)(s->rows[0].ends[0].produced - s->rows[0].heads[0].consumed);
    if ((int32_t)held - count > (int32_t)low)
        fail("the queue holds %u packets, its count says %d", held, count);
}

static void one_producer_end(unsigned waiting)
{
    (void)waiting;
    counted(2 - logs[1].count, 1);
    all_taken(1, 2, 1);
    ordered(1, 1, 2);
}

static void holder_of_one(void)
{
    drain(1, 7);
    drain(1, 7);
}

/* --- token --- */

/* Two who may hold: what one does to the row the other sees. Scheduled by a third. */
static void hold_1(void)
{
    if (token_take(s, 0, 1)) {
        s->rows[0].rx_bytes++;
        drain(1, 1);
        token_give_idle(s, 0);
    }
}

static void inline_2(void)
{
    if (token_take_idle(s, 0, 2)) {
        s->rows[0].rx_bytes++;
        drain(2, 2);
        token_give_queued(s, 0);
    }
}

static void schedule_push_0(void)
{
    push(0, 1);
    token_schedule(s, 0);
}

static void schedule_twice_0(void)
{
    token_schedule(s, 0);
    token_schedule(s, 0);
}

static void tokens_end(unsigned waiting)
{
    (void)waiting;
    all_taken(1, 1, 1);
}

static void nothing_end(unsigned waiting) { (void)waiting; }

static void prepare_one(void) { lay_out(1); }

/* --- the way from a push to a sleeping consumer --- */

static void push_and_schedule_0(void)
{
    push(0, 1);
    queue_schedule(s, 0);
}

static void push_and_schedule_1(void)
{
    push(1, 1);
    queue_schedule(s, 0);
}

static void consume_one(uint32_t thread, uint32_t *cursor)
{
    uint32_t row = ready_take(s, 1, cursor);
    if (row != NONE && token_take(s, row, thread)) {
        drain(thread, thread);
        queue_give(s, row, 0);
    }
}

/* As workers/datapath/consumer.c: all that is ready, then sleep. `turns` bounds the loop. */
static void consume(uint32_t thread, uint32_t turns)
{
    uint32_t cursor = 0;
    while (turns-- > 0) {
        if (!ready_is_empty(s, 1)) {
            consume_one(thread, &cursor);
            continue;
        }
        bell_announce(s, WORKER_CONSUMER);
        if (!ready_is_empty(s, 1)) {
            bell_cancel(s, WORKER_CONSUMER);
            continue;
        }
        bell_wait(s, WORKER_CONSUMER, 1000000000);
    }
    logs[thread].node[LOG - 1] = 1; /* awake when its turns were over: another turn would go on */
}

static void consumer_1(void) { consume(1, 3); }
static void consumer_2(void) { consume(2, 3); }

static void wakes_end(unsigned waiting)
{
    (void)waiting;
    if (s->tokens[0] == TOKEN_IDLE && !queue_is_empty(s, 0))
        fail("packets wait, the token is idle");
    if (s->tokens[0] == TOKEN_QUEUED && !ready_is_set(s, 1, 0))
        fail("the token is queued, the taker does not find the bit");
    if (waiting && !ready_is_empty(s, 1))
        fail("the consumer sleeps, its set is not empty");
    if (waiting && !queue_is_empty(s, 0))
        fail("the consumer sleeps, packets wait");
}

/* Only the last look of a holder against a producer's look at the token. */
static void prepare_held(void)
{
    lay_out_queue();
    s->tokens[0] = TOKEN_HELD | 1;
}

static void give_1(void)
{
    drain(1, 1);
    queue_give(s, 0, 0);
}

static void order_0(void)
{
    s->rows[0].installing = 5;
    orders_give(s, 0, 1);
    peer_schedule(s, 0);
    if ((uint32_t)orders_read(s, 0) == 0)
        s->rows[0].installing = 6; /* applied: control uses the word again */
}

static void give_orders_1(void)
{
    uint64_t word = orders_read(s, 0);
    if ((uint32_t)word != 0) {
        if (s->rows[0].installing != 5)
            fail("an order whose meaning is not there");
        orders_clear(s, 0, word, ORDERS_INBOUND);
    }
    queue_give(s, 0, 0);
}

static void orders_end(unsigned waiting)
{
    (void)waiting;
    if ((uint32_t)s->rows[0].orders != 0 && s->tokens[0] == TOKEN_IDLE)
        fail("an order waits, the token is idle");
}

/* --- the two directions of a peer; outbound's queue has a packet that no session can send yet --- */

#define IN (2 * 0 + INBOUND)
#define OUT (2 * 0 + OUTBOUND)

static void prepare_directions(void)
{
    lay_out(1);
    s->tokens[token_place(IN)] = TOKEN_HELD | worker_mark(WORKER_CONSUMER, 1);
    s->tokens[token_place(OUT)] = TOKEN_HELD | worker_mark(WORKER_RECEIVER, 1);
    s->workers[WORKER_CONSUMER].peer_in_hand = 1;
}

/* As workers/datapath/holder_orders.c: inbound's orders, then outbound is asked to look at what was changed. */
static void inbound_turn(void)
{
    uint64_t word;
    uint32_t bits, applied = 0;
    while ((bits = (uint32_t)(word = orders_read(s, 0)) & ORDERS_INBOUND)) {
        __atomic_store_n(&s->rows[0].key_word, 5, __ATOMIC_RELEASE);
        applied |= bits;
        if (orders_clear(s, 0, word, bits))
            break;
    }
    if (applied)
        orders_give(s, 0, ORDER_LOOK);
    s->rows[0].rx_bytes++; /* inbound's alone */
    queue_give(s, IN, 0);
}

/* As turn.c: nothing is done while inbound has orders, and without a session what waits is staged. */
static void outbound_turn(void)
{
    uint64_t word;
    uint32_t bits;
    do {
        word = orders_read(s, 0);
        bits = (uint32_t)word & ORDERS_OUTBOUND;
        if ((uint32_t)word & ORDERS_INBOUND) {
            queue_give(s, OUT, 1);
            return;
        }
    } while (bits && !orders_clear(s, 0, word, bits));
    int usable = __atomic_load_n(&s->rows[0].key_word, __ATOMIC_ACQUIRE) != 0;
    s->rows[0].tx_bytes = (uint64_t)usable; /* outbound's alone */
    queue_give(s, OUT, !usable);
}

/* As turn.c, which takes three at the most: the other direction's orders where nobody holds it. */
static void take_turns(uint32_t queue, uint32_t worker, uint32_t most)
{
    uint32_t mark = worker_mark(worker, 1);
    for (uint32_t turns = 1;; turns++) {
        if (queue == IN)
            inbound_turn();
        else
            outbound_turn();
        queue = IN + OUT - queue;
        if (!queue_has_orders(s, queue))
            return;
        if (turns == most || !(token_take_idle(s, queue, mark) || token_take(s, queue, mark))) {
            peer_schedule(s, 0);
            return;
        }
    }
}

static void inbound_turns_0(void) { take_turns(IN, WORKER_CONSUMER, 3); }
static void outbound_turns_1(void) { take_turns(OUT, WORKER_RECEIVER, 3); }
static void inbound_turn_0(void) { take_turns(IN, WORKER_CONSUMER, 1); }
static void outbound_turn_1(void) { take_turns(OUT, WORKER_RECEIVER, 1); }

static void order_both_2(void)
{
    orders_give(s, 0, ORDER_INSTALL | ORDER_KEEPALIVE);
    peer_schedule(s, 0);
}

static void directions_end(unsigned waiting)
{
    uint32_t bits = (uint32_t)s->rows[0].orders, in = s->tokens[token_place(IN)], out = s->tokens[token_place(OUT)];
    (void)waiting;
    if (bits & ORDERS_INBOUND && in == TOKEN_IDLE)
        fail("an order of inbound's waits, its token is idle");
    if (bits & ORDERS_OUTBOUND && !(bits & ORDERS_INBOUND) && out == TOKEN_IDLE)
        fail("an order of outbound's waits, its token is idle");
    if (s->rows[0].key_word != 0 && in == TOKEN_IDLE && !s->rows[0].tx_bytes && out == TOKEN_IDLE)
        fail("outbound has not seen the session, and has no turn to come");
}

static void prepare_ordered(void)
{
    prepare_directions();
    orders_give(s, 0, ORDER_INSTALL);
}

/* RETIRE: inbound first. */
static void inbound_retires_0(void)
{
    uint32_t mark = worker_mark(WORKER_CONSUMER, 1);
    token_give_dead(s, IN);
    if (!queue_has_orders(s, OUT))
        return;
    if (token_take_idle(s, OUT, mark) || token_take(s, OUT, mark))
        token_give_dead(s, OUT);
    else
        peer_schedule(s, 0);
}

/* As where another worker holds outbound. */
static void inbound_leaves_0(void)
{
    token_give_dead(s, IN);
    peer_schedule(s, 0);
}

static void outbound_retires_1(void)
{
    if (token_read(s, IN) == TOKEN_DEAD)
        token_give_dead(s, OUT);
    else
        queue_give(s, OUT, 1);
}

static void prepare_retiring(void)
{
    prepare_directions();
    orders_give(s, 0, ORDER_RETIRE);
}

static void retired_end(unsigned waiting)
{
    (void)waiting;
    if (s->tokens[token_place(IN)] == TOKEN_DEAD && s->tokens[token_place(OUT)] == TOKEN_IDLE)
        fail("inbound has retired, and outbound has no turn to come");
}

/* Of repair what it does for the row that the dead noted in hand. */
static void mend_inbound_2(void)
{
    if (join(0))
        peer_mend(s, 0);
}

static void repair_inbound_2(void)
{
    struct repair repair;
    if (join(0))
        repair_worker(s, WORKER_CONSUMER, &repair);
}

/* Only the bell. */
static void ring_0(void)
{
    s->rows[0].installing = 5;
    ready_set(s, 1, 0);
    bell_ring(s, WORKER_CONSUMER, -1);
}

static void sleep_1(void)
{
    uint32_t cursor = 0;
    bell_announce(s, WORKER_CONSUMER);
    if (ready_is_empty(s, 1)) {
        if (!bell_wait(s, WORKER_CONSUMER, 1000000000))
            return;
        if (ready_take(s, 1, &cursor) != 0)
            fail("rung, and what was published before is not there");
    } else {
        bell_cancel(s, WORKER_CONSUMER);
        if (ready_take(s, 1, &cursor) != 0)
            return; /* between its summary bits */
    }
    if (s->rows[0].installing != 5)
        fail("ready, and what the row has to say is not there");
}

static void bell_end(unsigned waiting)
{
    if (waiting)
        fail("the sleeper sleeps, it was to be rung");
}

/* The bell as those use it who publish with relaxed stores: the ring alone hands over. */
static void ring_plain_0(void)
{
    s->rows[0].installing = 5;
    __atomic_store_n(&s->rows[0].orders, 1, __ATOMIC_RELAXED);
    bell_ring(s, WORKER_CONSUMER, -1);
}

static void sleep_plain_1(void)
{
    bell_announce(s, WORKER_CONSUMER);
    if (__atomic_load_n(&s->rows[0].orders, __ATOMIC_RELAXED) == 0 && bell_wait(s, WORKER_CONSUMER, 1000000000) &&
        s->rows[0].installing != 5)
        fail("rung, and what was published before is not there");
}

/* --- slots --- */

/* The bell of receiver 0 is eventfd 0, of receiver 1 eventfd 1. */
static void ring_receivers(void)
{
    bell_ring_starving(s, bells);
}

static void bring_home_0(void)
{
    s->node[1].length = 0; /* the holder's last write */
    node_bring_home(s, 1);
    ring_receivers();
}

static void prepare_starving(void)
{
    lay_out_queue();
    uint32_t node = node_new(0);
    s->states[node] = NODE_IN_HAND | 7;
    pools[0].free_nodes = 0;
}

static void starve_1(void)
{
    bell_starve(s, WORKER_RECEIVER, 1);
    if (pool_sweep(&pools[0]) == 0) {
        eventfd_wait(0);
        if (pool_sweep(&pools[0]) == 0)
            fail("rung for slots, and none came home");
    }
    s->node[1].length = 1;
}

static void starve_end(unsigned waiting)
{
    if (waiting)
        fail("the receiver starves, its slot is home");
}

/* A bit is left of an announcement that is over: another holder takes it while the receiver announces again. */
static void prepare_stale(void)
{
    prepare_starving();
    s->starving->receivers = 1;
}
static void ring_alone_2(void) { ring_receivers(); }

/* --- ready --- */

/* Never the first word: there the taker that looks afterwards needs no summary. */
static void prepare_rows(void) { lay_out(64); }
static void prepare_one_set(void)
{
    lay_out(64);
    ready_set(s, 1, 0);
}
static void prepare_second(void)
{
    lay_out(64);
    ready_set(s, 1, 64);
}
static void prepare_wide(void)
{
    lay_out(4096);
    ready_set(s, 1, 8128);
}

static void set_low_0(void) { ready_set(s, 1, 0); }
static void set_high_0(void) { ready_set(s, 1, 127); }
static void set_low_1(void) { ready_set(s, 1, 1); }
static void set_far_0(void) { ready_set(s, 1, 8191); }

static void taker(uint32_t thread)
{
    uint32_t cursor = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t row = ready_take(s, 1, &cursor);
        if (row != NONE)
            take(thread, row);
    }
}
static void taker_1(void) { taker(1); }
static void taker_2(void) { taker(2); }

static void found(uint32_t row)
{
    uint32_t cursor = 0, taken;
    for (uint32_t thread = 0; thread < THREADS; thread++)
        for (uint32_t i = 0; i < logs[thread].count; i++)
            if (logs[thread].node[i] == row)
                return;
    while ((taken = ready_take(s, 1, &cursor)) != NONE) {
        take(0, taken);
        if (taken == row)
            return;
    }
    fail("row %u is set, and the taker does not find it", row);
}

static void high_end(unsigned waiting)
{
    (void)waiting;
    found(64);
    found(127);
}
static void low_low_end(unsigned waiting)
{
    (void)waiting;
    found(0);
    found(1);
}
static void far_end(unsigned waiting)
{
    (void)waiting;
    found(8128);
    found(8191);
}

/* What the row has to say, and says again after it was taken. */
static void say_0(void)
{
    s->rows[0].installing = 5;
    ready_set(s, 1, 0);
}
static void hear_1(void)
{
    uint32_t cursor = 0;
    if (ready_take(s, 1, &cursor) == 0 && s->rows[0].installing != 5)
        fail("ready, and what the row has to say is not there");
}

/* The bit was set before: the taker that clears it hears this setter too, or finds it again. */
static void say_again_0(void)
{
    __atomic_store_n(&s->rows[0].installing, 5, __ATOMIC_RELAXED);
    ready_set(s, 1, 0);
}
static void hear_all_1(void)
{
    uint32_t cursor = 0;
    for (int i = 0; i < 2; i++)
        if (ready_take(s, 1, &cursor) == 0)
            logs[1].node[0] |= __atomic_load_n(&s->rows[0].installing, __ATOMIC_RELAXED);
}
static void heard_end(unsigned waiting)
{
    (void)waiting;
    uint32_t cursor = 0;
    if (!logs[1].node[0] && ready_take(s, 1, &cursor) != 0)
        fail("the bit was cleared, and what its setter had to say was not heard");
}

/* --- epochs --- */

static void prepare_trie(void)
{
    lay_out(1);
    s->rows[0].installing = 5; /* stands for what the root leads to */
    s->device->trie_root4 = 1;
}

static void look(void)
{
    if (__atomic_load_n(&s->device->trie_root4, __ATOMIC_ACQUIRE) != 0 && s->rows[0].installing != 5)
        fail("a reader found what was used again");
}

static void reader_turns_0(void)
{
    epoch_wake(s, WORKER_CONSUMER);
    look();
    epoch_turn(s, WORKER_CONSUMER, 1);
    look();
    epoch_sleep(s, WORKER_CONSUMER);
}

static void reader_sleeps_0(void)
{
    epoch_wake(s, WORKER_CONSUMER);
    look();
    epoch_sleep(s, WORKER_CONSUMER);
    epoch_wake(s, WORKER_CONSUMER);
    look();
}

static void control_frees_1(void)
{
    uint64_t words[MAX_WORKERS];
    __atomic_store_n(&s->device->trie_root4, 0, __ATOMIC_RELEASE);
    grace_begin(s, words);
    if (grace_is_over(s, words) || grace_is_over(s, words))
        s->rows[0].installing = 6;
}

/* A reader that dies: its repair says that it holds nothing. */
static void reader_dies_0(void)
{
    epoch_wake(s, WORKER_CONSUMER);
    look();
    epoch_sleep(s, WORKER_CONSUMER);
}

static void control_frees_2(void) { control_frees_1(); }

static void repair_reader_1(void)
{
    struct repair repair;
    if (join(0))
        repair_worker(s, WORKER_CONSUMER, &repair);
}

/* --- mailbox --- */

static void put(uint16_t port)
{
    struct endpoint from = { .family = 2, .port = port };
    uint8_t message[8] = { (uint8_t)port };
    if (mailbox_put(s, 0, &from, message, sizeof message) == 0)
        take(0, port);
}

static void put_two_0(void)
{
    put(1);
    put(2);
    put(3);
}

static void read_two_1(void)
{
    struct mailbox_cell cell[1];
    for (int i = 0; i < 2; i++)
        if (mailbox_take(s, cell, 1) == 1) {
            if (cell->from.port != cell->message[0])
                fail("half a message");
            take(1, cell->from.port);
        }
}

static void mailbox_end(unsigned waiting)
{
    (void)waiting;
    struct mailbox_cell cell[1];
    while (mailbox_take(s, cell, 1) == 1)
        take(1, cell->from.port);
    if (logs[0].count != logs[1].count)
        fail("%u messages were put, %u were read", logs[0].count, logs[1].count);
    for (uint32_t i = 0; i < logs[0].count; i++)
        if (logs[0].node[i] != logs[1].node[i])
            fail("messages in another order");
}

/* --- a row's endpoint in two copies --- */

static void endpoint_give(uint16_t port)
{
    struct endpoint endpoint = { .family = port, .source_ifindex = port };
    endpoint_store(s, 0, &endpoint);
}
static void endpoint_twice_0(void)
{
    endpoint_give(1);
    endpoint_give(2);
}
static void endpoint_read_1(void)
{
    struct endpoint endpoint;
    endpoint_load(s, 0, &endpoint);
    if (endpoint.family != endpoint.source_ifindex)
        fail("half of one endpoint and half of another: %u, %u", endpoint.family, endpoint.source_ifindex);
}

/* --- a producer that dies --- */

static void repair_2(void)
{
    struct repair repair;
    if (join(0))
        repair_worker(s, WORKER_RECEIVER, &repair);
}

static void repair_1(void)
{
    struct repair repair;
    if (join(0))
        repair_worker(s, WORKER_RECEIVER, &repair);
}

static void hold_scheduled_1(void)
{
    uint32_t cursor = 0;
    consume_one(1, &cursor);
}

/* Once or never; home in the end. */
static void died_end(unsigned waiting)
{
    (void)waiting;
    for (uint32_t round = 0; round < 4; round++)
        drain(3, 99);
    uint32_t times = 0;
    for (uint32_t thread = 0; thread < THREADS; thread++)
        for (uint32_t i = 0; i < logs[thread].count; i++)
            times += logs[thread].node[i] == 1;
    if (times > 1)
        fail("a packet was taken %u times", times);
    if (s->states[1] != NODE_FREE)
        fail("the node is not home but %x", s->states[1]);
}

/* A holder that dies with the token. */
static void hold_and_give_0(void)
{
    if (token_take(s, 0, worker_mark(WORKER_CONSUMER, 1))) {
        drain(0, worker_mark(WORKER_CONSUMER, 1));
        queue_give(s, 0, 0);
    }
}
static void repair_holder_2(void)
{
    struct repair repair;
    if (join(0))
        repair_worker(s, WORKER_CONSUMER, &repair);
}
static void prepare_queued(void)
{
    lay_out_queue();
    s->tokens[0] = TOKEN_QUEUED;
    ready_set(s, 1, 0);
    push(0, 1);
}

/* --- a lender and a helper: what a part and its place in the room say is plain memory --- */

static void lay_out_parts(void)
{
    lay_out(1);
    s->lending = shared_new(sizeof *s->lending);
    s->parts = shared_new(PARTS * sizeof *s->parts);
    s->part_rooms = shared_new(8);
    s->workers[WORKER_RECEIVER].lends = 1;
}

static struct part *part(void)
{
    return part_of(s, WORKER_RECEIVER, 0);
}

static void write_and_offer(uint32_t count)
{
    part()->count = count;
    *part_room(s, WORKER_RECEIVER) = (uint8_t)count;
    part_offer(s, WORKER_RECEIVER, 0);
    parts_say_offering(s, WORKER_RECEIVER, 1);
}

/* Adds one to what the part says stands there: done twice is as wrong as not at all. */
static void do_part(void)
{
    if (*part_room(s, WORKER_RECEIVER) != part()->count)
        fail("the room has %u where the part says %u", *part_room(s, WORKER_RECEIVER), part()->count);
    *part_room(s, WORKER_RECEIVER) += 1;
}

/* Takes it back or waits for it, unless `waits` is 0. */
static void collect(uint32_t count, int waits)
{
    uint32_t state = PART_TAKEN;
    if (part_take_back(s, WORKER_RECEIVER, 0)) {
        do_part();
        state = PART_DONE;
    } else {
        while (waits && (state = part_read(s, WORKER_RECEIVER, 0)) == PART_TAKEN)
            ;
    }
    if (state == PART_DONE && *part_room(s, WORKER_RECEIVER) != count + 1)
        fail("a part that is done was not done once: %u", *part_room(s, WORKER_RECEIVER));
    parts_say_offering(s, WORKER_RECEIVER, 0);
}

static void lend_0(void)
{
    write_and_offer(1);
    collect(1, 1);
}
/* The second time the lender has not waited the first time: only if the part is free it writes there again. */
static void lend_twice_0(void)
{
    write_and_offer(1);
    collect(1, 0);
    if (!parts_are_free(s, WORKER_RECEIVER))
        return;
    write_and_offer(5);
    collect(5, 1);
}
static void help(uint32_t mark)
{
    uint32_t lender, number;
    if (!part_take(s, mark, &lender, &number))
        return;
    do_part();
    part_done(s, lender, number);
}
static void help_1(void)
{
    help(worker_mark(WORKER_CONSUMER, 1));
}
static void help_2(void)
{
    help(worker_mark(WORKER_RECEIVER + 1, 1));
}
static void mend_helper_2(void)
{
    if (join(1))
        parts_mend(s, WORKER_CONSUMER, worker_mark(WORKER_CONSUMER, 1));
}
/* Repair of the lender, then its next life. */
static void lend_again_2(void)
{
    if (!join(0))
        return;
    parts_mend(s, WORKER_RECEIVER, worker_mark(WORKER_RECEIVER, 1));
    if (!parts_are_free(s, WORKER_RECEIVER))
        return;
    write_and_offer(9);
    collect(9, 1);
}
/* A lender that waits for one that died, and uses the room again. */
static void lend_to_mortal_0(void)
{
    write_and_offer(1);
    collect(1, 1);
    if (!parts_are_free(s, WORKER_RECEIVER))
        fail("a part that was done or lost is not free");
    part()->count = 7;
    *part_room(s, WORKER_RECEIVER) = 7;
}
static void lent_end(unsigned waiting)
{
    if (waiting)
        fail("a lender waits for ever");
}

/* clang-format off */
const struct scenario scenarios[] = {
    {"pop", "a producer pushes two chains, a holder pops", 0, lay_out_queue, {push_then_push_0, holder_of_one}, 0, one_producer_end},
    {"push", "two producers push one each", 0, lay_out_queue, {push_one_0, push_one_1}, 0, two_producers_end},
    {"again", "a producer's node comes home and is pushed again", 0, lay_out_queue, {push_again_alone_0, holder_of_one}, 0, again_alone_end},
    {"recycle", "the same beside another producer", 1, lay_out_queue, {push_again_0, push_one_1, holder_alone}, 0, again_end},
    {"both", "two producers and a holder", 1, lay_out_queue, {push_one_0, push_one_1, holder_alone}, 0, two_producers_end},
    {"chain", "a chain of two, another producer, a holder", 1, lay_out_queue, {push_two_0, push_one_1, holder_alone}, 0, chain_end},
    {"token", "taken, taken idle and scheduled by three", 0, lay_out_queue, {schedule_push_0, hold_1, inline_2}, 0, tokens_end},
    {"hands", "one schedules what another gave, a third takes", 0, prepare_one, {schedule_twice_0, hold_1, inline_2}, 0, nothing_end},
    {"give", "a holder's last look, a producer's look at the token", 0, prepare_held, {push_and_schedule_0, give_1}, 0, wakes_end},
    {"order", "a holder's last look, an order", 0, prepare_held, {order_0, give_orders_1}, 0, orders_end},
    {"session", "inbound installs a session while outbound stages", 0, prepare_ordered, {inbound_turns_0, outbound_turns_1}, 0, directions_end},
    {"both ways", "an order for both directions, both at the end of a turn", 1, prepare_directions, {inbound_turn_0, outbound_turn_1, order_both_2}, 0, directions_end},
    {"retire", "inbound retires while outbound ends a turn", 0, prepare_retiring, {inbound_retires_0, outbound_retires_1}, 0, retired_end},
    {"retired", "the same, inbound leaves outbound alone, may die anywhere, and the row is mended", 0, prepare_retiring, {inbound_leaves_0, outbound_retires_1, mend_inbound_2}, 1, retired_end},
    {"retires", "inbound takes outbound along, may die anywhere and is repaired", 1, prepare_retiring, {inbound_retires_0, outbound_retires_1, repair_inbound_2}, 1, retired_end},
    {"installed", "inbound may die anywhere as it installs, and is repaired", 1, prepare_ordered, {inbound_turns_0, outbound_turns_1, repair_inbound_2}, 1, directions_end},
    {"bell", "a ringer and a sleeper", 0, prepare_one, {ring_0, sleep_1}, 0, bell_end},
    {"ring", "a ringer hands over what it published", 0, prepare_one, {ring_plain_0, sleep_plain_1}, 0, bell_end},
    {"wake", "from a push to a sleeping consumer", 0, lay_out_queue, {push_and_schedule_0, consumer_1}, 0, wakes_end},
    {"wakes", "two producers, a sleeping consumer", 1, lay_out_queue, {push_and_schedule_0, push_and_schedule_1, consumer_2}, 0, wakes_end},
    {"starve", "a receiver waits for slots, a holder brings one home", 0, prepare_starving, {bring_home_0, starve_1}, 0, starve_end},
    {"stale", "the same, and another holder takes a bit that was left", 1, prepare_stale, {bring_home_0, starve_1, ring_alone_2}, 0, starve_end},
    {"rows", "a row is set while its word's summary is cleared", 0, prepare_second, {set_high_0, taker_1}, 0, high_end},
    {"far", "a row is set while its half's summary is cleared", 0, prepare_wide, {set_far_0, taker_1}, 0, far_end},
    {"set", "two set, one takes", 1, prepare_rows, {set_low_0, set_low_1, taker_2}, 0, low_low_end},
    {"say", "what a row has to say", 0, prepare_one, {say_0, hear_1}, 0, nothing_end},
    {"heard", "a row whose bit is set has more to say", 0, prepare_one_set, {say_again_0, hear_all_1}, 0, heard_end},
    {"turn", "a reader turns while control uses again", 0, prepare_trie, {reader_turns_0, control_frees_1}, 0, nothing_end},
    {"sleep", "a reader sleeps and wakes while control uses again", 0, prepare_trie, {reader_sleeps_0, control_frees_1}, 0, nothing_end},
    {"reaped", "a reader dies and is repaired while control uses again", 0, prepare_trie, {reader_dies_0, repair_reader_1, control_frees_2}, 1, nothing_end},
    {"mailbox", "a ring of one cell, put and read in turns", 0, prepare_one, {put_two_0, read_two_1}, 0, mailbox_end},
    {"endpoint", "an endpoint changes twice under a reader", 0, prepare_one, {endpoint_twice_0, endpoint_read_1}, 0, nothing_end},
    {"part", "a part is taken back or done by one of two helpers", 0, lay_out_parts, {lend_0, help_1, help_2}, 0, lent_end},
    {"parts", "a lender that did not wait lends again where it may", 0, lay_out_parts, {lend_twice_0, help_1}, 0, lent_end},
    {"helper", "a helper dies anywhere and is repaired, its lender writes there again", 0, lay_out_parts, {lend_to_mortal_0, help_1, mend_helper_2}, 2, lent_end},
    {"lender", "a lender dies anywhere, is repaired, and its next life lends", 0, lay_out_parts, {lend_0, help_1, lend_again_2}, 1, lent_end},
    {"died", "a producer dies anywhere, is repaired, a holder goes on", 1, lay_out_queue, {push_and_schedule_0, hold_scheduled_1, repair_2}, 1, died_end},
    {"holder", "a holder dies anywhere and is repaired", 0, prepare_queued, {hold_and_give_0, repair_holder_2}, 1, died_end},
    {"heirs", "a holder dies anywhere, is repaired, a producer goes on", 1, prepare_queued, {hold_and_give_0, push_one_1, repair_holder_2}, 1, died_end},
    {"alone", "a producer dies anywhere and is repaired", 0, lay_out_queue, {push_and_schedule_0, repair_1}, 1, died_end},
    {0},
};
/* clang-format on */
