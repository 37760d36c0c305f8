/* stalled: a receiver that stops after any instruction of a push, lives, and goes on much later.
 *
 * While it stands still the others push, drain and reuse the very same nodes several times over, so that
 * every word it has read is stale and every node that it knows has been somewhere else. Nobody
 * may have to wait for it, and when it goes on, its chain must come out once, whole, in order. This is
 * what the generations in the tagged words are for.
 *
 * The push runs under the processor's trap flag. After each instruction the handler forks: the copy, whose
 * memory is all its own, lets the others act, goes on without the flag and checks the outcome.
 *
 * usage: stalled        exit 77 on other processors than x86-64
 */
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "actors.h"

#define ROUNDS 4

static const struct scenario {
    const char *name;
    void (*before)(void);
    void (*child)(void);
} scenarios[] = {
    {"push one, empty", before_empty, child_push_one},
    {"push chain, behind three", before_three, child_push_chain},
    {"push chain, end lags", before_lagging, child_push_chain},
    {"push chain, no stub", before_no_stub, child_push_chain},
    {"push chain, stub inside", before_stub_inside, child_push_chain},
    {"push twice, empty", before_empty, child_push_twice},
};

static void drain_all(void)
{
    while (consumer_turn(LIVE_CONSUMER, 1, 3))
        ;
}

static void others_act(uint32_t *live_pushed)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t count = 1 + round % 3;
        while (pool_sweep(&other) != 0) /* the same nodes again, the last home first */
            ;
        CHECK(chain_push(&other, LIVE_RECEIVER, 33 + *live_pushed, count) == 0, "%s, step %u: refused", scenario,
              step);
        *live_pushed += count;
        drain_all();
    }
}

#if defined(__x86_64__)
#define TRAP_FLAG 0x100

static uint32_t live_pushed;
static volatile sig_atomic_t finished, is_copy;

static void on_instruction(int number, siginfo_t *info, void *context)
{
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    int status = -1;
    (void)number;
    (void)info;
    *flags = finished ? *flags & ~TRAP_FLAG : *flags | TRAP_FLAG;
    if (finished)
        return;
    step++;
    pid_t copy = fork();
    CHECK(copy >= 0, "no process");
    if (copy == 0) {
        alarm(30);
        is_copy = 1;
        *flags &= ~TRAP_FLAG;
        others_act(&live_pushed);
        return; /* and the push goes on */
    }
    CHECK(waitpid(copy, &status, 0) == copy && status == 0, "%s, step %u: see above", scenario, step);
}

static void outcome_check(void)
{
    world_check(&segment);
    drain_all();
    everything_is_quiet();
    uint32_t produced = segment.rows[ROW].ends[INBOUND].produced;
    uint32_t own = ledger->delivered - live_pushed, expected = produced - live_pushed;
    CHECK(log_missing(live_pushed) == 0 && own == expected && own != 0, "%s, step %u: %u of %u packets came", scenario,
          step, own, expected);
    everything_is_home();
}

static uint32_t scenario_run(const struct scenario *run)
{
    scenario = run->name;
    step = 0;
    world_begin(MAP_PRIVATE);
    run->before();
    live_pushed = segment.rows[ROW].ends[INBOUND].produced;
    finished = 0;
    raise(SIGTRAP);
    run->child();
    finished = 1;
    if (is_copy) {
        outcome_check();
        _exit(0);
    }
    world_end();
    return step;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_instruction, .sa_flags = SA_SIGINFO};
    uint32_t stalls = 0;
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0, "no handler");
    ledger = calloc(1, sizeof *ledger);
    CHECK(ledger, "no memory");
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        uint32_t steps = scenario_run(&scenarios[i]);
        CHECK(steps > 100, "%s: only %u steps", scenario, steps);
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
