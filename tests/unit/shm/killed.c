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
        memcpy(image, segment.base, segment.bytes);
        ledger_image = *ledger;
        aftermath(run->dead, live_first);
        memcpy(segment.base, image, segment.bytes);
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
