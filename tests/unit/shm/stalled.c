/* stalled: a process that stops after any instruction, lives, and goes on much later.
 *
 * A receiver stalled in a push: meanwhile the others push, drain and reuse the very same nodes several
 * times over, so that every word it has read is stale and every node that it knows has been somewhere
 * else. Nobody may have to wait for it, and when it goes on, its chain must come out once, whole, in
 * order. This is what the generations in the tagged words are for.
 *
 * Likewise the pairs that must not miss each other: holder and publisher, taker and setter of ready
 * bits, sleeper and ringer, giver and taker of orders, reader and writer of endpoints, two who want the
 * same token or the same part of a batch.
 *
 * The victim runs under the processor's trap flag. After each instruction the handler forks: the copy, whose
 * memory is all its own, lets the others act, goes on without the flag and checks the outcome.
 *
 * usage: stalled        exit 77 on other processors than x86-64
 */
#include <unistd.h>

#include "processes.h"
#include "shm/parts.h"
#include "steps.h"

#define ROUNDS 4

static void drain_all(void)
{
    while (consumer_turn(LIVE_CONSUMER, 1, 3))
        ;
}

static uint32_t live_pushed; /* packets 33.. */

static void others_recycle(void)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t count = 1 + round % 3;
        while (pool_sweep(&other) != 0) /* the same nodes again, the last home first */
            ;
        CHECK(chain_push(&other, LIVE_RECEIVER, 33 + live_pushed, count) == 0, "%s, step %u: refused", scenario,
              step);
        live_pushed += count;
        drain_all();
    }
}

/* At the end they have all of their nodes in preparation: private, and with no next yet. */
static uint32_t prepared[PACKETS], preparations;

static void others_recycle_and_prepare(void)
{
    uint32_t slot;
    others_recycle();
    while (pool_sweep(&other) != 0)
        ;
    for (preparations = 0; (slot = pool_take_small(&other)) != 0xffffffff; preparations++) {
        prepared[preparations] = pool_issue(&other, slot, ROW);
        segment.node[prepared[preparations]].length = 33 + live_pushed++;
        segment.node[prepared[preparations]].packets = 1;
    }
    CHECK(preparations == 12, "%s, step %u: %u nodes", scenario, step, preparations);
}

static void push_outcome(void);

static void prepared_outcome(void)
{
    for (uint32_t i = 0; i < preparations; i++)
        CHECK((uint32_t)segment.node[prepared[i]].next == NODE_NIL, "%s, step %u: somebody wrote into a private node",
              scenario, step);
    for (uint32_t i = 1; i < preparations; i++)
        queue_link(&segment, prepared[i - 1], prepared[i]);
    CHECK(queue_push_mpsc(&segment, LIVE_RECEIVER, QUEUE, prepared[0], prepared[preparations - 1], preparations) == 0,
          "%s, step %u: refused", scenario, step);
    queue_schedule(&segment, QUEUE);
    push_outcome();
}

static void push_outcome(void)
{
    world_check(&segment);
    drain_all();
    everything_is_quiet();
    uint32_t produced = segment.rows[ROW].ends[INBOUND].produced;
    uint32_t own = ledger->delivered - live_pushed, expected = produced - live_pushed;
    CHECK(log_missing(live_pushed) == 0 && own == expected, "%s, step %u: %u of %u packets came", scenario, step, own,
          expected);
    everything_is_home();
}

/* ---- holder and publisher ---- */

static void others_push(void)
{
    CHECK(chain_push(&other, LIVE_RECEIVER, 33 + live_pushed, 2) == 0, "%s, step %u: refused", scenario, step);
    live_pushed += 2;
}

static void before_taken(void)
{
    CHECK(token_take_idle(&segment, QUEUE, mark_of(&segment, DEAD_CONSUMER)), "not idle");
}

static void others_order(void)
{
    orders_give(&segment, ROW, ORDER_EXPIRE);
    peer_schedule(&segment, ROW);
}

static void order_outcome(void)
{
    CHECK(token_read(&segment, QUEUE) == TOKEN_QUEUED && ready_is_set(&segment, 1, QUEUE), "%s, step %u: an order is forgotten",
          scenario, step);
}

static void child_give_staged(void) { queue_give(&segment, QUEUE, 1); }

/* ---- two who want the same token ---- */

static int child_has_it, others_have_it; /* set by both in every copy */

static void child_take_idle(void)
{
    child_has_it = token_take_idle(&segment, QUEUE, mark_of(&segment, DEAD_RECEIVER));
}

static void others_take(void)
{
    queue_schedule(&segment, QUEUE);
    others_have_it = token_take(&segment, QUEUE, mark_of(&segment, LIVE_CONSUMER));
}

static void token_outcome(void)
{
    CHECK(child_has_it + others_have_it == 1, "%s, step %u: %d holders", scenario, step, child_has_it + others_have_it);
}

/* ---- who wants the same part of a batch: two helpers, a helper and the lender ---- */

static int child_has_part, others_have_part; /* set by both in every copy */

static int take_part(uint32_t helper)
{
    uint32_t lender, number;
    return part_take(&segment, mark_of(&segment, helper), &lender, &number);
}
static void before_part(void)
{
    child_has_part = others_have_part = 0;
    segment.workers[LIVE_RECEIVER].lends = 1;
    part_offer(&segment, LIVE_RECEIVER, 0);
    parts_say_offering(&segment, LIVE_RECEIVER, 1);
}
static void child_take_part(void) { child_has_part = take_part(DEAD_CONSUMER); }
static void others_take_part(void) { others_have_part = take_part(LIVE_CONSUMER); }
static void child_take_back(void) { child_has_part = part_take_back(&segment, LIVE_RECEIVER, 0); }
static void others_take_back(void) { others_have_part = part_take_back(&segment, LIVE_RECEIVER, 0); }

static void part_outcome(void)
{
    CHECK(child_has_part + others_have_part == 1, "%s, step %u: a part is had by %d", scenario, step,
          child_has_part + others_have_part);
}

/* ---- taker and setter of ready bits ---- */

static const uint32_t set_rows[] = { 0, 5, 63, 64, 4095, 4096, 8191 };
#define SET_ROWS (sizeof set_rows / sizeof set_rows[0])
static uint8_t row_taken[8192];
static uint32_t set_cursor;

static int set_take(void)
{
    uint32_t row = ready_take(&segment, 0, &set_cursor);
    if (row != 0xffffffff)
        row_taken[row] = 1;
    return row != 0xffffffff;
}

static void before_one_bit(void)
{
    memset(row_taken, 0, sizeof row_taken);
    set_cursor = 0;
    ready_set(&segment, 0, 4095); /* the last of its word: the taker's cursor then stands elsewhere */
}
static void child_take_all(void)
{
    while (set_take())
        ;
}
static void child_set_one(void) { ready_set(&segment, 0, 4032); }
static void others_set(void)
{
    for (size_t i = 0; i < SET_ROWS; i++)
        ready_set(&segment, 0, set_rows[i]);
    memset(row_taken, 0, sizeof row_taken);
}
static void others_take_all(void)
{
    for (int round = 0; round < 3; round++)
        while (set_take())
            ;
}

static void set_outcome(void)
{
    while (set_take())
        ;
    for (size_t i = 0; i < SET_ROWS; i++)
        CHECK(row_taken[set_rows[i]], "%s, step %u: row %u is never found", scenario, step, set_rows[i]);
    CHECK(ready_is_empty(&segment, 0), "%s, step %u: empty, yet it says otherwise", scenario, step);
}

static void one_outcome(void)
{
    while (set_take())
        ;
    CHECK(row_taken[4032], "%s, step %u: the row is never found", scenario, step);
    CHECK(ready_is_empty(&segment, 0), "%s, step %u: empty, yet it says otherwise", scenario, step);
}

/* ---- sleeper and ringer ---- */

static int would_sleep;

static void child_fall_asleep(void)
{
    bell_announce(&segment, LIVE_CONSUMER);
    would_sleep = ready_is_empty(&segment, 2);
    if (!would_sleep)
        bell_cancel(&segment, LIVE_CONSUMER);
}
static void others_ring(void)
{
    ready_set(&segment, 2, 5);
    bell_ring(&segment, LIVE_CONSUMER, -1);
}
static void child_ring(void) { others_ring(); }
static void sleep_outcome(void)
{
    CHECK(!(would_sleep && segment.bells[LIVE_CONSUMER].sleeping == 1 && !ready_is_empty(&segment, 2)),
          "%s, step %u: asleep over work", scenario, step);
}

/* ---- giver and taker of orders; reader and writer of endpoints ---- */

static uint32_t applied;

static void wish(uint32_t value)
{
    __atomic_store_n(&segment.rows[ROW].installing, value, __ATOMIC_RELAXED);
    orders_give(&segment, ROW, ORDER_INSTALL);
}
static void before_wish(void)
{
    applied = 0;
    wish(1);
}
static void child_apply(void)
{
    uint64_t word = orders_read(&segment, ROW);
    applied = __atomic_load_n(&segment.rows[ROW].installing, __ATOMIC_RELAXED);
    orders_clear(&segment, ROW, word, ORDERS_INBOUND);
}
static void others_wish(void) { wish(2); }
static void wish_outcome(void)
{
    CHECK(applied == 2 || (uint32_t)orders_read(&segment, ROW) == ORDER_INSTALL, "%s, step %u: an order is lost",
          scenario, step);
}

static struct endpoint loaded;

static void endpoint_of(struct endpoint *endpoint, uint32_t value)
{
    memset(endpoint, (int)value, sizeof *endpoint);
}
static void endpoint_put(uint32_t value)
{
    struct endpoint endpoint;
    endpoint_of(&endpoint, value);
    endpoint_store(&segment, ROW, &endpoint);
}
static void before_endpoint(void)
{
    endpoint_put(1);
    endpoint_load(&segment, ROW, &loaded);
}
static void child_load(void) { endpoint_load(&segment, ROW, &loaded); }
static void child_store(void) { endpoint_put(2); }
static void others_store(void)
{
    endpoint_put(3);
    endpoint_put(4);
}
static void others_load(void) { endpoint_load(&segment, ROW, &loaded); }
static void endpoint_outcome(void)
{
    struct endpoint whole;
    endpoint_of(&whole, loaded.reserved & 0xff);
    CHECK(loaded.reserved != 0 && memcmp(&whole, &loaded, sizeof whole) == 0, "%s, step %u: parts of two endpoints",
          scenario, step);
}

/* ---- mailbox ---- */

static uint32_t letters_put, letters_got;

static void letter_put(void)
{
    struct endpoint from = { 0 };
    uint8_t message[4] = { 0 };
    message[0] = (uint8_t)(letters_put + 1);
    letters_put += mailbox_put(&segment, 0, &from, message, 4) == 0;
}
static void letter_take(void)
{
    struct mailbox_cell cells[3];
    uint32_t got = mailbox_take(&segment, cells, 3);
    for (uint32_t i = 0; i < got; i++)
        CHECK(cells[i].length == 4 && cells[i].message[0] == ++letters_got, "%s, step %u: letter %u out of turn",
              scenario, step, cells[i].message[0]);
}
static void before_letters(void)
{
    letters_put = letters_got = 0;
    letter_put();
    letter_put();
    letter_put();
}
static void letters_outcome(void)
{
    while (mailbox_waiting(&segment))
        letter_take();
    CHECK(letters_got == letters_put, "%s, step %u: %u letters of %u", scenario, step, letters_got, letters_put);
}
static void others_take_letters(void)
{
    letter_take();
    letter_take(); /* also one that is only half there */
}
static void others_letters(void)
{
    letter_put(); /* four fill the ring */
    letter_put();
}

static const struct scenario {
    const char *name;
    void (*before)(void);
    void (*child)(void);
    void (*others)(void);
    void (*outcome)(void);
} scenarios[] = {
    { "push one, empty", before_empty, child_push_one, others_recycle, push_outcome },
    { "push chain, behind three", before_three, child_push_chain, others_recycle, push_outcome },
    { "push chain, end lags", before_lagging, child_push_chain, others_recycle, push_outcome },
    { "push chain, no stub", before_no_stub, child_push_chain, others_recycle, push_outcome },
    { "push chain, stub inside", before_stub_inside, child_push_chain, others_recycle, push_outcome },
    { "push twice, empty", before_empty, child_push_twice, others_recycle, push_outcome },
    { "push chain, others prepare", before_no_stub, child_push_chain, others_recycle_and_prepare, prepared_outcome },
    { "push chain, end lags, others prepare", before_lagging, child_push_chain, others_recycle_and_prepare,
      prepared_outcome },
    { "consume, push meanwhile", before_three, child_consume, others_push, push_outcome },
    { "consume by two, push meanwhile", before_stub_inside, child_consume_by_two, others_push, push_outcome },
    { "inline, push meanwhile", before_empty, child_inline, others_push, push_outcome },
    { "give, order meanwhile", before_taken, child_give, others_order, order_outcome },
    { "give staged, order meanwhile", before_taken, child_give_staged, others_order, order_outcome },
    { "take, taken meanwhile", before_empty, child_take_idle, others_take, token_outcome },
    { "part: take, taken meanwhile", before_part, child_take_part, others_take_part, part_outcome },
    { "part: take, taken back meanwhile", before_part, child_take_part, others_take_back, part_outcome },
    { "part: take back, taken meanwhile", before_part, child_take_back, others_take_part, part_outcome },
    { "ready: take, set meanwhile", before_one_bit, child_take_all, others_set, set_outcome },
    { "ready: set, take meanwhile", before_one_bit, child_set_one, others_take_all, one_outcome },
    { "bell: sleep, ring meanwhile", before_empty, child_fall_asleep, others_ring, sleep_outcome },
    { "bell: ring, sleep meanwhile", before_empty, child_ring, child_fall_asleep, sleep_outcome },
    { "orders: apply, give meanwhile", before_wish, child_apply, others_wish, wish_outcome },
    { "orders: give, apply meanwhile", before_wish, others_wish, child_apply, wish_outcome },
    { "endpoint: load, store meanwhile", before_endpoint, child_load, others_store, endpoint_outcome },
    { "endpoint: store, load meanwhile", before_endpoint, child_store, others_load, endpoint_outcome },
    { "mailbox: put, take meanwhile", before_letters, letter_put, others_take_letters, letters_outcome },
    { "mailbox: take, put meanwhile", before_letters, letter_take, others_letters, letters_outcome },
};

#if defined(__x86_64__)
static uint32_t scenario_run(const struct scenario *run)
{
    scenario = run->name;
    world_begin(MAP_PRIVATE, 8192);
    run->before();
    live_pushed = segment.rows[ROW].ends[INBOUND].produced;
    step_through(run->child, run->others);
    if (is_copy) {
        run->outcome();
        _exit(0);
    }
    world_end();
    return step;
}

int main(void)
{
    uint32_t stalls = 0;
    ledger = calloc(1, sizeof *ledger);
    CHECK(ledger, "no memory");
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        uint32_t steps = scenario_run(&scenarios[i]);
        CHECK(steps > 20, "%s: only %u steps", scenario, steps);
        stalls += steps;
    }
    printf("%u stalls in %zu scenarios: nobody waited, nothing lost, nothing twice\n", stalls,
           sizeof scenarios / sizeof scenarios[0]);
    return 0;
}
#else
int main(void)
{
    return 77;
}
#endif
