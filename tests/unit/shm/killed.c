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
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "processes.h"
#include "shm/parts.h"

static void offer(uint32_t lender)
{
    for (uint32_t number = 0; number < 2; number++)
        part_offer(&segment, lender, number);
    parts_say_offering(&segment, lender, 1);
}

static void before_offered(void)
{
    before_empty();
    segment.workers[LIVE_RECEIVER].lends = segment.workers[DEAD_CONSUMER].lends = 1;
    offer(LIVE_RECEIVER);
}

static void before_lending(void)
{
    before_empty();
    segment.workers[DEAD_RECEIVER].lends = 1;
}

static void child_help(void)
{
    uint32_t lender, number;
    parts_say_helping(&segment, DEAD_CONSUMER, 1);
    while (part_take(&segment, mark_of(&segment, DEAD_CONSUMER), &lender, &number))
        part_done(&segment, lender, number);
    parts_say_helping(&segment, DEAD_CONSUMER, 0);
}

static void child_lend(void)
{
    if (!parts_are_free(&segment, DEAD_RECEIVER))
        _exit(3);
    offer(DEAD_RECEIVER);
    for (uint32_t number = 0; number < 2; number++)
        if (!part_take_back(&segment, DEAD_RECEIVER, number))
            _exit(4);
    parts_say_offering(&segment, DEAD_RECEIVER, 0);
}

/* After the repair: nothing of the dead is offered, its lender learns of each part, no hint names it. */
static void parts_are_mended(uint32_t dead)
{
    if (segment.workers[dead].lends) {
        CHECK(parts_are_free(&segment, dead), "%s, step %u: the dead one's parts", scenario, step);
        CHECK(segment.lending->helpers == 0, "%s, step %u: helpers %llx", scenario, step,
              (unsigned long long)segment.lending->helpers);
    }
    if (segment.workers[LIVE_RECEIVER].lends)
        for (uint32_t number = 0; number < 2; number++)
            CHECK(part_take_back(&segment, LIVE_RECEIVER, number) ||
                      part_read(&segment, LIVE_RECEIVER, number) != PART_TAKEN,
                  "%s, step %u: part %u is waited for", scenario, step, number);
}

static const struct scenario {
    const char *name;
    uint32_t dead;
    void (*before)(void);
    void (*child)(void);
} scenarios[] = {
    { "push one, empty", DEAD_RECEIVER, before_empty, child_push_one },
    { "push chain, empty", DEAD_RECEIVER, before_empty, child_push_chain },
    { "push chain, behind three", DEAD_RECEIVER, before_three, child_push_chain },
    { "push chain, end lags", DEAD_RECEIVER, before_lagging, child_push_chain },
    { "push chain, no stub", DEAD_RECEIVER, before_no_stub, child_push_chain },
    { "push chain, full", DEAD_RECEIVER, before_full, child_push_chain },
    { "push twice, empty", DEAD_RECEIVER, before_empty, child_push_twice },
    { "consume three", DEAD_CONSUMER, before_three, child_consume },
    { "consume three by two", DEAD_CONSUMER, before_three, child_consume_by_two },
    { "consume, end lags", DEAD_CONSUMER, before_lagging, child_consume },
    { "consume by two, end lags", DEAD_CONSUMER, before_lagging, child_consume_by_two },
    { "consume, no stub", DEAD_CONSUMER, before_no_stub, child_consume },
    { "consume, stub inside", DEAD_CONSUMER, before_stub_inside, child_consume },
    { "consume by two, stub inside", DEAD_CONSUMER, before_stub_inside, child_consume_by_two },
    { "consume, counted full", DEAD_CONSUMER, before_full, child_consume },
    { "give, more came", DEAD_CONSUMER, before_held, child_give },
    { "help with two", DEAD_CONSUMER, before_offered, child_help },
    { "lend two", DEAD_RECEIVER, before_lending, child_lend },
    { "inline, stub inside", DEAD_RECEIVER, before_stub_inside, child_inline },
};

/* The child is dead, as far as the memory is concerned. */
static void aftermath(uint32_t dead, int live_first)
{
    struct repair repair;
    struct pool live;
    uint32_t missing;
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
    parts_are_mended(dead);
    if (!queue_is_empty(&segment, QUEUE))
        CHECK(token_read(&segment, QUEUE) == TOKEN_QUEUED, "%s, step %u: packets wait, the token is %#x", scenario,
              step, token_read(&segment, QUEUE));
    CHECK(repair.packets_lost <= 5, "%s, step %u: %u lost", scenario, step, repair.packets_lost);
    while (consumer_turn(LIVE_CONSUMER, 1, 2))
        ;
    everything_is_quiet();
    missing = log_missing(ledger->pushed);
    CHECK(missing <= repair.packets_lost, "%s, step %u: %u packets missing, %u counted as lost", scenario, step,
          missing, repair.packets_lost);
    everything_is_home();
}

/* All but the rooms of lenders, which nobody uses here. */
static void memory_copy(char *to, const char *from)
{
    uint64_t rooms = segment.header->offset[REGION_PART_ROOMS], behind = segment.header->offset[REGION_PART_ROOMS + 1];
    memcpy(to, from, rooms);
    memcpy(to + behind, from + behind, segment.bytes - behind);
}

/* Runs one scenario to its end; the number of instructions, or 0 when stepping is not allowed. */
static uint32_t scenario_run(const struct scenario *run, int live_first)
{
    int status;
    scenario = run->name;
    step = 0;
    world_begin(MAP_SHARED, 64);
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
        memory_copy(image, segment.base);
        ledger_image = *ledger;
        aftermath(run->dead, live_first);
        memory_copy(segment.base, image);
        *ledger = ledger_image;
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0, "no step: %s", strerror(errno));
    }
    free(image);
    world_end();
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
