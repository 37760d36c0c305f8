/* soak: one worker process over a segment that others share; test_kill.py starts and kills many.
 *
 * usage: soak SEGMENT_FD BYTES LEDGER_FD receiver|consumer NUMBER
 *
 * The ledger is what the promise is checked against. A receiver takes the numbers of its next packets
 * out of it before it pushes them, so no number is ever used twice; holders (consumers, and
 * receivers that take an idle peer) demand that numbers of a receiver only rise per peer.
 */
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "world.h"

#define RECEIVERS 2
#define CONSUMERS 2
#define PEERS 4
#define CHAIN 32
#define BUDGET 64

/* Mirrored in test_kill.py. Each word has one writer at a time: a receiver or a peer's holder. */
struct ledger {
    uint64_t phase; /* 0 run, 1 receivers stop, 2 consumers stop too */
    uint64_t drawn[RECEIVERS][PEERS];
    uint64_t refused[RECEIVERS][PEERS];
    uint64_t last[PEERS][RECEIVERS];
    uint64_t delivered[PEERS][RECEIVERS];
    uint64_t faults;
    char text[128];
};

static struct segment segment;
static struct ledger *ledger;
static uint32_t worker, mark;

static uint32_t draw(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)(*random >> 32);
}

static uint64_t phase(void)
{
    return __atomic_load_n(&ledger->phase, __ATOMIC_ACQUIRE);
}

static void packet_deliver(uint32_t row, uint32_t number)
{
    const struct node *node = &segment.node[number];
    uint64_t contents;
    memcpy(&contents, segment.base + node->offset, sizeof contents);
    uint32_t receiver = node->length % RECEIVERS;
    uint64_t *last = &ledger->last[row][receiver], packet = contents & 0xffffffffffffff;
    if (node->peer != row || contents >> 56 != receiver || packet <= *last) {
        snprintf(ledger->text, sizeof ledger->text, "peer %u (node says %u), receiver %u: %llu after %llu", row,
                 node->peer, receiver, (unsigned long long)contents, (unsigned long long)*last);
        __atomic_fetch_add(&ledger->faults, 1, __ATOMIC_RELEASE);
    }
    *last = packet;
    ledger->delivered[row][receiver]++;
}

static void hold(uint32_t row)
{
    uint32_t numbers[BUDGET];
    uint32_t taken = queue_pop_sc(&segment, mark, 2 * row, numbers, BUDGET, BUDGET);
    for (uint32_t i = 0; i < taken; i++)
        packet_deliver(row, numbers[i]);
    for (uint32_t i = 0; i < taken; i++)
        node_bring_home(&segment, numbers[i]);
    if (taken == BUDGET)
        queue_give_back(&segment, 2 * row);
    else
        queue_give(&segment, 2 * row, 0);
}

static void in_hand(uint32_t row_and_one)
{
    __atomic_store_n(&segment.workers[worker].peer_in_hand, row_and_one, __ATOMIC_RELEASE);
}

static void burst(struct pool *pool, uint32_t receiver, uint32_t row, uint32_t length)
{
    uint32_t nodes[CHAIN], slots[CHAIN], count = 0;
    while (count < length && (slots[count] = pool_take_small(pool)) != 0xffffffff)
        count++;
    if (count == 0)
        return;
    uint64_t packet = ledger->drawn[receiver][row];
    __atomic_store_n(&ledger->drawn[receiver][row], packet + count, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < count; i++) {
        nodes[i] = pool_issue(pool, slots[i], row);
        uint64_t contents = (uint64_t)receiver << 56 | ++packet;
        uint8_t *bytes = pool_slot(pool, slots[i]);
        memcpy(bytes, &contents, sizeof contents);
        struct node *node = &segment.node[nodes[i]];
        node->offset = (uint64_t)((char *)bytes - segment.base);
        node->length = receiver;
        node->packets = 1;
        if (i != 0)
            queue_link(&segment, nodes[i - 1], nodes[i]);
    }
    if (queue_push_mpsc(&segment, worker, 2 * row, nodes[0], nodes[count - 1], count) != 0) {
        for (uint32_t i = 0; i < count; i++)
            pool_withdraw(pool, nodes[i]);
        ledger->refused[receiver][row] += count;
    }
    queue_schedule(&segment, 2 * row);
}

static void receiver_run(uint32_t receiver)
{
    struct pool pool;
    uint64_t random = (uint64_t)getpid() * 2654435761u + 1;
    CHECK(pool_open(&pool, &segment, 2 * receiver) == 0, "no memory");
    while (phase() == 0) {
        uint32_t row = draw(&random) % PEERS;
        burst(&pool, receiver, row, 1 + draw(&random) % CHAIN);
        in_hand(row + 1);
        if (draw(&random) % 4 == 0 && token_take_idle(&segment, 2 * row, mark))
            hold(row);
        in_hand(0);
        pool_sweep(&pool);
        if (pool.free_small == 0)
            sched_yield();
    }
    pool_close(&pool);
}

static void consumer_run(uint32_t consumer)
{
    uint32_t cursor = 0;
    while (phase() < 2) {
        uint32_t queue = ready_take(&segment, 1 + consumer, &cursor);
        if (queue < DIRECTIONS * PEERS) {
            in_hand(queue / DIRECTIONS + 1);
            if (token_take(&segment, queue, mark))
                hold(queue / DIRECTIONS);
            in_hand(0);
            continue;
        }
        bell_announce(&segment, worker);
        if (ready_is_empty(&segment, 1 + consumer) && phase() < 2)
            bell_wait(&segment, worker, 10000000000ull); /* far beyond the test's patience */
        bell_cancel(&segment, worker);
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 6, "usage: soak SEGMENT_FD BYTES LEDGER_FD receiver|consumer NUMBER");
    uint64_t bytes = strtoull(arguments[2], NULL, 10);
    uint32_t number = (uint32_t)atoi(arguments[5]);
    alarm(300);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(arguments[1]), 0);
    CHECK(memory != MAP_FAILED && segment_attach(&segment, memory, bytes) == 0, "not a segment");
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(arguments[3]), 0);
    CHECK(ledger != MAP_FAILED, "no ledger");
    worker = (arguments[4][0] == 'r' ? WORKER_RECEIVER : WORKER_CONSUMER) + number;
    mark = mark_of(&segment, worker);
    if (arguments[4][0] == 'r')
        receiver_run(number);
    else
        consumer_run(number);
    return 0;
}
