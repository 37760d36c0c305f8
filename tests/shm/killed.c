/* killed: a process killed after every single instruction.
 *
 * A child does one thing to the shared segment (pushes a chain, takes and drains a peer, …) while the
 * parent steps it by ptrace. After each instruction the parent takes the child for dead: it lets live
 * processes act first (or not), repairs, and demands that
 *
 *  - every structure is whole (segment_valid),
 *  - what waits is scheduled, without the once-a-second sweep,
 *  - a live consumer then finds all packets, in order, none twice, and none missing but those that
 *    the repair counted as lost, at most what was in the dead one's hand,
 *  - all nodes come home, the restarted receiver finds its whole pool, the counts agree.
 *
 * Then the memory is put back as it was and the child goes one instruction further.
 *
 * usage: killed        exit 77 where the machine does not allow single steps
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "world.h"

#define ROW 3u
#define QUEUE (2 * ROW + INBOUND)
#define DEAD_RECEIVER WORKER_RECEIVER
#define LIVE_RECEIVER (WORKER_RECEIVER + 1)
#define DEAD_CONSUMER WORKER_CONSUMER
#define LIVE_CONSUMER (WORKER_CONSUMER + 1)
#define PACKETS 64

/* What was pushed and delivered, in memory that child and parent share like the segment. Packet
 * numbers: 1.. of the dead receiver, 33.. of the live one. */
struct ledger {
    uint32_t pushed, delivered;
    uint8_t log[4 * PACKETS];
};

static struct segment segment;
static struct ledger *ledger;
static const char *scenario;
static uint32_t step;
static struct pool pool; /* of the child, or of whoever restarts in its place */

static void segment_copy(char *to, const char *from)
{
    memcpy(to, from, segment.bytes);
}

/* One chain of `count` packets numbered from `first`, of receiver 0 or 1. */
static int chain_push(struct pool *from, uint32_t worker, uint32_t first, uint32_t count)
{
    uint32_t nodes[PACKETS];
    for (uint32_t i = 0; i < count; i++) {
        nodes[i] = pool_issue(from, pool_take_small(from), ROW);
        segment.node[nodes[i]].length = first + i;
        segment.node[nodes[i]].packets = 1;
        if (i != 0)
            queue_link(&segment, nodes[i - 1], nodes[i]);
    }
    if (queue_push_mpsc(&segment, worker, QUEUE, nodes[0], nodes[count - 1], count) == 0) {
        peer_schedule(&segment, ROW);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++)
        pool_withdraw(from, nodes[i]);
    peer_schedule(&segment, ROW);
    return -1;
}

static void holder_drain(uint32_t worker, uint32_t batch)
{
    uint32_t numbers[PACKETS], taken;
    while ((taken = queue_pop_sc(&segment, mark_of(&segment, worker), QUEUE, numbers, batch, batch)) != 0) {
        for (uint32_t i = 0; i < taken; i++) { /* written down first: delivered, then home */
            ledger->log[ledger->delivered] = (uint8_t)segment.node[numbers[i]].length;
            __atomic_store_n(&ledger->delivered, ledger->delivered + 1, __ATOMIC_RELEASE);
        }
        for (uint32_t i = 0; i < taken; i++)
            node_bring_home(&segment, numbers[i]);
    }
}

/* What a consumer process does with one peer of its ready set. 1 when there was one. */
static int consumer_turn(uint32_t worker, uint32_t set, uint32_t batch)
{
    uint32_t cursor = 0, row = ready_take(&segment, set, &cursor);
    if (row == 0xffffffff)
        return 0;
    CHECK(row == ROW, "%s, step %u: row %u", scenario, step, row);
    __atomic_store_n(&segment.workers[worker].peer_in_hand, row + 1, __ATOMIC_RELEASE);
    if (token_take(&segment, row, mark_of(&segment, worker))) {
        holder_drain(worker, batch);
        peer_give(&segment, row, 0);
    }
    __atomic_store_n(&segment.workers[worker].peer_in_hand, 0, __ATOMIC_RELEASE);
    return 1;
}

/* ---- what the child may be doing ---- */

static void child_push_one(void) { chain_push(&pool, DEAD_RECEIVER, 1, 1); }
static void child_push_chain(void) { chain_push(&pool, DEAD_RECEIVER, 1, 5); }
static void child_push_twice(void)
{
    chain_push(&pool, DEAD_RECEIVER, 1, 2);
    chain_push(&pool, DEAD_RECEIVER, 3, 2);
}
static void child_consume(void) { consumer_turn(DEAD_CONSUMER, 1, PACKETS); }
static void child_consume_by_two(void) { consumer_turn(DEAD_CONSUMER, 1, 2); }
static void child_lend(void)
{
    __atomic_store_n(&segment.workers[DEAD_RECEIVER].peer_in_hand, ROW + 1, __ATOMIC_RELEASE);
    if (token_take_idle(&segment, ROW, mark_of(&segment, DEAD_RECEIVER))) {
        holder_drain(DEAD_RECEIVER, 3);
        peer_give(&segment, ROW, 0);
    }
}

/* ---- what stands in the queue before ---- */

static struct pool other; /* the live receiver's */

static void before_empty(void) {}
static void before_three(void) { CHECK(chain_push(&other, LIVE_RECEIVER, 33, 3) == 0, "refused"); }

/* The end lags behind a chain, as a producer leaves it that dies between its two steps. */
static void before_lagging(void)
{
    struct queue_producers *ends = &segment.rows[ROW].ends[INBOUND];
    CHECK(chain_push(&other, LIVE_RECEIVER, 33, 1) == 0, "refused");
    uint64_t end = ends->end;
    CHECK(chain_push(&other, LIVE_RECEIVER, 34, 4) == 0, "refused");
    ends->end = end;
}

static void take_some(uint32_t count)
{
    uint32_t numbers[PACKETS], taken;
    CHECK(token_take(&segment, ROW, mark_of(&segment, LIVE_CONSUMER)), "not queued");
    taken = queue_pop_sc(&segment, mark_of(&segment, LIVE_CONSUMER), QUEUE, numbers, count, count);
    CHECK(taken == count, "%u taken", taken);
    for (uint32_t i = 0; i < taken; i++) {
        ledger->log[ledger->delivered++] = (uint8_t)segment.node[numbers[i]].length;
        node_bring_home(&segment, numbers[i]);
    }
    peer_give(&segment, ROW, 0);
}

/* The head is a real node and the stub is out of the list. */
static void before_no_stub(void)
{
    before_three();
    take_some(2);
}

/* The stub stands in the middle: a holder pushed it and died, then more came. */
static void before_stub_inside(void)
{
    struct queue_producers *ends = &segment.rows[ROW].ends[INBOUND];
    before_no_stub();
    uint32_t last = segment.rows[ROW].heads[INBOUND].head, stub = STUB_FIRST + QUEUE;
    ends->stub_next = ((ends->stub_next >> 32) + 1) << 32;
    segment.node[last].next |= stub;
    ends->end = (ends->stub_next & ~0xffffffffull) | stub;
    CHECK(chain_push(&other, LIVE_RECEIVER, 36, 2) == 0, "refused");
}

static void before_full(void)
{
    before_three();
    segment.rows[ROW].ends[INBOUND].produced += QUEUE_LIMIT;
}

static const struct scenario {
    const char *name;
    uint32_t dead;
    void (*before)(void);
    void (*child)(void);
} scenarios[] = {
    {"push one, empty", DEAD_RECEIVER, before_empty, child_push_one},
    {"push chain, empty", DEAD_RECEIVER, before_empty, child_push_chain},
    {"push chain, behind three", DEAD_RECEIVER, before_three, child_push_chain},
    {"push chain, end lags", DEAD_RECEIVER, before_lagging, child_push_chain},
    {"push chain, no stub", DEAD_RECEIVER, before_no_stub, child_push_chain},
    {"push chain, full", DEAD_RECEIVER, before_full, child_push_chain},
    {"push twice, empty", DEAD_RECEIVER, before_empty, child_push_twice},
    {"consume three", DEAD_CONSUMER, before_three, child_consume},
    {"consume three by two", DEAD_CONSUMER, before_three, child_consume_by_two},
    {"consume, end lags", DEAD_CONSUMER, before_lagging, child_consume},
    {"consume by two, end lags", DEAD_CONSUMER, before_lagging, child_consume_by_two},
    {"consume, no stub", DEAD_CONSUMER, before_no_stub, child_consume},
    {"consume, stub inside", DEAD_CONSUMER, before_stub_inside, child_consume},
    {"consume by two, stub inside", DEAD_CONSUMER, before_stub_inside, child_consume_by_two},
    {"consume, counted full", DEAD_CONSUMER, before_full, child_consume},
    {"lend, stub inside", DEAD_RECEIVER, before_stub_inside, child_lend},
};

static void log_check(uint32_t lost)
{
    uint8_t seen[256] = {0}, last[2] = {0};
    uint32_t missing = 0;
    for (uint32_t i = 0; i < ledger->delivered; i++) {
        uint8_t packet = ledger->log[i];
        CHECK(packet != 0 && packet < 2 * 33, "%s, step %u: packet %u", scenario, step, packet);
        CHECK(!seen[packet]++, "%s, step %u: packet %u twice", scenario, step, packet);
        CHECK(packet > last[packet / 33], "%s, step %u: packet %u after %u", scenario, step, packet,
              last[packet / 33]);
        last[packet / 33] = packet;
    }
    /* The live receiver pushed 33.. without gaps; its last packet tells how many. */
    for (uint32_t packet = 33; packet < 2 * 33; packet++)
        if (!seen[packet] && packet < 33 + ledger->pushed)
            missing++;
    for (uint32_t packet = 1; packet < last[0]; packet++)
        missing += !seen[packet];
    CHECK(missing <= lost, "%s, step %u: %u packets missing, %u counted as lost", scenario, step, missing, lost);
}

static void everything_is_home(void)
{
    struct pool again;
    const struct geometry *g = &segment.geometry;
    for (uint32_t number = 0; number < segment.pools; number++) {
        CHECK(pool_open(&again, &segment, number) == 0, "no memory");
        CHECK(again.free_nodes == g->nodes_a_pool && again.free_small == g->small_slots,
              "%s, step %u: pool %u has %u nodes and %u slots free", scenario, step, number, again.free_nodes,
              again.free_small);
        pool_close(&again);
    }
}

/* The child is dead, as far as the memory is concerned. */
static void aftermath(uint32_t dead, int live_first)
{
    struct repair repair;
    struct pool live;
    uint32_t numbers[1];
    if (live_first & 1) {
        CHECK(pool_open(&live, &segment, 2) == 0, "no memory");
        if (chain_push(&live, LIVE_RECEIVER, 33 + ledger->pushed, 2) == 0)
            ledger->pushed += 2;
        pool_close(&live);
    }
    if (live_first & 2)
        while (consumer_turn(LIVE_CONSUMER, 1, 1)) /* takes over the dead one's set */
            ;
    repair_worker(&segment, dead, &repair);
    world_check(&segment);
    if (!queue_is_empty(&segment, QUEUE))
        CHECK(token_read(&segment, ROW) == TOKEN_QUEUED, "%s, step %u: packets wait, the token is %#x", scenario,
              step, token_read(&segment, ROW));
    CHECK(repair.packets_lost <= 5, "%s, step %u: %u lost", scenario, step, repair.packets_lost);
    while (consumer_turn(LIVE_CONSUMER, 1, 2))
        ;
    CHECK(queue_is_empty(&segment, QUEUE), "%s, step %u: packets are left", scenario, step);
    CHECK(token_read(&segment, ROW) == TOKEN_IDLE, "%s, step %u: token %#x", scenario, step,
          token_read(&segment, ROW));
    CHECK(queue_pop_sc(&segment, 1, QUEUE, numbers, 1, 1) == 0 && queue_packets(&segment, QUEUE) == 0,
          "%s, step %u: counted %u, none there", scenario, step, queue_packets(&segment, QUEUE));
    log_check(repair.packets_lost);
    everything_is_home();
    world_check(&segment);
}

/* Runs one scenario to its end; the number of instructions, or 0 when stepping is not allowed. */
static uint32_t scenario_run(const struct scenario *run, int live_first)
{
    static const struct geometry geometry = {
        .max_peers = 64, .max_keypairs = 64, .max_receivers = 2, .max_consumers = 2, .nodes_a_pool = 12,
        .small_slots = 12, .train_slots = 0, .mailbox_cells = 4, .max_trie_nodes = 16, .public_key_buckets = 64};
    int status;
    scenario = run->name;
    step = 0;
    world_make(&segment, &geometry, ROW + 1);
    memset(ledger, 0, sizeof *ledger);
    segment.rows[ROW].consumer = 0;
    CHECK(pool_open(&pool, &segment, 0) == 0 && pool_open(&other, &segment, 2) == 0, "no memory");
    run->before();
    ledger->pushed = segment.rows[ROW].ends[INBOUND].produced % QUEUE_LIMIT;

    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(77);
        raise(SIGSTOP);
        run->child();
        _exit(0);
    }
    char *image = malloc(segment.bytes);
    struct ledger ledger_image;
    CHECK(child > 0 && image, "no child");
    for (;; step++) {
        CHECK(waitpid(child, &status, 0) == child, "waitpid: %s", strerror(errno));
        if (!WIFSTOPPED(status))
            break;
        segment_copy(image, segment.base);
        ledger_image = *ledger;
        aftermath(run->dead, live_first);
        segment_copy(segment.base, image);
        *ledger = ledger_image;
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0, "no step: %s", strerror(errno));
    }
    free(image);
    pool_close(&pool);
    pool_close(&other);
    munmap(segment.base, segment.bytes);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        return 0;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child ended with %#x", scenario, status);
    return step;
}

int main(void)
{
    uint64_t kills = 0;
#if !defined(__x86_64__)
    return 77; /* single steps break load-linked loops elsewhere */
#endif
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(ledger != MAP_FAILED, "no memory");
    alarm(120);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        for (int live_first = 0; live_first < 4; live_first++) {
            uint32_t steps = scenario_run(&scenarios[i], live_first);
            if (steps == 0)
                return 77;
            kills += steps;
        }
    printf("%llu kills in %zu scenarios: repaired, whole, in order, nothing twice\n", (unsigned long long)kills,
           sizeof scenarios / sizeof scenarios[0]);
    return 0;
}
